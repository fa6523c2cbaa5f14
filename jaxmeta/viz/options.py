"""Visualises options: which of them acts where, in which direction it goes, and the return of each on each goal.

The first functions measure an agent; the others draw arrays, and need no agent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxmeta.core.learner import Learner
from jaxmeta.core.rollout import rollout
from jaxmeta.tasks.base import Env
from jaxmeta.tasks.four_rooms import CELLS, LAYOUT
from jaxmeta.tasks.moving_bandits import RADIUS
from jaxmeta.types import Array, Fast, Input, Key, Params, Spec, Task
from jaxmeta.viz import canvas

COLORS = canvas.LINES[:6]
"""Of options, in order; more than six repeat."""
WALL, GOAL = "#404040", "#000000"
COLUMNS = 5
"""Panels side by side; more take several rows."""


class Acting(NamedTuple):
    """What a panel shows at P places; a part that is None is not drawn."""

    use: np.ndarray
    """Probability of each of K options, [P, K]."""
    moves: np.ndarray | None = None
    """Expected displacement per step, in moves, [P, 2]: row and column in four rooms, x and y on moving bandits."""
    goals: Any = ()
    """Cells in four rooms, positions (x, y) on moving bandits."""


def choice_probabilities(learner: Learner, params: Params, fast: Fast, spec: Spec, obs: Array) -> Array:
    """Computes the probability of each option at the first step of a stream, without random choices, [P, K].

    Args:
      learner: an agent whose `Output.aux` is an `rl.Decision` with the logits of the options.
      fast: what has adapted to a task.
      obs: observations at P places, [P, ...].
    """
    key = jax.random.key(0)

    def logits(inputs: Input) -> Array:
        _, output = learner.act(params, fast, learner.reset(params, fast, key), inputs)
        return output.aux.output.dist

    return jax.nn.softmax(jax.vmap(logits)(_inputs(spec, obs)))


def action_probabilities(policy: Learner, params: Params, spec: Spec, obs: Array) -> Array:
    """Computes the action probabilities of K memoryless policies with discrete actions, [K, P, A].

    Args:
      params: leaves [K, ...].
      obs: observations at P places, [P, ...].
    """
    inputs = _inputs(spec, obs)
    each = jax.vmap(lambda theta: jax.vmap(lambda one: policy.act(theta, (), (), one)[1].dist)(inputs))
    return jax.nn.softmax(each(params))


def acting(use: Any, actions: Any, displacements: Any, goals: Any = ()) -> Acting:
    """Combines who acts and how.

    Args:
      use: probability of each option, [P, K].
      actions: action probabilities of each option, [K, P, A].
      displacements: of each action, such as `four_rooms.MOVES` or `moving_bandits.MOVES`, [A, 2].
      goals: see `Acting`.
    """
    moves = np.einsum("pk,kpa,ad->pd", np.asarray(use), np.asarray(actions), np.asarray(displacements, np.float64))
    return Acting(np.asarray(use), moves, goals)


def policy_returns(policy: Learner, params: Params, env: Env, tasks: Task, key: Key, streams: int = 200) -> Array:
    """Computes the mean return of each of K policies, alone for a whole episode, on each of N tasks, [K, N].

    Args:
      policy: a policy that does not adapt.
      params: leaves [K, ...].
      tasks: leaves [N, ...].
      streams: episodes per policy and task.
    """

    def one(theta: Params, task: Task) -> Array:
        return rollout(policy, theta, (), env, task, key, streams).reward.sum(0).mean()

    return jax.vmap(lambda theta: jax.vmap(lambda task: one(theta, task))(tasks))(params)


def draw_returns(
    returns: np.ndarray,
    policies: Sequence[str],
    goals: Sequence[str],
    title: str,
    optimum: float | None = None,
    label: str = "return",
) -> Any:
    """Draws the matrix of returns of policies on goals, [K, N], with its numbers.

    Args:
      optimum: return at the end of the colour scale; by default the largest in the matrix.
      label: what the numbers are.

    Returns:
      A matplotlib figure.
    """
    rows, columns = np.shape(returns)
    figure = canvas.figure((2.4 + 0.75 * columns, 1.6 + 0.5 * rows))
    axes = figure.add_subplot()
    most = float(np.max(returns)) if optimum is None else optimum
    least = min(0.0, float(np.min(returns)))
    picture = axes.imshow(returns, cmap="Blues", vmin=least, vmax=most, aspect="auto")
    for (row, column), value in np.ndenumerate(np.asarray(returns)):
        color = "white" if value > least + 0.6 * (most - least) else "black"
        axes.text(column, row, f"{value:.1f}", ha="center", va="center", fontsize=9, color=color)
    axes.set_xticks(range(columns), goals)
    axes.set_yticks(range(rows), policies)
    figure.colorbar(picture, ax=axes, label=label)
    axes.set_title(title, fontweight="bold", loc="left", fontsize=10)
    return figure


def draw_rooms(panels: Mapping[str, Acting], names: Sequence[str], title: str) -> Any:
    """Draws four rooms, a cell in the mixed colours of the options that act there, with arrows where they go.

    Args:
      panels: by name, what happens in the 104 cells.
      names: of the K options, for the legend.

    Returns:
      A matplotlib figure.
    """
    figure, grid = _panels(panels, names, title)
    size = len(LAYOUT)
    for axes, panel in zip(grid, panels.values(), strict=True):
        image = np.broadcast_to(_rgb(WALL), (size, size, 3)).copy()
        row, column = CELLS.T
        image[row, column] = _mixed(panel.use)
        axes.imshow(image)
        if panel.moves is not None:
            _arrows(axes, column, row, panel.moves[:, ::-1], length=0.9)
        for cell in panel.goals:
            axes.plot(column[cell], row[cell], "*", color=GOAL, markersize=11)
    return figure


def draw_plane(panels: Mapping[str, Acting], positions: np.ndarray, names: Sequence[str], title: str) -> Any:
    """Draws the plane of moving bandits, positions in the mixed colours of the options, with arrows where they go.

    Args:
      panels: by name, what happens at the positions. Goals are numbered in order.
      positions: of a regular grid, x and y, [P, 2].
      names: of the K options, for the legend.

    Returns:
      A matplotlib figure.
    """
    from matplotlib.patches import Circle

    figure, grid = _panels(panels, names, title)
    x, y = positions.T
    (columns, column), (rows, row) = (np.unique(side, return_inverse=True) for side in (x, y))
    half = (columns[1] - columns[0]) / 2
    extent = (x.min() - half, x.max() + half, y.min() - half, y.max() + half)
    for axes, panel in zip(grid, panels.values(), strict=True):
        image = np.ones((len(rows), len(columns), 3))
        image[row, column] = _mixed(panel.use)
        axes.imshow(image, origin="lower", extent=extent)
        if panel.moves is not None:
            _arrows(axes, x, y, panel.moves, length=1.8 * half)
        for number, (across, up) in enumerate(panel.goals):
            axes.add_patch(Circle((across, up), RADIUS, fill=False, color=GOAL, linewidth=1.5))
            axes.text(across, up, str(number), ha="center", va="center", fontweight="bold", fontsize=11)
    return figure


def _panels(panels: Mapping[str, Acting], names: Sequence[str], title: str) -> tuple[Any, Any]:
    """Makes a figure with a titled panel for each name, and a legend of the options."""
    from matplotlib.patches import Patch

    columns = min(len(panels), COLUMNS)
    rows = -(-len(panels) // columns)
    figure = canvas.figure((3.1 * columns, 3.3 * rows + 0.7))
    every = figure.subplots(rows, columns, squeeze=False).ravel()
    grid = every[: len(panels)]
    for axes in every[len(panels) :]:
        axes.remove()
    for axes, name in zip(grid, panels, strict=True):
        axes.set_title(name, fontsize=9)
        axes.set_xticks([])
        axes.set_yticks([])
    patches = [Patch(color=_color(index), label=name) for index, name in enumerate(names)]
    figure.legend(handles=patches, loc="outside lower center", ncols=len(names), fontsize=8, frameon=False)
    figure.suptitle(title, fontweight="bold", fontsize=10)
    return figure, grid


def _mixed(use: np.ndarray) -> np.ndarray:
    """Returns the colours of the options, lightened, weighted by how probable each is: [P, K] to [P, 3]."""
    colors = np.array([_rgb(_color(index)) for index in range(use.shape[1])])
    return 1.0 - 0.75 * (1.0 - np.asarray(use, np.float64) @ colors)


def _arrows(axes: Any, x: np.ndarray, y: np.ndarray, moves: np.ndarray, length: float) -> None:
    """Draws arrows [P, 2] around points; a move of 1 has this length."""
    dx, dy = length * np.asarray(moves).T
    axes.quiver(x - dx / 2, y - dy / 2, dx, dy, angles="xy", scale_units="xy", scale=1.0, width=0.006, color="0.15")


def _color(index: int) -> str:
    return COLORS[index % len(COLORS)]


def _rgb(color: str) -> np.ndarray:
    from matplotlib.colors import to_rgb

    return np.array(to_rgb(color))


def _inputs(spec: Spec, obs: Array) -> Input:
    """Returns inputs at the first step of a stream with these observations, leaves [P, ...]."""
    first = spec.example_input().replace(first=jnp.ones(()))
    return jax.vmap(lambda one: first.replace(obs=one, prev_next_obs=one))(obs)
