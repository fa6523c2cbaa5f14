"""Visualises models of dynamics: imagined trajectories beside the true one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxmeta import inner, rl
from jaxmeta.nets.dynamics import Dynamics, dynamics_inputs
from jaxmeta.types import Array, Key, Params, Spec

PARTICLES = 20
"""Particles of each member of an ensemble."""


def imagined_trajectories(
    spec: Spec,
    dynamics: Dynamics,
    models: Params,
    statistics: rl.Statistics,
    obs: Array,
    actions: Array,
    key: Key,
    particles: int = PARTICLES,
) -> Array:
    """Imagines trajectories from one observation, open loop; every particle keeps its member of the ensemble.

    Args:
      dynamics: one member of an ensemble of B models.
      models: params with leaves [B, ...].
      obs: the first observation, [O].
      actions: of the environment, [T, ...].
      particles: P, per member.

    Returns:
      Observations after each action, [B, P, T, O].
    """
    size, still = spec.observation[0], jnp.zeros(())
    reward = None if dynamics.outputs > size else lambda obs, action, after: still
    imagine = inner.imagining(spec, dynamics, statistics, reward)
    members = jax.tree.leaves(models)[0].shape[0]
    none = jnp.zeros((len(actions), size))
    vectors = dynamics_inputs(spec, none, actions)[:, size:]
    noise = jax.random.normal(key, (len(actions), members, particles, dynamics.outputs))

    def step(state: Array, moment: tuple[Array, Array]) -> tuple[Array, Array]:
        vector, noise = moment
        acted = jnp.broadcast_to(vector, (members, particles, len(vector)))
        after, _ = jax.vmap(imagine)(models, state, acted, noise)
        return after, after

    start = jnp.broadcast_to(obs, (members, particles, size))
    return jnp.moveaxis(jax.lax.scan(step, start, (vectors, noise))[1], 0, 2)


def predictions(
    true: np.ndarray, imagined: Sequence[tuple[str, np.ndarray]], names: Sequence[str], title: str, note: str = ""
) -> Any:
    """Draws the true trajectory beside imagined ones, a panel per number of the observation.

    Args:
      true: observations after each action, [T, O].
      imagined: by label, such as "after 1 episode", trajectories [B, P, T, O]; a band holds 90 % of the particles.
      names: of the numbers of the observation, [O].
      note: a line below the title.

    Returns:
      A matplotlib figure.
    """
    from jaxmeta.viz import canvas

    size = true.shape[1]
    figure = canvas.figure((3.2 * size, 2.4 * len(imagined) + 0.6))
    figure.suptitle(f"{title}\n{note}" if note else title, fontweight="bold", fontsize=10)
    panels = figure.subplots(len(imagined), size, sharex=True, sharey="col", squeeze=False)
    steps = np.arange(1, len(true) + 1)
    for row, (label, paths) in enumerate(imagined):
        flat = paths.reshape(-1, *paths.shape[2:])
        low, middle, high = np.percentile(flat, [5, 50, 95], axis=0)
        for column, axes in enumerate(panels[row]):
            canvas.plain(axes)
            axes.fill_between(
                steps, low[:, column], high[:, column], color=canvas.AFTER, alpha=0.25, label="90 % of the particles"
            )
            axes.plot(steps, middle[:, column], color=canvas.AFTER, label="median")
            axes.plot(steps, true[:, column], color=canvas.LINES[-1], linestyle="--", label="true")
            reach = np.ptp(true[:, column]) or 1.0
            axes.set_ylim(true[:, column].min() - reach, true[:, column].max() + reach)
            if row == 0:
                axes.set_title(names[column], fontsize=9)
            if column == 0:
                axes.set_ylabel(label, fontsize=9)
            if row == len(imagined) - 1:
                axes.set_xlabel("step", fontsize=9)
    panels[0][0].legend(fontsize=7, loc="upper left")
    return figure
