"""ReBAL: a model that is conditioned on a recurrent state of all transitions of a stream, for planning."""

from __future__ import annotations

import dataclasses
from typing import Literal

from jaxmeta import inner, nets
from jaxmeta.algos.models.online import OnlineConfig
from jaxmeta.algos.recipe import recipe
from jaxmeta.config import checks
from jaxmeta.core.learner import MetaLearner
from jaxmeta.tasks.base import TaskFamily


@dataclasses.dataclass(frozen=True)
class ReBALConfig(OnlineConfig):
    """ReBAL: a model that adapts online by a recurrent state (Nagabandi et al., 2019, arXiv:1803.11347)."""

    cell: Literal["gru", "lstm"] = "gru"
    """Recurrent cell that reads the transitions; lstm in the paper."""
    state: int = 32
    """Size of its state; 256 in the paper."""

    def __post_init__(self):
        super().__post_init__()
        checks.at_least_one(self, "state")


@recipe
def rebal(family: TaskFamily, config: ReBALConfig = ReBALConfig()) -> MetaLearner:
    """Builds ReBAL (Nagabandi et al., 2019, arXiv:1803.11347).

    It is GrBAL with another adaptation: a recurrent cell reads every transition of the stream, and the model is
    conditioned on its state. Meta-training is on windows: after M transitions the model must predict the next K.

    Raises:
      ValueError: as `grbal`.
    """
    return config.meta_train(family, model(family, config))


def model(family: TaskFamily, config: ReBALConfig) -> inner.OnlineModel:
    """Builds the model of `rebal`."""
    recurrent = nets.recurrent_dynamics(
        *config.sizes(family),
        config.state,
        config.hidden,
        probabilistic=False,
        activation=config.activation,
        cell=config.cell,
        length=config.windows.past,
    )
    return inner.by_memory(recurrent)
