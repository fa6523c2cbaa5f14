"""What the recipes of all agents that remember share: a trial is one stream of episodes, and its return is the goal."""

from __future__ import annotations

import dataclasses

from jaxmeta import inner, nets, outer, rl
from jaxmeta.config import checks
from jaxmeta.core.learner import MetaLearner
from jaxmeta.tasks.base import TaskFamily
from jaxmeta.types import Plan


@dataclasses.dataclass(frozen=True)
class TrialsConfig:
    """The fields of every agent that is trained on the return of whole trials."""

    episodes: int | None = None
    """Episodes per trial; by default what is usual for the task family."""
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
        """Lays a trial out: one stream, without adaptation between rounds."""
        return Plan(rounds=0, streams=1, episodes=self.episodes or family.episodes)

    def length(self, family: TaskFamily) -> int:
        """Counts the steps of a trial."""
        return self.plan(family).episodes * family.env.spec.horizon

    def advantage(self) -> rl.Estimator:
        """Returns the estimator of advantages: its values look across the episodes of a trial."""
        return rl.value_baseline(self.discount, self.trace, across_episodes=True, normalize=False)

    def value_scale(self, family: TaskFamily) -> float:
        """Returns the discounted return of a trial that pays 1 at every step.

        What the rest of a trial is worth grows with its length. In units of that, targets are near one for short and
        for long trials, and the values' gradient does not drown the policy's in the layers that they share.
        """
        return _effective_length(self.discount, self.length(family))


@dataclasses.dataclass(frozen=True)
class WholeTrialsConfig(TrialsConfig):
    """The fields that every agent with a memory has."""

    separate_value: bool = False
    """Whether values come from a network of their own."""


def on_whole_trials(
    network: nets.Network,
    family: TaskFamily,
    config: WholeTrialsConfig,
    optimiser: outer.ActorCriticConfig | outer.TrustRegionCriticConfig,
) -> MetaLearner:
    """Trains a memory to maximise the return of whole trials, with a value function that looks across episodes.

    Args:
      optimiser: decides the outer loop. With trust regions the values come from a network of their own.
    """
    scale = config.value_scale(family)
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
        spread, improve = config.num_tasks, outer.trust_region(learner, advantage, optimiser, critic=critic)
    else:
        optimiser.check_divides(config.num_tasks)
        spread = config.num_tasks // optimiser.minibatches
        improve = outer.policy_gradient(learner, advantage, scaled(optimiser, scale), critic=critic)
    return outer.meta_update(
        learner,
        plan,
        outer.uniform(family),
        outer.fresh(learner, family, plan),
        improve,
        outer.Info(config.num_tasks, plan, spread),
    )


def scaled(optimiser: outer.ActorCriticConfig, scale: float) -> outer.ActorCriticConfig:
    """Counts the errors of values in units of `scale`."""
    return dataclasses.replace(optimiser, value_weight=optimiser.value_weight / scale**2)


def _effective_length(discount: float, length: int) -> float:
    """Returns the discounted return of a trial of `length` steps that pay 1 each."""
    return float(length) if discount == 1.0 else (1.0 - discount**length) / (1.0 - discount)
