"""Recipes of agents with memory: a trial is one stream of episodes, and the objective is its return."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax.numpy as jnp
from jax.core import Tracer

from jaxmeta import inner, nets, outer, rl
from jaxmeta.algos.recipe import on_fresh_trials
from jaxmeta.config import checks
from jaxmeta.core.learner import MetaLearner
from jaxmeta.tasks.base import TaskFamily
from jaxmeta.types import Plan


@dataclasses.dataclass(frozen=True)
class TrialsConfig:
    """Fields of every agent that is trained on the return of whole trials."""

    episodes: int | None = None
    """Episodes per trial; by default that of the task family."""
    num_tasks: int = 1024
    """Trials per meta-update, each on a task of its own."""
    init_log_std: float = 0.0
    """Log standard deviation of a continuous policy at the start."""
    discount: float = 0.99
    """γ, across the episodes of a trial."""
    trace: float = 0.9
    """λ of generalised advantage estimation; 0.3 in the paper of RL²."""

    def __post_init__(self):
        checks.finite(self)
        checks.at_least_one(self, "num_tasks", "episodes")
        checks.fraction(self, "discount", "trace")

    def plan(self, family: TaskFamily) -> Plan:
        """Returns the layout of a trial: one stream, without adaptation between rounds."""
        return Plan(rounds=0, streams=1, episodes=self.episodes or family.episodes)

    def length(self, family: TaskFamily) -> int:
        """Returns the number of steps of a trial."""
        return self.plan(family).episodes * family.env.spec.horizon

    def advantage(self) -> rl.Estimator:
        """Returns the advantage estimator, which bootstraps across the episodes of a trial."""
        return rl.value_baseline(self.discount, self.trace, across_episodes=True, normalize=False)

    def value_scale(self, family: TaskFamily) -> float:
        """Returns the discounted return of a trial with reward 1 at every step.

        Values are divided by it, so that targets are near one for short and for long trials and the gradient of the
        value loss does not dominate that of the policy in shared layers.
        """
        return _effective_length(self.discount, self.length(family))


@dataclasses.dataclass(frozen=True)
class WholeTrialsConfig(TrialsConfig):
    """Fields of every agent with memory."""

    separate_value: bool = False
    """Whether values have a separate network."""
    normalize_observations: bool = False
    """Whether observations are normalised by running statistics, which only meta-training changes."""
    scale_rewards: bool = False
    """Whether the optimiser's rewards are divided by the running standard deviation of discounted returns. Rewards that
    the policy is conditioned on, and reported returns, are not."""


def on_whole_trials(
    network: nets.Network,
    family: TaskFamily,
    config: WholeTrialsConfig,
    optimiser: outer.ActorCriticConfig | outer.TrustRegionCriticConfig,
) -> MetaLearner:
    """Trains a sequence model to maximise the return of whole trials.

    Args:
      optimiser: decides the outer loop. With trust regions the values have a separate network.
    """
    # scaled rewards have returns near one already
    scale = 1.0 if config.scale_rewards else config.value_scale(family)
    network = nets.scale_value(network, scale)
    by_trust_region = isinstance(optimiser, outer.TrustRegionCriticConfig)
    if config.separate_value or by_trust_region:
        network = nets.separate_value(network, network)
    learner, critic, plan, advantage = (
        inner.memory(network),
        inner.critic(network),
        config.plan(family),
        config.advantage(),
    )
    if by_trust_region:
        parts, improve = 1, outer.trust_region(learner, advantage, optimiser, critic=critic)
    else:
        optimiser.check_divides(config.num_tasks)
        parts = optimiser.minibatches
        improve = outer.policy_gradient(learner, advantage, scaled(optimiser, scale), critic=critic)
    if config.scale_rewards:
        improve = outer.with_scaled_rewards(improve, config.discount, across_episodes=True)
    return on_fresh_trials(learner, family, plan, improve, config.num_tasks, parts, config.normalize_observations)


def scaled(optimiser: outer.ActorCriticConfig, scale: float) -> outer.ActorCriticConfig:
    """Measures value errors in units of `scale`."""
    return dataclasses.replace(optimiser, value_weight=optimiser.value_weight / scale**2)


def _effective_length(discount: float, length: int) -> Any:
    """Returns the discounted return of `length` rewards of 1."""
    if isinstance(discount, Tracer):  # one of several discounts that are trained side by side
        return jnp.sum(discount ** jnp.arange(length))
    return float(length) if discount == 1.0 else (1.0 - discount**length) / (1.0 - discount)
