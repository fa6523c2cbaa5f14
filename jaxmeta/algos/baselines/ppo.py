"""PPO without adaptation, the baseline of meta-learning."""

from __future__ import annotations

import dataclasses
from typing import Literal

from jaxmeta import inner, nets, outer, rl
from jaxmeta.algos.recipe import on_fresh_trials, recipe
from jaxmeta.config import checks
from jaxmeta.core.learner import MetaLearner
from jaxmeta.tasks.base import TaskFamily
from jaxmeta.types import Plan


@dataclasses.dataclass(frozen=True)
class PPOConfig:
    """PPO on many tasks at once, without memory or adaptation (Schulman et al., 2017, arXiv:1707.06347)."""

    num_tasks: int = 64
    """Tasks per update."""
    streams: int = 8
    """Episodes per task, run in parallel."""
    hidden: tuple[int, ...] = (64, 64)
    """Widths of the hidden layers, of the policy and of the values."""
    activation: Literal["tanh", "relu", "swish"] = "tanh"
    """Nonlinearity of both."""
    init_log_std: float = 0.0
    """Log standard deviation of a continuous policy at the start."""
    action_scale: float = 1.0
    """Scale of the policy's actions, for environments whose actions are much smaller or larger than 1."""
    discount: float = 0.99
    """γ, within an episode."""
    trace: float = 0.95
    """λ of generalised advantage estimation."""
    normalize_observations: bool = False
    """Whether observations are normalised by running statistics, which only meta-training changes."""
    scale_rewards: bool = False
    """Whether the optimiser's rewards are divided by the running standard deviation of discounted returns. Rewards that
    the policy is conditioned on, and reported returns, are not."""
    ppo: outer.ActorCriticConfig = outer.ActorCriticConfig(
        learning_rate=1e-3, epochs=4, minibatches=4, value_weight=0.5, entropy_weight=0.005
    )
    """The optimiser."""

    def __post_init__(self):
        checks.finite(self)
        checks.at_least_one(self, "num_tasks", "streams")
        checks.positive(self, "action_scale")
        checks.fraction(self, "discount", "trace")
        checks.widths(self, "hidden")
        self.ppo.check_divides(self.num_tasks)


@recipe
def ppo(family: TaskFamily, config: PPOConfig = PPOConfig()) -> MetaLearner:
    """Builds PPO with one policy for all tasks.

    On a family as it is, this is the multi-task agent, whose policy is optimal on average over tasks. On
    `jm.tasks.reveal(family)`, or with `--reveal`, the policy is conditioned on the task: the oracle, an upper bound of
    every agent that must infer the task.
    """
    network = nets.actor_critic(
        family.env.spec, config.hidden, config.activation, config.init_log_std, config.action_scale, value=True
    )
    policy, plan = inner.policy(network), Plan(streams=config.streams)
    improve = outer.policy_gradient(policy, rl.value_baseline(config.discount, config.trace), config.ppo)
    if config.scale_rewards:
        improve = outer.with_scaled_rewards(improve, config.discount)
    parts = config.ppo.minibatches
    return on_fresh_trials(policy, family, plan, improve, config.num_tasks, parts, config.normalize_observations)
