"""What the recipes of all agents that adapt by policy-gradient steps share: policy, plan, baseline and outer loops."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

from jaxmeta import inner, nets, outer, rl
from jaxmeta.algos.gradient.update_rule import UpdateRuleConfig
from jaxmeta.config import checks
from jaxmeta.core.learner import Learner, MetaLearner
from jaxmeta.tasks.base import TaskFamily
from jaxmeta.types import Plan

NO_VALUES = "the policy predicts no values"


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
    """Size of an action of 1 in the policy's own units, for environments whose actions are much smaller or larger."""
    discount: float = 0.99
    """γ of both loops."""
    trace: float = 1.0
    """λ of generalised advantage estimation, both loops."""
    baseline: Literal["linear", "none"] = "linear"
    """What returns are compared with in both loops: a linear function of time, fitted per task and round, after which
    advantages are standardised; or nothing, which is unbiased, and needs smaller steps."""

    def __post_init__(self):
        super().__post_init__()
        checks.not_negative(self, "rounds")
        checks.at_least_one(self, "num_tasks", "streams")
        checks.positive(self, "action_scale")
        checks.fraction(self, "discount", "trace")
        checks.choice(self, "baseline", "linear", "none")
        checks.widths(self, "hidden")
        checks.choice(self, "activation", *nets.ACTIVATIONS)
        if self.baseline == "none" and self.trace != 1.0:
            raise ValueError(f"trace is {self.trace}; it is that of a baseline, so with baseline none it is 1")

    def plan(self) -> Plan:
        """Lays a trial out."""
        return Plan(rounds=self.rounds, streams=self.streams)

    def policy(self, family: TaskFamily) -> Learner:
        """Builds what adapts: a policy without memory."""
        spec = family.env.spec
        if self.baseline == "linear":
            rl.check_linear_baseline(spec)
        return inner.policy(nets.actor_critic(spec, self.hidden, self.activation, self.init_log_std, self.action_scale))

    def advantage(self) -> rl.Estimator:
        """Returns the estimator of both loops."""
        if self.baseline == "none":
            return rl.plain_returns(self.discount)
        return rl.linear_baseline(self.discount, self.trace)


