"""Renders mazes in JAX, by pure functions of a task that can be vmapped over tasks and times, and trials in them."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxmeta.experiment import loading
from jaxmeta.tasks.maze import HEADINGS, MazeState, MazeTask
from jaxmeta.types import Array
from jaxmeta.viz.recording import before_and_after

# from Okabe and Ito's palette, as in `jaxmeta.viz.plot`
FLOOR, WALL, GOAL, AGENT = (255, 255, 255), (64, 64, 64), (0, 158, 115), (213, 94, 0)
FIRST, LAST = (208, 228, 245), (0, 114, 178)
"""Colours of the first and the last room of a path, interpolated in between."""


@functools.partial(jax.jit, static_argnames="scale")
def render(task: MazeTask, state: MazeState, scale: int = 16) -> Array:
    """Draws a maze from above, with the goal as a square and the agent as a triangle in the direction of its heading.

    Args:
      scale: width of a room in pixels, at least 8; walls are an eighth as thick.

    Returns:
      An image of P = size * scale + (size + 1) * (scale // 8) pixels a side, uint8 [P, P, 3].
    """
    size = task.passages.shape[0]
    shade = jnp.full((size, size), -1.0)
    return _draw(task, state, shade, scale)


@functools.partial(jax.jit, static_argnames="scale")
def render_path(task: MazeTask, rooms: Array, valid: Array, scale: int = 16) -> Array:
    """Draws the rooms that an episode visited, earlier ones lighter.

    The agent is drawn at the start. A passage between two visited rooms counts as visited.

    Args:
      rooms: indices of the agent's rooms over time, int [T].
      valid: 1 for valid steps, else 0, such as after the end of the episode, [T].
      scale: as for `render`.

    Returns:
      An image, uint8 [P, P, 3].
    """
    size = task.passages.shape[0]
    length = rooms.shape[0]
    time = jnp.where(valid > 0, jnp.arange(length), length)
    first = jnp.full(size * size, length).at[rooms].min(time).reshape(size, size)
    last = jnp.max(jnp.where(first < length, first, 0))
    shade = jnp.where(first < length, first / jnp.maximum(last, 1), -1.0)
    return _draw(task, MazeState(room=task.start, heading=task.heading), shade, scale)


def draw_trial(run: loading.Run, seed: int) -> Any:
    """Draws the paths of the first and the last episode of a trial of a run on `maze`.

    Args:
      run: of any algorithm; with several seeds it is the agent of the first one. See `recording.before_and_after`.
      seed: seed of the task and of the trial.

    Returns:
      A matplotlib figure.
    """
    from jaxmeta.viz import plot

    task, episodes = before_and_after(run, seed, lambda state: state.room)
    panels = {}
    for episode in episodes:
        rooms = episode.views
        # padded to the horizon, so that `render_path` compiles once for all lengths
        rest = run.family.env.spec.horizon + 1 - len(rooms)
        image = render_path(task, np.pad(rooms, (0, rest), mode="edge"), np.arange(len(rooms) + rest) < len(rooms))
        panels[f"{episode.label}\n{len(episode.rewards)} steps, return {episode.rewards.sum():.2f}"] = np.asarray(image)
    return plot.images(panels, f"{run.config.algo} on {run.config.tasks} after {run.step:,} updates, task {seed}")


def _draw(task: MazeTask, state: MazeState, shade: Array, scale: int) -> Array:
    """Draws a maze with a shade per room in [0, 1], or -1 for none, [size, size]."""
    if scale < 8:
        raise ValueError(f"render: scale is {scale}; it must be at least 8 pixels")
    size = task.passages.shape[0]
    is_open, shade = _lattice(task, shade)
    path = jnp.array(FIRST) + shade[..., None] * (jnp.array(LAST) - jnp.array(FIRST))
    floor = jnp.where(shade[..., None] < 0, jnp.array(FLOOR), path)
    cells = jnp.where(is_open[..., None], floor, jnp.array(WALL)).astype(jnp.uint8)

    cell_of, offset = _pixels(size, scale)
    image = cells[cell_of][:, cell_of]
    for room, shape, color in (
        (task.goal, _square(scale), GOAL),
        (state.room, _triangles(scale)[state.heading], AGENT),
    ):
        row, column = cell_of == 2 * (room // size) + 1, cell_of == 2 * (room % size) + 1
        drawn = row[:, None] & column & shape[offset][:, offset]
        image = jnp.where(drawn[..., None], jnp.array(color, jnp.uint8), image)
    return image


def _lattice(task: MazeTask, shade: Array) -> tuple[Array, Array]:
    """Lays out rooms, and the walls and passages between them, on [2 * size + 1, 2 * size + 1] cells.

    Returns:
      Whether each cell is open, and its shade.
    """
    size = task.passages.shape[0]
    right, down = task.passages[:, :-1, 1], task.passages[:-1, :, 2]
    is_open = jnp.zeros((2 * size + 1, 2 * size + 1), bool).at[1::2, 1::2].set(True)
    is_open = is_open.at[1::2, 2:-1:2].set(right).at[2:-1:2, 1::2].set(down)

    def between(one, other):
        return jnp.where((one < 0) | (other < 0), -1.0, jnp.maximum(one, other))

    shades = jnp.full(is_open.shape, -1.0).at[1::2, 1::2].set(shade)
    shades = shades.at[1::2, 2:-1:2].set(between(shade[:, :-1], shade[:, 1:]))
    return is_open, shades.at[2:-1:2, 1::2].set(between(shade[:-1], shade[1:]))


def _pixels(size: int, scale: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the cell of each pixel along a side, and the pixel's position within the cell, [P] each."""
    widths = np.resize([scale // 8, scale], 2 * size + 1)
    return np.repeat(np.arange(2 * size + 1), widths), np.concatenate([np.arange(width) for width in widths])


def _square(scale: int) -> Array:
    """Returns which pixels of a room the goal covers, bool [scale, scale]."""
    inside = np.abs(np.arange(scale) - (scale - 1) / 2) < 0.3 * scale
    return jnp.array(inside[:, None] & inside)


def _triangles(scale: int) -> Array:
    """Returns which pixels of a room the agent covers, by heading, bool [4, scale, scale]."""
    row, column = np.indices((scale, scale)) - (scale - 1) / 2
    height = row + 0.3 * scale
    up = (height >= 0) & (height <= 0.6 * scale) & (np.abs(column) <= 0.45 * height)
    # headings turn clockwise, np.rot90 the other way
    return jnp.array(np.stack([np.rot90(up, -heading) for heading in range(len(HEADINGS))]))
