"""Learning to reinforcement learn: an LSTM trained by advantage actor-critic becomes a learning algorithm."""

from __future__ import annotations

import dataclasses

from jaxmeta import checks, inner, nets, outer, rl
from jaxmeta.core.learner import MetaLearner
from jaxmeta.tasks.base import TaskFamily
from jaxmeta.types import Plan


@dataclasses.dataclass(frozen=True)
class L2RLConfig:
    """L2RL: an LSTM trained by advantage actor-critic (Wang et al., 2016, arXiv:1611.05763)."""

    episodes: int | None = None
    """Episodes per trial; by default what is usual for the task family."""
    num_tasks: int = 256
    """Trials per meta-update, each on a task of its own."""
    hidden: int = 48
    """Size of the recurrent state."""
    init_log_std: float = 0.0
    """Log standard deviation of a continuous policy at the start."""
    discount: float = 0.9
    """γ, across the episodes of a trial."""
    trace: float = 1.0
    """λ of generalised advantage estimation; with 1 it is the return of the rest of the trial less the value."""
    learning_rate: float = 5e-3
    """Adam's step size; the paper takes RMSProp."""
    value_weight: float = 0.05
    """Weight of the value loss."""
    entropy_weight: float = 0.01
    """Weight of the entropy bonus; the paper lets it fall to zero."""
    max_grad_norm: float = 0.5
    """Gradients longer than this are scaled down to it."""

    def __post_init__(self):
        checks.finite(self)
        checks.at_least_one(self, "num_tasks", "hidden", "episodes")
        checks.fraction(self, "discount", "trace")
        checks.positive(self, "learning_rate", "max_grad_norm")
        checks.not_negative(self, "value_weight", "entropy_weight")


def l2rl(family: TaskFamily, config: L2RLConfig = L2RLConfig()) -> MetaLearner:
    """Builds L2RL: one gradient step per batch of trials, on policy, value and entropy together.

    Previous action and reward are inputs, the LSTM's state lives through the trial: the weights learn slowly, by
    actor-critic, what the state then does quickly, on each task.
    """
    network = nets.recurrent_actor_critic(family.env.spec, "lstm", config.hidden, config.init_log_std)
    plan = Plan(rounds=0, streams=1, episodes=config.episodes or family.episodes)
    advantage = rl.value_baseline(config.discount, config.trace, across_episodes=True, normalize=False)
    # one pass without clipping: at the params that collected, the ratio's gradient is that of the log-probability
    actor_critic = outer.PolicyGradientConfig(
        learning_rate=config.learning_rate,
        epochs=1,
        minibatches=1,
        clip=None,
        value_weight=config.value_weight,
        entropy_weight=config.entropy_weight,
        max_grad_norm=config.max_grad_norm,
    )
    return outer.policy_gradient(inner.memory(network), family, plan, config.num_tasks, advantage, actor_critic)
