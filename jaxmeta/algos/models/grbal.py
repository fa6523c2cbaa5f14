"""GrBAL: a model that adapts to the last transitions by a gradient step, at every step, for planning."""

from __future__ import annotations

import dataclasses

from jaxmeta import inner, nets
from jaxmeta.algos.models.online import OnlineConfig
from jaxmeta.algos.recipe import recipe
from jaxmeta.config import checks
from jaxmeta.core.learner import MetaLearner
from jaxmeta.tasks.base import TaskFamily


@dataclasses.dataclass(frozen=True)
class GrBALConfig(OnlineConfig):
    """GrBAL: a model that adapts online by gradient steps (Nagabandi et al., 2019, arXiv:1803.11347)."""

    inner_lr: float = 0.01
    """Step size of the adaptation; 0.001 in the paper, not learned."""
    learned_rates: bool = True
    """Whether every param of the model has a meta-learned step size, initially `inner_lr`."""
    inner_steps: int = 1
    """Gradient steps on the window, at every step of a stream; 0 is a model that does not adapt."""

    def __post_init__(self):
        super().__post_init__()
        checks.not_negative(self, "inner_lr", "inner_steps")


@recipe
def grbal(family: TaskFamily, config: GrBALConfig = GrBALConfig()) -> MetaLearner:
    """Builds GrBAL (Nagabandi et al., 2019, arXiv:1803.11347).

    At every step the agent takes a gradient step from the meta-learned model down its error on the last M transitions,
    and plans with the adapted model. An update collects streams with this agent and stores them. The model is then
    meta-trained on windows of all stored streams: adapted to M transitions, it must predict the next K. The gradient
    goes through the adaptation, second-order terms included. Planning is MPPI by default; the paper shoots at random.

    Raises:
      ValueError: if the observation is not a float32 vector, the planner needs another kind of actions, a plan is
        longer than an episode, a window is longer than a stream, or the replay buffer is too small.
    """
    return config.meta_train(family, model(family, config))


def model(family: TaskFamily, config: GrBALConfig) -> inner.OnlineModel:
    """Builds the model of `grbal`."""
    dynamics = nets.gaussian_dynamics(
        *config.sizes(family), config.hidden, probabilistic=False, activation=config.activation
    )
    updater = inner.per_parameter(config.inner_lr) if config.learned_rates else inner.sgd(config.inner_lr)
    return inner.by_gradient(dynamics, config.windows.past, updater, config.inner_steps)
