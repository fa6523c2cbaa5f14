"""Learning to reinforcement learn: an LSTM trained by advantage actor-critic becomes a learning algorithm."""

from __future__ import annotations

import dataclasses

from jaxmeta import nets, outer
from jaxmeta.algos.memory.whole_trials import WholeTrialsConfig, on_whole_trials
from jaxmeta.algos.recipe import recipe
from jaxmeta.config import checks
from jaxmeta.core.learner import MetaLearner
from jaxmeta.tasks.base import TaskFamily


@dataclasses.dataclass(frozen=True)
class L2RLConfig(WholeTrialsConfig):
    """L2RL: an LSTM trained by advantage actor-critic (Wang et al., 2016, arXiv:1611.05763)."""

    num_tasks: int = 256
    """Trials per meta-update, each on a task of its own."""
    hidden: int = 48
    """Size of the recurrent state."""
    discount: float = 0.9
    """γ, across the episodes of a trial."""
    trace: float = 1.0
    """λ of generalised advantage estimation; with 1, advantages are Monte-Carlo returns minus values."""
    learning_rate: float = 5e-3
    """Adam's step size; the paper takes RMSProp."""
    value_weight: float = 2.0
    """Weight of the value loss, with values in units of the discounted length of a trial."""
    entropy_weight: float = 0.01
    """Weight of the entropy bonus; the paper anneals it to zero."""
    max_grad_norm: float = 0.5
    """Gradients are clipped to this global norm."""

    def __post_init__(self):
        super().__post_init__()
        checks.at_least_one(self, "hidden")
        checks.positive(self, "learning_rate", "max_grad_norm")
        checks.not_negative(self, "value_weight", "entropy_weight")


@recipe
def l2rl(family: TaskFamily, config: L2RLConfig = L2RLConfig()) -> MetaLearner:
    """Builds L2RL (Wang et al., 2016, arXiv:1611.05763): one actor-critic gradient step per batch of trials.

    Previous action and reward are inputs, and the LSTM's state persists across the trial. The weights are trained
    slowly, over many tasks; the state adapts quickly, within each task.
    """
    network = nets.recurrent_actor_critic(
        family.env.spec, "lstm", config.hidden, config.init_log_std, config.length(family)
    )
    # one pass without clipping: at the params that collected, the ratio's gradient is that of the log-probability
    actor_critic = outer.ActorCriticConfig(
        learning_rate=config.learning_rate,
        epochs=1,
        minibatches=1,
        clip=None,
        value_weight=config.value_weight,
        entropy_weight=config.entropy_weight,
        max_grad_norm=config.max_grad_norm,
    )
    return on_whole_trials(network, family, config, actor_critic)
