"""SNAIL: convolutions and attention over all of the trial are the learning algorithm."""

from __future__ import annotations

import dataclasses

from jaxmeta import checks, inner, nets, outer, rl
from jaxmeta.core.learner import MetaLearner
from jaxmeta.tasks.base import TaskFamily
from jaxmeta.types import Plan


@dataclasses.dataclass(frozen=True)
class SNAILConfig:
    """SNAIL: adapt by convolution and attention over the trial (Mishra et al., 2018, arXiv:1707.03141)."""

    episodes: int | None = None
    """Episodes per trial; by default what is usual for the task family."""
    num_tasks: int = 1024
    """Trials per meta-update, each on a task of its own."""
    filters: int = 32
    """Channels that each causal convolution adds."""
    tc_blocks: int = 2
    """Temporal-convolution blocks below the attention."""
    key_size: int = 32
    """Width of the attention's keys and queries."""
    value_size: int = 32
    """Width of the attention's values."""
    init_log_std: float = 0.0
    """Log standard deviation of a continuous policy at the start."""
    discount: float = 0.99
    """γ, across the episodes of a trial."""
    trace: float = 0.3
    """λ of generalised advantage estimation."""
    ppo: outer.PolicyGradientConfig = outer.PolicyGradientConfig(
        learning_rate=1e-3, epochs=4, minibatches=4, value_weight=0.5, entropy_weight=0.005
    )
    """The outer loop; the paper's is TRPO."""

    def __post_init__(self):
        checks.finite(self)
        checks.at_least_one(self, "num_tasks", "filters", "tc_blocks", "key_size", "value_size", "episodes")
        checks.fraction(self, "discount", "trace")
        self.ppo.check_divides(self.num_tasks)


def snail(family: TaskFamily, config: SNAILConfig = SNAILConfig()) -> MetaLearner:
    """Builds SNAIL with PPO.

    As in RL², the policy sees the whole trial and maximises its return; but it looks back at every step of it, where
    a recurrent state would have to carry all that may be needed.
    """
    spec = family.env.spec
    plan = Plan(rounds=0, streams=1, episodes=config.episodes or family.episodes)
    network = nets.snail_actor_critic(
        spec,
        length=plan.episodes * spec.horizon,
        filters=config.filters,
        tc_blocks=config.tc_blocks,
        key_size=config.key_size,
        value_size=config.value_size,
        init_log_std=config.init_log_std,
    )
    advantage = rl.value_baseline(config.discount, config.trace, across_episodes=True, normalize=False)
    return outer.policy_gradient(inner.memory(network), family, plan, config.num_tasks, advantage, config.ppo)
