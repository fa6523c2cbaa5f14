"""Shared parts of the algorithms that adapt by policy-gradient steps: policy, inner loss, plan and outer loops."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

from jaxmeta import inner, nets, outer, rl
from jaxmeta.algos.gradient.update_rule import DifferentiatedConfig, UpdateRuleConfig
from jaxmeta.algos.recipe import on_fresh_trials
from jaxmeta.config import checks
from jaxmeta.core.learner import Learner, MetaLearner
from jaxmeta.tasks.base import TaskFamily
from jaxmeta.types import Plan


@dataclasses.dataclass(frozen=True)
class AdaptationConfig(UpdateRuleConfig):
    """The fields of every agent that adapts by policy-gradient steps, whatever its outer loop."""

    rounds: int = 1
    """Adaptations per trial; each is on fresh data."""
    num_tasks: int = 20
    """Tasks per meta-update."""
    streams: int = 20
    """Episodes per task and round, run in parallel."""
    hidden: tuple[int, ...] = (64, 64)
    """Widths of the policy's hidden layers."""
    activation: Literal["tanh", "relu", "swish"] = "tanh"
    """Nonlinearity of the policy."""
    init_log_std: float = 0.0
    """Log standard deviation of the policy at the start."""
    action_scale: float = 1.0
    """Scale of the policy's actions, for environments whose actions are much smaller or larger than 1."""
    discount: float = 0.99
    """γ of both loops."""
    trace: float = 1.0
    """λ of generalised advantage estimation, both loops."""
    baseline: Literal["linear", "none"] = "linear"
    """Baseline of the returns in both loops: linear in features of time and observation, fitted per task and round,
    with standardised advantages; or none, which is unbiased and needs smaller steps."""
    normalize_observations: bool = False
    """Whether observations are normalised by running statistics, which only meta-training changes."""

    def __post_init__(self):
        super().__post_init__()
        checks.not_negative(self, "rounds")
        checks.at_least_one(self, "num_tasks", "streams")
        checks.positive(self, "action_scale")
        checks.fraction(self, "discount", "trace")
        checks.widths(self, "hidden")
        if self.baseline == "none" and self.trace != 1.0:
            raise ValueError(f"trace is {self.trace}; with baseline none it must be 1")

    def plan(self) -> Plan:
        """Returns the layout of a trial."""
        return Plan(rounds=self.rounds, streams=self.streams)

    def policy(self, family: TaskFamily) -> Learner:
        """Builds the adapted policy, without memory."""
        spec = family.env.spec
        if self.baseline == "linear":
            rl.check_linear_baseline(spec)
        return inner.policy(nets.actor_critic(spec, self.hidden, self.activation, self.init_log_std, self.action_scale))

    def objective(self) -> rl.Objective:
        """Returns the form of the inner loss."""
        return rl.ratio

    def problem(self, family: TaskFamily) -> tuple[Learner, inner.Loss]:
        """Builds the adapted policy and the inner loss of a round."""
        policy = self.policy(family)
        return policy, inner.policy_loss(policy, self.objective(), self.advantage())

    def advantage(self) -> rl.Estimator:
        """Returns the advantage estimator of both loops."""
        if self.baseline == "none":
            return rl.plain_returns(self.discount)
        return rl.linear_baseline(self.discount, self.trace)


@dataclasses.dataclass(frozen=True)
class OuterLoopConfig(AdaptationConfig):
    """The fields of every agent whose outer loop follows the policy gradient of the adapted policies."""

    max_task_gradient: float | None = None
    """Masks tasks whose meta-gradient norm exceeds this threshold or is not finite. The log has the share of masked
    tasks, `masked_tasks`. With None no task is masked."""
    outer_loop: Literal["trpo", "ppo", "vpg"] = "trpo"
    """Optimiser of the outer loop; vpg is the plain policy gradient, ppo without clipping and with one epoch."""
    trpo: outer.TrustRegionConfig = outer.TrustRegionConfig()
    """Used with `outer_loop` trpo."""
    ppo: outer.PolicyGradientConfig = outer.PolicyGradientConfig()
    """Used with `outer_loop` ppo, and with vpg for its step size."""

    def __post_init__(self):
        super().__post_init__()
        checks.positive(self, "max_task_gradient")
        if self.outer_loop == "ppo":
            self.ppo.check_divides(self.num_tasks)

    def meta_train(self, learner: Learner, family: TaskFamily, credit: outer.Credit = outer.no_credit) -> MetaLearner:
        """Builds the meta-learner that improves the params by the policy gradient of the last round.

        Args:
          credit: weights of E-MAML's sampling correction, such as `outer.standardized_credit`; by default none.
        """
        options: dict[str, Any] = {"credit": credit, "aggregate": aggregate(self.max_task_gradient)}
        if self.outer_loop == "trpo":
            improve, parts = outer.trust_region(learner, self.advantage(), self.trpo, **options), 1
        else:
            plain = {"clip": None, "epochs": 1, "minibatches": 1} if self.outer_loop == "vpg" else {}
            ppo = dataclasses.replace(self.ppo, **plain)
            improve, parts = outer.policy_gradient(learner, self.advantage(), ppo, **options), ppo.minibatches
        return on_fresh_trials(
            learner, family, self.plan(), improve, self.num_tasks, parts, self.normalize_observations
        )


@dataclasses.dataclass(frozen=True)
class SecondOrderConfig(OuterLoopConfig, DifferentiatedConfig):
    """The fields of every agent whose meta-gradient goes through policy-gradient steps."""

    inner_objective: Literal["ratio", "log_prob", "dice"] = "ratio"
    """Form of the inner loss; it decides the second derivative."""
    dice_decay: float = 1.0
    """With dice, λ of Loaded DiCE: the discount per step of the effect of earlier actions; 1 is DiCE."""

    def __post_init__(self):
        super().__post_init__()
        checks.fraction(self, "dice_decay")
        if self.dice_decay != 1.0 and self.inner_objective != "dice":
            raise ValueError(f"dice_decay is {self.dice_decay}; it needs inner_objective dice")
        if self.backward == "mixed" and self.outer_loop == "trpo":
            remedy = "trpo also differentiates forwards (try rematerialised, or outer_loop ppo)"
            raise ValueError(f"backward is 'mixed'; {remedy}")

    def objective(self) -> rl.Objective:
        """Returns the form of the inner loss."""
        forms = {"ratio": rl.ratio, "log_prob": rl.log_prob, "dice": rl.loaded_dice(self.dice_decay)}
        return forms[self.inner_objective]


def aggregate(max_task_gradient: float | None) -> outer.Aggregate:
    """Returns the mean of the tasks' gradients, masking norms above a threshold if one is given."""
    return outer.mean() if max_task_gradient is None else outer.masked(max_task_gradient)
