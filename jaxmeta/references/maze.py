"""Shortest paths through a maze, and the return of an agent that knows the maze.

A step moves one room ahead or makes a quarter turn, so paths are between states (room, heading). Shortest paths are
computed by value iteration, which for unit costs is a breadth-first search from the goal.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from jaxmeta.core.learner import Learner
from jaxmeta.references.base import best, reference
from jaxmeta.tasks.maze import TURN_LEFT, TURN_RIGHT, TURNS, Maze, MazeState, MazeTask, neighbours
from jaxmeta.types import Array, Input

__all__ = ["oracle", "oracle_return", "shortest_steps", "steps_to_go"]


def oracle(size: int = 5, view: int = 2, horizon: int = 100) -> Learner:
    """Builds the optimal agent that knows the maze, for `jm.tasks.reveal(family)`.

    The observation does not have the agent's room. The agent tracks it from the start, which the task contains, and
    from the actions that were taken.
    """
    env, num_rooms = Maze(size, view, horizon), size * size
    pixels = math.prod(env.spec.observation)

    def decoded(obs: Array) -> MazeTask:
        # in the order in which `flatten_task` concatenates the fields
        passages, numbers = jnp.split(obs[pixels:], [4 * num_rooms])
        start, heading, goal = numbers.astype(jnp.int32)
        return MazeTask(passages.reshape(size, size, 4) > 0, start, heading, goal)

    def act(params, carry: tuple[Array, MazeState], inputs: Input):
        known, state = carry
        task = decoded(inputs.obs)
        begins = (inputs.first + inputs.prev_done) > 0
        moved, _ = env.step(jax.random.key(0), state, inputs.prev_action, task)
        at_start = MazeState(room=task.start, heading=task.heading)
        state = jax.tree.map(lambda start, moved: jnp.where(begins, start, moved), at_start, moved)

        def plan(begun: tuple[Array, Array]) -> tuple[Array, Array]:
            return jnp.array(False), steps_to_go(task)

        # a loop of at most one iteration: under vmap a `cond` would plan at every step, this only once per stream
        _, known = jax.lax.while_loop(lambda begun: begun[0], plan, (inputs.first > 0, known))
        steps = jax.vmap(lambda action: _after(env, known, state, action, task))(jnp.arange(len(TURNS)))
        return (known, state), best(-steps.astype(jnp.float32))

    def reset(key):
        zero = jnp.zeros((), jnp.int32)
        return jnp.zeros((size, size, 4), jnp.int32), MazeState(room=zero, heading=zero)

    return reference(len(TURNS), reset, act)


def _after(env: Maze, known: Array, state: MazeState, action: Array, task: MazeTask) -> Array:
    """Returns the steps to the goal after an action, 0 at the goal itself."""
    after, _ = env.step(jax.random.key(0), state, action, task)
    return known.reshape(-1)[after.room * 4 + after.heading]


def shortest_steps(task: MazeTask) -> Array:
    """Computes the length of the shortest path from the start to the goal in steps, turns included.

    Args:
      task: one maze, or a batch with any leading axes [...].

    Returns:
      Int32 [...].
    """
    steps = steps_to_go(task)
    steps = steps.reshape(*steps.shape[:-3], -1)
    return jnp.take_along_axis(steps, (task.start * 4 + task.heading)[..., None], -1)[..., 0]


def steps_to_go(task: MazeTask) -> Array:
    """Computes the length of the shortest path to the goal from every room and heading, in steps.

    Args:
      task: one maze, or a batch with any leading axes [...].

    Returns:
      Int32 [..., size, size, 4]; 4 * size², more than any path, if the goal cannot be reached.
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
        # outside the maze this reads an arbitrary room, but no passage leads there
        ahead = jnp.where(passages, steps.at[..., beside, heading].get(mode="clip"), never)
        left, right = (jnp.roll(steps, -TURNS[action], -1) for action in (TURN_LEFT, TURN_RIGHT))
        shorter = jnp.minimum(steps, 1 + jnp.minimum(ahead, jnp.minimum(left, right)))
        return shorter, jnp.any(shorter < steps)

    steps, _ = jax.lax.while_loop(lambda state: state[1], relax, (start, jnp.array(True)))
    return steps.reshape(task.passages.shape)


def oracle_return(task: MazeTask, horizon: int = 100) -> Array:
    """Computes the optimal return of an episode, that of an agent that knows the maze.

    Args:
      task: one maze, or a batch with any leading axes [...].
      horizon: steps per episode; if the goal is further away, the return is the cost of all steps.

    Returns:
      Float32 [...].
    """
    steps = shortest_steps(task)
    return jnp.where(steps <= horizon, 1.0, 0.0) - 0.04 * jnp.minimum(steps, horizon)
