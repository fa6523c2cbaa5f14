"""Visualises models of dynamics that adapt online: their error over time, around a change of the task."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxmeta import inner, nets, rl
from jaxmeta.types import Array, Rollout, Spec

LEAST = 1e-6
"""Smallest error that is drawn: the axis is logarithmic."""


def errors_over_time(
    spec: Spec, online: inner.OnlineModel, params: rl.DynamicsParams, experience: Rollout
) -> tuple[Array, Array]:
    """Computes the squared error of one-step predictions at every step of streams.

    Args:
      experience: one round of one task, [T, E, ...].

    Returns:
      Mean squared errors over the normalised outputs, [E, T]: of the model that is adapted to the steps before, as an
      agent would, and of the same model without a past.
    """
    size, learns_reward = online.dynamics.inputs, online.dynamics.outputs > spec.observation[0]
    rows, _ = nets.dynamics_rows(spec, experience, learns_reward)
    rows = rows.reshape(experience.reward.shape[1], -1, rows.shape[-1])
    x, y = rl.standardised(params.statistics, (rows[..., :size], rows[..., size:]))

    def error(memory: Any, x: Array, y: Array) -> Array:
        prediction = online.dynamics.apply(online.adapted(params.model, memory), x[None])
        return nets.prediction_error(prediction, y[None], jnp.ones(1))

    def step(memory: Any, moment: tuple[Array, Array]) -> tuple[Any, tuple[Array, Array]]:
        both = error(memory, *moment), error(online.start(), *moment)
        return online.observe(params.model, memory, *moment), both

    return jax.vmap(lambda x, y: jax.lax.scan(step, online.start(), (x, y))[1])(x, y)


def around(errors: np.ndarray, times: np.ndarray, before: int, after: int) -> np.ndarray:
    """Aligns errors by the time of a change.

    Args:
      errors: [N, T].
      times: of the change in each of them, int [N]; from `before` to T - `after`.

    Returns:
      [N, before + after]; the change is at index `before`.
    """
    offsets = np.arange(-before, after)
    return np.take_along_axis(errors, times[:, None] + offsets, axis=1)


def draw_around_change(errors: Mapping[str, np.ndarray], before: int, title: str, note: str = "") -> Any:
    """Draws the median error of models over time, with the range from the 25th to the 75th percentile.

    Args:
      errors: by label, as `around` returns them, [N, before + after].
      note: a line below the title.

    Returns:
      A matplotlib figure.
    """
    from jaxmeta.viz import canvas

    figure, axes = canvas.titled(title)
    if note:
        canvas.subtitle(axes, note)
    for (label, values), colour in zip(errors.items(), canvas.LINES, strict=False):
        steps = np.arange(values.shape[1]) - before
        low, middle, high = np.maximum(np.percentile(values, [25, 50, 75], axis=0), LEAST)
        axes.fill_between(steps, low, high, color=colour, alpha=0.2, linewidth=0)
        axes.plot(steps, middle, color=colour, label=label)
    axes.axvline(0, color="0.35", linestyle="--", linewidth=1)
    axes.annotate("change", (0, 1), (3, -9), xycoords=("data", "axes fraction"), textcoords="offset points", fontsize=8)
    axes.set_yscale("log")
    axes.set_xlabel("step from the change")
    axes.set_ylabel("squared error of the next step")
    axes.legend(fontsize=8, loc="upper right")
    return figure
