"""What the recipes of all agents that remember share: a trial is one stream of episodes, and its return is the goal."""

from __future__ import annotations

import dataclasses

from jaxmeta import checks, inner, nets, outer, rl
from jaxmeta.core.learner import MetaLearner
from jaxmeta.tasks.base import TaskFamily
from jaxmeta.types import Plan


@dataclasses.dataclass(frozen=True)
class WholeTrialsConfig:
    """The fields that every agent with a memory has."""

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
    separate_value: bool = False
    """Whether values come from a network of their own."""

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


def on_whole_trials(
    network: nets.Network,
    family: TaskFamily,
    config: WholeTrialsConfig,
    optimiser: outer.PolicyGradientConfig | outer.TrustRegionConfig,
) -> MetaLearner:
    """Trains a memory to maximise the return of whole trials, with a value function that looks across episodes.

    Args:
      optimiser: decides the outer loop. With trust regions the values come from a network of their own.
    """
    # what the rest of a trial is worth grows with its length. In units of that, targets are near one for short and for
    # long trials, and the values' gradient does not drown the policy's in the layers that they share
    scale = _effective_length(config.discount, config.length(family))
    network = nets.scale_value(network, scale)
    advantage = rl.value_baseline(config.discount, config.trace, across_episodes=True, normalize=False)
    by_trust_region = isinstance(optimiser, outer.TrustRegionConfig)
    if config.separate_value or by_trust_region:
        network = nets.separate_value(network, network)
    learner = inner.memory(network)
    if by_trust_region:
        return outer.trust_region(learner, family, config.plan(family), config.num_tasks, advantage, optimiser)
    optimiser = dataclasses.replace(optimiser, value_weight=optimiser.value_weight / scale**2)
    return outer.policy_gradient(learner, family, config.plan(family), config.num_tasks, advantage, optimiser)


def _effective_length(discount: float, length: int) -> float:
    """Returns the discounted return of a trial of `length` steps that pay 1 each."""
    return float(length) if discount == 1.0 else (1.0 - discount**length) / (1.0 - discount)
