"""What the recipes of all agents that adapt by policy-gradient steps share: policy, plan, baseline and outer loops."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import optax

from jaxmeta import checks, inner, nets, outer, rl
from jaxmeta.core.learner import Learner, MetaLearner
from jaxmeta.tasks.base import TaskFamily
from jaxmeta.types import Plan


@dataclasses.dataclass(frozen=True)
class AdaptationConfig:
    """The fields of every agent that adapts by policy-gradient steps, whatever its outer loop."""

    inner_lr: float = 0.1
    """Step size of the adaptation."""
    inner_optimizer: Literal["sgd", "adam"] = "sgd"
    """What takes the steps of the adaptation, where the algorithm leaves it open; its state lives for one task."""
    later_lr_scale: float = 1.0
    """Factor on the step size of every adaptation after the first; the paper's evaluation on navigation takes 0.5."""
    max_inner_step: float | None = None
    """Longest step of an adaptation, in the norm over all params; `bounded_steps` in the log is the share of those that
    were longer. None has no bound."""
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

    def __post_init__(self):
        checks.finite(self)
        checks.not_negative(self, "inner_lr", "later_lr_scale", "rounds")
        checks.at_least_one(self, "num_tasks", "streams")
        checks.positive(self, "action_scale", "max_inner_step")
        checks.choice(self, "inner_optimizer", "sgd", "adam")
        checks.fraction(self, "discount", "trace")
        checks.widths(self, "hidden")

    def plan(self) -> Plan:
        """Lays a trial out."""
        return Plan(rounds=self.rounds, streams=self.streams)

    def policy(self, family: TaskFamily) -> Learner:
        """Builds what adapts: a policy without memory."""
        spec = family.env.spec
        return inner.memory(nets.actor_critic(spec, self.hidden, self.activation, self.init_log_std, self.action_scale))

    def rule(self) -> inner.Updater:
        """Builds the plain update rule, which the algorithms start from."""
        step_size = optax.piecewise_constant_schedule(self.inner_lr, {1: self.later_lr_scale})
        return {"sgd": inner.sgd, "adam": inner.adam}[self.inner_optimizer](step_size)

    def within_bounds(self, updater: inner.Updater) -> inner.Updater:
        """Puts the bound on the length of a step around an update rule, if there is one."""
        return updater if self.max_inner_step is None else inner.bounded(updater, self.max_inner_step)

    def advantage(self) -> rl.Estimator:
        """Returns the estimator of both loops: a linear baseline, fitted per task and round."""
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

    def objective(self) -> rl.Objective:
        """Returns the inner loss."""
        forms = {"ratio": rl.ratio, "log_prob": rl.log_prob, "dice": rl.loaded_dice(self.dice_decay)}
        return forms[self.inner_objective]


def by_gradient_steps(
    policy: Learner,
    updater: inner.Updater,
    family: TaskFamily,
    config: GradientStepsConfig,
    anew: tuple[str, ...] = (),
) -> MetaLearner:
    """Meta-trains a policy that an update rule adapts, with what the config asks for around the rule.

    Args:
      anew: see `inner.gradient`.
    """
    updater = config.within_bounds(inner.first_order(updater) if config.first_order else updater)
    return improved(inner.gradient(policy, config.objective(), updater, config.advantage(), anew), family, config)


def improved(learner: Learner, family: TaskFamily, config: GradientStepsConfig) -> MetaLearner:
    """Puts the outer loop that the config names around an agent."""
    shared = (learner, family, config.plan(), config.num_tasks, config.advantage())
    options: dict[str, Any] = {
        "sampling_correction": config.sampling_weight / config.streams,
        "max_task_gradient": config.max_task_gradient,
    }
    if config.outer_loop == "trpo":
        return outer.trust_region(*shared, config.trpo, **options)
    plain = {"clip": None, "epochs": 1, "minibatches": 1} if config.outer_loop == "vpg" else {}
    return outer.policy_gradient(*shared, dataclasses.replace(config.ppo, **plain), **options)
