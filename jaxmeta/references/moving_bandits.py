"""Moving bandits (`moving-bandits`): agents that go to a goal the shortest way and stay there, and their returns.

A move changes one coordinate of the distance to a goal by 20. The squared distance is a sum over coordinates, and each
move of a coordinate decreases it by less than the move before. So always reducing the larger coordinate gives, after
every number of moves, the smallest distance that is possible, and the agent that does so until it is within the radius
has the highest return. All positions lie on a lattice around the start, which makes the returns below exact up to the
quadrature over goals.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from jaxmeta.core.learner import Learner
from jaxmeta.references.base import best, check_sizes, random, reference
from jaxmeta.tasks.moving_bandits import EXTENT, MOVE, MOVES, RADIUS, START
from jaxmeta.types import Array, Input

__all__ = ["collapsed_return", "oracle", "oracle_return", "other_goal_return", "random", "shortest_way", "towards"]


def oracle() -> Learner:
    """Builds the optimal agent that knows which goal pays, for `jm.tasks.reveal(family)`."""
    return reference(
        len(MOVES), lambda key: (), lambda params, carry, inputs: (carry, _approach(inputs, jnp.argmax(inputs.obs[6:])))
    )


def towards(index: int) -> Learner:
    """Builds the agent that always goes to the goal with this number, whichever pays: a collapsed hierarchy.

    Raises:
      ValueError: if there is no such goal.
    """
    if index not in (0, 1):
        raise ValueError(f"references: index is {index}; it must be 0 or 1, as there are two goals")
    return reference(len(MOVES), lambda key: (), lambda params, carry, inputs: (carry, _approach(inputs, index)))


def oracle_return(horizon: int = 50) -> float:
    """Computes the expected return of an episode of `oracle`: 43.806 for 50 steps."""
    _, moves = shortest_way(*_goals(307), horizon + 1)  # a step more tells who arrives late from who never does
    return float(np.maximum(horizon + 1 - np.maximum(moves, 1), 0).mean())


def other_goal_return(horizon: int = 50) -> float:
    """Computes the expected return of going to the goal that does not pay: 2.43 for 50 steps.

    The two goals are independent, so every step pays with the share of the square that is within the radius.
    """
    path, _ = shortest_way(*_goals(151), horizon)
    last = round(START / MOVE)  # positions are on a lattice from -last to last
    share = _share_within(MOVE * np.arange(-last, last + 1))
    return float(horizon * share[path[..., 0] + last, path[..., 1] + last].mean())


def collapsed_return(horizon: int = 50) -> float:
    """Computes the return, averaged over both tasks, of agents that go to one goal in either: 23.1 for 50 steps."""
    return (oracle_return(horizon) + other_goal_return(horizon)) / 2


def shortest_way(x: np.ndarray, y: np.ndarray, horizon: int = 50) -> tuple[np.ndarray, np.ndarray]:
    """Goes from the start to goals by the rule of `oracle`.

    Args:
      x, y: goals relative to the start, [...].

    Returns:
      The positions after each step, in moves along each coordinate from the start, [horizon, ..., 2]; and the number of
      moves to come within the radius, at most `horizon`, [...].
    """
    check_sizes(horizon=horizon)
    goal = np.stack([x, y], -1)
    at, moves, path = np.zeros(goal.shape, np.int16), np.zeros(goal.shape[:-1], int), []
    for _ in range(horizon):
        offset = goal - MOVE * at
        far = np.square(offset).sum(-1) >= RADIUS**2
        if not far.any():
            break
        larger = np.arange(2) == np.abs(offset).argmax(-1)[..., None]
        at = at + far[..., None] * larger * np.sign(offset).astype(np.int16)
        moves += far
        path.append(at)
    return np.stack(path + [at] * (horizon - len(path))), moves


def _approach(inputs: Input, index: Array | int) -> Array:
    """Returns the logits [5] of the shortest way to a goal."""
    points = EXTENT * inputs.obs[:6].reshape(3, 2)
    offset = points[1:][index] - points[0]
    arrived = jnp.sum(jnp.square(offset)) < RADIUS**2
    larger = jnp.arange(2) == jnp.argmax(jnp.abs(offset))
    direction = jnp.where(arrived, 0.0, larger * jnp.sign(offset))
    # the direction of "stay" is zero, so that its score is zero
    score = jnp.array(MOVES, jnp.float32) @ direction
    return best(jnp.where(arrived & (jnp.arange(len(MOVES)) == 0), 1.0, score))


def _goals(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the midpoints of a grid of size² cells on the square of goals, relative to the start, [size, size] each.

    A prime size keeps goals from the edges of the discs around all positions.
    """
    x, y = np.meshgrid(_midpoints(size), _midpoints(size), indexing="ij")
    return x, y


def _midpoints(size: int) -> np.ndarray:
    """Returns the midpoints of `size` intervals on a side of the square of goals, relative to the start, [size]."""
    return EXTENT * (np.arange(size) + 0.5) / size - START


def _share_within(at: np.ndarray) -> np.ndarray:
    """Computes the share of the square of goals within the radius of the points (x, y) for all x and y in `at`, [M, M].

    It integrates, over the x of a goal, the length of the chord of the disc inside the square.
    """
    half = np.sqrt(np.maximum(RADIUS**2 - np.square(_midpoints(4000) - at[:, None]), 0.0))[:, None]
    top, bottom = (np.clip(at[:, None] + side * half, -START, EXTENT - START) for side in (1, -1))
    return (top - bottom).mean(-1) / EXTENT
