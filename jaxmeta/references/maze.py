"""Shortest ways through a maze: what an agent does that knows the maze, and what it is paid.

A step goes one room ahead or makes a quarter turn, so the least number of steps is a distance between pairs of a room
and a heading. It is found by value iteration, which for unit costs is a breadth-first search from the goal.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxmeta.tasks.maze import TURN_LEFT, TURN_RIGHT, TURNS, MazeTask, neighbours
from jaxmeta.types import Array

__all__ = ["oracle_return", "shortest_steps", "steps_to_go"]


def shortest_steps(task: MazeTask) -> Array:
    """Computes the least number of steps of an episode, turns included, from the start to the goal.

    Args:
      task: one maze, or a batch with any leading axes [...].

    Returns:
      Int32 [...].
    """
    steps = steps_to_go(task)
    steps = steps.reshape(*steps.shape[:-3], -1)
    return jnp.take_along_axis(steps, (task.start * 4 + task.heading)[..., None], -1)[..., 0]


def steps_to_go(task: MazeTask) -> Array:
    """Computes the least number of steps to the goal from every room under every heading.

    Args:
      task: one maze, or a batch with any leading axes [...].

    Returns:
      Int32 [..., size, size, 4]; where there is no way, 4 * size², which is more than any way takes.
    """
    *batch, size, _, headings = task.passages.shape
    num_rooms = size * size
    never = headings * num_rooms
    passages = task.passages.reshape(*batch, num_rooms, headings)
    beside, heading = jnp.array(neighbours(size)), jnp.arange(headings)
    at_goal = (jnp.arange(num_rooms) == task.goal[..., None])[..., None]
    start = jnp.where(at_goal, 0, jnp.full(passages.shape, never))

    def relax(state):
        steps, _ = state
        # a passage never leads outside, where this reads some room's number
        ahead = jnp.where(passages, steps.at[..., beside, heading].get(mode="clip"), never)
        left, right = (jnp.roll(steps, -TURNS[action], -1) for action in (TURN_LEFT, TURN_RIGHT))
        shorter = jnp.minimum(steps, 1 + jnp.minimum(ahead, jnp.minimum(left, right)))
        return shorter, jnp.any(shorter < steps)

    steps, _ = jax.lax.while_loop(lambda state: state[1], relax, (start, jnp.array(True)))
    return steps.reshape(task.passages.shape)


def oracle_return(task: MazeTask, horizon: int = 100) -> Array:
    """Computes the return of an episode of an agent that knows the maze, the most that can be had.

    Args:
      task: one maze, or a batch with any leading axes [...].
      horizon: steps in an episode; who cannot arrive in time pays for all of them.

    Returns:
      Float32 [...].
    """
    steps = shortest_steps(task)
    return jnp.where(steps <= horizon, 1.0, 0.0) - 0.04 * jnp.minimum(steps, horizon)