@dataclasses.dataclass(frozen=True)
class GradientStepsConfig(AdaptationConfig):
    """The fields of every agent whose outer loop follows a policy gradient through the adaptation."""

    inner_objective: Literal["ratio", "log_prob", "dice"] = "ratio"
    """Form of the inner loss; it decides the second derivative."""
    dice_decay: float = 1.0
    """With dice, λ of its loaded form: how much an action still counts for the reward of a step later; 1 is DiCE."""
    first_order: bool = False
    """Whether meta-gradients ignore how the adaptation depends on the params (FOMAML)."""
    sampling_weight: float = 0.0
    """Weight of the credit for the data that was adapted on (E-MAML): 1 takes its mean over the streams of a round, and
    `streams` their sum, as the full gradient does, at a much higher variance."""
    max_task_gradient: float | None = None
    """Tasks whose own meta-gradient is longer than this, or not finite, are left out of an update; `masked_tasks` in
    the log is their share. None trusts all."""
    outer_loop: Literal["trpo", "ppo", "vpg"] = "trpo"
    """Optimiser of the outer loop; vpg is the plain policy gradient, ppo without clipping and with one epoch."""
    trpo: outer.TrustRegionConfig = outer.TrustRegionConfig()
    """Used with `outer_loop` trpo."""
    ppo: outer.PolicyGradientConfig = outer.PolicyGradientConfig()
    """Used with `outer_loop` ppo, and with vpg for its step size."""

    def __post_init__(self):
        super().__post_init__()
        checks.not_negative(self, "sampling_weight")
        checks.positive(self, "max_task_gradient")
        checks.choice(self, "outer_loop", "trpo", "ppo", "vpg")
        checks.choice(self, "inner_objective", "ratio", "log_prob", "dice")
        checks.fraction(self, "dice_decay")
        if self.outer_loop == "ppo":
            self.ppo.check_divides(self.num_tasks)
        self._check_used()

    def _check_used(self) -> None:
        """Raises a ValueError where one field makes another without effect, or would count something twice."""
        for wrong, field, remedy in (
            (self.dice_decay != 1.0 and self.inner_objective != "dice", "dice_decay", "it needs inner_objective dice"),
            (
                self.sampling_weight and self.inner_objective != "log_prob",
                "sampling_weight",
                f"{self.inner_objective} has a part of that credit already, so it needs inner_objective log_prob",
            ),
            (
                self.sampling_weight and self.baseline == "linear" and self.num_tasks == 1,
                "num_tasks",
                "the credit of sampling_weight is compared with that of other tasks, so it needs at least 2",
            ),
            (
                self.backward != "plain" and self.first_order,
                "backward",
                "to first order no derivative is taken through the steps, so it is plain",
            ),
            (
                self.backward == "mixed" and self.outer_loop == "trpo",
                "backward",
                "trpo also differentiates forwards (try rematerialised, or outer_loop ppo)",
            ),
        ):
            if wrong:
                raise ValueError(f"{field} is {getattr(self, field)!r}; {remedy}")
        if self.ppo.value_weight:
            raise ValueError(f"ppo.value_weight is {self.ppo.value_weight}; {NO_VALUES}, so it is 0")
        if self.trpo.value_steps:
            raise ValueError(f"trpo.value_steps is {self.trpo.value_steps}; {NO_VALUES}, so it is 0")
        if self.ppo.kl_target is not None and self.outer_loop != "ppo":
            raise ValueError(f"ppo.kl_target is {self.ppo.kl_target}; the penalty needs outer_loop ppo")

    def objective(self) -> rl.Objective:
        """Returns the inner loss."""
        forms = {"ratio": rl.ratio, "log_prob": rl.log_prob, "dice": rl.loaded_dice(self.dice_decay)}
        return forms[self.inner_objective]

    def credit(self) -> outer.Credit:
        """Returns what an agent is credited with for the data that it adapted on, in the unit of the advantages."""
        weight = self.sampling_weight / self.streams
        if not weight:
            return outer.no_credit
        if self.baseline == "none":
            return outer.unbiased_credit(self.advantage(), weight, self.num_tasks)
        return outer.standardized_credit(self.advantage(), weight)


def by_gradient_steps(
    policy: Learner,
    updater: inner.Updater,
    family: TaskFamily,
    config: GradientStepsConfig,
    zero_at_start: tuple[str, ...] = (),
) -> MetaLearner:
    """Meta-trains a policy that an update rule adapts, with what the config asks for around the rule.

    Args:
      zero_at_start: see `inner.descent`.
    """
    updater = inner.first_order(updater) if config.first_order else updater
    loss = inner.policy_loss(policy, config.objective(), config.advantage())
    return improved(config.adapting(policy, loss, updater, zero_at_start), family, config)


def improved(learner: Learner, family: TaskFamily, config: GradientStepsConfig) -> MetaLearner:
    """Puts the outer loop that the config names around an agent."""
    plan, info = config.plan(), outer.Info(config.num_tasks, config.plan(), spread=config.num_tasks)
    aggregate = outer.mean() if config.max_task_gradient is None else outer.masked(config.max_task_gradient)
    options: dict[str, Any] = {"credit": config.credit(), "aggregate": aggregate}
    if config.outer_loop == "trpo":
        improve = outer.trust_region(learner, config.advantage(), config.trpo, **options)
    else:
        plain = {"clip": None, "epochs": 1, "minibatches": 1} if config.outer_loop == "vpg" else {}
        ppo = dataclasses.replace(config.ppo, **plain)
        improve = outer.policy_gradient(learner, config.advantage(), ppo, rounds=config.rounds, **options)
        info = dataclasses.replace(info, spread=config.num_tasks // ppo.minibatches)
    return outer.meta_update(learner, plan, outer.uniform(family), outer.fresh(learner, family, plan), improve, info)
