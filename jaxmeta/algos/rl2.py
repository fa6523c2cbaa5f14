"""RL²: a recurrent policy is the learning algorithm."""

from __future__ import annotations

import dataclasses
from typing import Literal

from jaxmeta import checks, inner, nets, outer, rl
from jaxmeta.core.learner import MetaLearner
from jaxmeta.tasks.base import TaskFamily
from jaxmeta.types import Plan


@dataclasses.dataclass(frozen=True)
class RL2Config:
    """RL²: adapt in the hidden state of a recurrent policy (Duan et al., 2016, arXiv:1611.02779)."""

    episodes: int | None = None
    """Episodes per trial; by default what is usual for the task family."""
    num_tasks: int = 1024
    """Trials per meta-update, each on a task of its own."""
    cell: Literal["gru", "lstm", "lru"] = "gru"
    """Recurrent state; lru is linear recurrences, which train in parallel over time: for long trials."""
    hidden: int = 64
    """Size of the recurrent state."""
    init_log_std: float = 0.0
    """Log standard deviation of a continuous policy at the start."""
    discount: float = 0.99
    """γ, across the episodes of a trial."""
    trace: float = 0.3
    """λ of generalised advantage estimation."""
    ppo: outer.PolicyGradientConfig = outer.PolicyGradientConfig(
        learning_rate=2e-3, epochs=4, minibatches=4, value_weight=0.5, entropy_weight=0.005
    )
    """The outer loop."""

    def __post_init__(self):
        checks.finite(self)
        checks.at_least_one(self, "num_tasks", "hidden", "episodes")
        checks.fraction(self, "discount", "trace")
        self.ppo.check_divides(self.num_tasks)


def rl2(family: TaskFamily, config: RL2Config = RL2Config()) -> MetaLearner:
    """Builds RL² with PPO.

    A trial is several episodes on one task. The hidden state lives through all of them, and the policy maximises the
    return of the whole trial: exploring early pays if it helps later.
    """
    network = nets.recurrent_actor_critic(family.env.spec, config.cell, config.hidden, config.init_log_std)
    plan = Plan(rounds=0, streams=1, episodes=config.episodes or family.episodes)
    advantage = rl.value_baseline(config.discount, config.trace, across_episodes=True, normalize=False)
    return outer.policy_gradient(inner.memory(network), family, plan, config.num_tasks, advantage, config.ppo)
