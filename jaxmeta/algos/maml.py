"""MAML: learn the params from which one policy-gradient step adapts best."""

from __future__ import annotations

import dataclasses
from typing import Literal

import optax

from jaxmeta import checks, inner, nets, outer, rl
from jaxmeta.core.learner import MetaLearner
from jaxmeta.tasks.base import TaskFamily
from jaxmeta.types import Plan

INNER_OBJECTIVES = {"ratio": rl.ratio, "log_prob": rl.log_prob, "dice": rl.dice}


@dataclasses.dataclass(frozen=True)
class MAMLConfig:
    """Model-agnostic meta-learning: adapt by policy-gradient steps (Finn et al., 2017, arXiv:1703.03400)."""

    inner_lr: float = 0.1
    """Step size of the adaptation."""
    later_lr_scale: float = 1.0
    """Factor on the step size of every adaptation after the first; the paper's evaluation on navigation takes 0.5."""
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
    inner_objective: Literal["ratio", "log_prob", "dice"] = "ratio"
    """Form of the inner loss; it decides the second derivative."""
    first_order: bool = False
    """Whether meta-gradients ignore how the adaptation depends on the params (FOMAML)."""
    discount: float = 0.99
    """γ of both loops."""
    trace: float = 1.0
    """λ of generalised advantage estimation, both loops."""
    outer_loop: Literal["trpo", "ppo", "vpg"] = "trpo"
    """Optimiser of the outer loop; vpg is the plain policy gradient, ppo without clipping and with one epoch."""
    trpo: outer.TrustRegionConfig = outer.TrustRegionConfig()
    """Used with `outer_loop` trpo."""
    ppo: outer.PolicyGradientConfig = outer.PolicyGradientConfig()
    """Used with `outer_loop` ppo, and with vpg for its step size."""

    def __post_init__(self):
        checks.finite(self)
        checks.not_negative(self, "inner_lr", "later_lr_scale", "rounds")
        checks.at_least_one(self, "num_tasks", "streams")
        checks.positive(self, "action_scale")
        checks.choice(self, "outer_loop", "trpo", "ppo", "vpg")
        checks.choice(self, "inner_objective", *INNER_OBJECTIVES)
        checks.fraction(self, "discount", "trace")
        checks.widths(self, "hidden")
        if self.outer_loop == "ppo":
            self.ppo.check_divides(self.num_tasks)


def maml(family: TaskFamily, config: MAMLConfig = MAMLConfig()) -> MetaLearner:
    """Builds MAML for reinforcement learning, with a linear baseline fitted per task and round.

    Every update: sample tasks; on each, roll out θ, take a policy-gradient step to θ', roll out θ'; move θ so that the
    returns of the θ' rise, through the step.
    """
    network = nets.actor_critic(
        family.env.spec, config.hidden, config.activation, config.init_log_std, config.action_scale
    )
    updater = inner.sgd(optax.piecewise_constant_schedule(config.inner_lr, {1: config.later_lr_scale}))
    if config.first_order:
        updater = inner.first_order(updater)
    advantage = rl.linear_baseline(config.discount, config.trace)
    learner = inner.gradient(inner.memory(network), INNER_OBJECTIVES[config.inner_objective], updater, advantage)
    plan = Plan(rounds=config.rounds, streams=config.streams)
    if config.outer_loop == "trpo":
        return outer.trust_region(learner, family, plan, config.num_tasks, advantage, config.trpo)
    plain = {"clip": None, "epochs": 1, "minibatches": 1} if config.outer_loop == "vpg" else {}
    ppo = dataclasses.replace(config.ppo, **plain)
    return outer.policy_gradient(learner, family, plan, config.num_tasks, advantage, ppo)
