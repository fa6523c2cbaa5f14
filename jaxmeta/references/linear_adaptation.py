"""The closed form of adapting a model by one gradient step: x' = x + b a, where b is 1 or -1 and hidden.

The model predicts the change as θ a, from θ = 0, and adapts by one step of size α down the mean squared error of past
transitions. With m the mean square of the actions, the gradient is -2 b m: the adapted θ is 2 α b m, and its error on
other transitions of the task is m (1 - 2 α m)². A step of 1 / (2 m) adapts exactly. Without adaptation θ = 0 is best,
since both signs are equally likely, and its error is m.
"""

from __future__ import annotations

from typing import Any

import jax

from jaxmeta.types import Array, Key

__all__ = ["MEAN_SQUARE", "adapted_coefficient", "adapted_loss", "best_step", "transitions", "unadapted_loss"]

MEAN_SQUARE = 1.0 / 3.0
"""The mean square of actions that are uniform in [-1, 1]."""


def transitions(key: Key, sign: Array | float, num: int) -> tuple[Array, Array]:
    """Draws actions uniformly in [-1, 1], and the changes of the state that they cause, both [num, 1].

    Args:
      sign: b, 1 or -1.
    """
    actions = jax.random.uniform(key, (num, 1), minval=-1.0, maxval=1.0)
    return actions, sign * actions


def best_step(mean_square: Any = MEAN_SQUARE) -> Any:
    """Returns the step size that adapts exactly."""
    return 0.5 / mean_square


def adapted_coefficient(step: Any, sign: Any, mean_square: Any = MEAN_SQUARE) -> Any:
    """Returns θ after one step from 0."""
    return 2.0 * step * sign * mean_square


def adapted_loss(step: Any, past: Any = MEAN_SQUARE, future: Any = MEAN_SQUARE) -> Any:
    """Returns the mean squared error after one step from 0.

    Args:
      past: mean square of the actions that are adapted to.
      future: mean square of the actions that are predicted for.
    """
    return future * (1.0 - 2.0 * step * past) ** 2


def unadapted_loss(mean_square: Any = MEAN_SQUARE) -> Any:
    """Returns the mean squared error of the best model that does not adapt."""
    return mean_square
