"""The dark room of DPT (Lee et al., 2023, arXiv:2306.14892), with a goal uniform over all cells: exact returns.

A room is a `references.grid.Grid` whose start can be the goal too. Its optimum needs no search:

* A step ends in one cell, so after t steps an agent has visited at most t cells, and found the goal with a probability
  of at most t / size².
* The sweep has found it with this probability after every step: it stays at the start for one step and then goes along
  one row after the other. So its first episode is optimal, if it is long enough to visit all cells.
* From then on it knows the goal, and no agent is better than one that does.

So the sweep is optimal in each episode by itself, and in total.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from jaxmeta.core.learner import Learner
from jaxmeta.references import grid
from jaxmeta.references.base import NEVER, check_sizes, reference
from jaxmeta.types import Array, Input

__all__ = [
    "bayes_optimal",
    "bayes_optimal_returns",
    "oracle",
    "oracle_return",
    "probability_matching",
    "room",
    "sweep",
]


def room(size: int = 10, horizon: int = 100) -> grid.Grid:
    """Builds the grid of `dark-room`: the goal is uniform over all size² cells."""
    return grid.Grid(size=size, no_goal=(), goal_at_start=True, horizon=horizon, step_reward=0.0)


def oracle(size: int = 10, horizon: int = 100) -> Learner:
    """Builds the optimal agent that knows the goal, for `jm.tasks.reveal(family)`."""
    return grid.oracle(room(size, horizon))


def oracle_return(size: int = 10, horizon: int = 100) -> float:
    """Computes the expected return of an episode of an agent that knows the goal."""
    return grid.oracle_return(room(size, horizon))


def bayes_optimal(size: int = 10, horizon: int = 100, episodes: int = 2) -> Learner:
    """Builds the Bayes-optimal agent: it sweeps the room until it finds the goal, and then goes straight there."""
    return grid.follow(room(size, horizon), sweep(size, horizon, episodes))


def probability_matching(size: int = 10) -> Learner:
    """Draws each action with the posterior probability that the planner takes it, as an ideal agent of DPT does.

    Among equally short paths the planner takes the first action. The posterior is uniform over the cells that have
    not been visited, until the goal is found. Unlike posterior sampling it draws an action at each step and not a goal
    for a whole episode, so it walks at random towards the bulk of the cells, and finds far goals late.
    """
    check_sizes(size=size)
    cells = jnp.array(room(size).cells)

    def act(params, possible: Array, inputs: Input):
        last = jnp.all(cells == inputs.prev_next_obs, axis=-1)
        paid = inputs.prev_reward > 0.5
        possible = jnp.where(inputs.first > 0, possible, possible & jnp.where(paid, last, ~last))
        after = jnp.clip(inputs.obs + jnp.array(grid.MOVES), 0, size - 1)
        label = jnp.abs(after - cells[:, None]).sum(-1).argmin(-1)
        share = possible @ jax.nn.one_hot(label, len(grid.MOVES)) / jnp.maximum(possible.sum(), 1)
        return possible, jnp.maximum(jnp.log(share), NEVER)

    return reference(len(grid.MOVES), lambda key: jnp.ones(len(cells), bool), act)


def bayes_optimal_returns(size: int = 10, horizon: int = 100, episodes: int = 2) -> np.ndarray:
    """Computes the expected return of each episode under a Bayes-optimal policy, [episodes].

    Each is an upper bound of that episode's return under any policy.
    """
    return grid.path_returns(room(size, horizon), sweep(size, horizon, episodes))


def sweep(size: int = 10, horizon: int = 100, episodes: int = 2) -> np.ndarray:
    """Returns the path of the sweep: cells after each step, [episodes, horizon, 2].

    Raises:
      ValueError: if an episode is too short to visit all cells.
    """
    check_sizes(size=size, horizon=horizon, episodes=episodes)
    if horizon < size**2:
        raise ValueError(f"references: horizon is {horizon}; a sweep of {size**2} cells needs at least {size**2} steps")
    rows = [[(row, column) for column in range(size)][:: 1 if row % 2 == 0 else -1] for row in range(size)]
    path = np.zeros((episodes, horizon, 2), int)
    path[0, : size**2] = np.concatenate(rows)
    path[0, size**2 :] = path[0, size**2 - 1]
    return path
