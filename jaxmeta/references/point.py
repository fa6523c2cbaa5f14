"""Optimal returns of point robots (PEARL: Rakelly et al., 2019, arXiv:1903.08254), for an agent that knows the goal.

A step changes each coordinate by at most 0.1 m, so after t steps the point can be anywhere in a square of half width
0.1 t around its start. The policy that moves each coordinate towards the goal as far as possible is, after every step,
at the point of that square nearest to the goal: d_t = ||max(|goal - start| - 0.1 t, 0)||. Both rewards decrease with
the distance, so this policy is optimal.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from jaxmeta.core.learner import Learner
from jaxmeta.references.base import certain, check_sizes
from jaxmeta.tasks.navigation import MAX_MOVE

__all__ = [
    "expected_return",
    "expected_sparse_return",
    "oracle",
    "oracle_return",
    "shortest_distances",
    "sparse_oracle_return",
]


def oracle() -> Learner:
    """Builds the optimal agent that knows the goal, for `jm.tasks.reveal(family)` of point robots and navigation."""
    return certain(lambda inputs: jnp.clip(inputs.obs[2:] - inputs.obs[:2], -MAX_MOVE, MAX_MOVE))


def shortest_distances(offset: np.ndarray, horizon: int = 20) -> np.ndarray:
    """Computes the smallest possible distance to the goal after each step.

    Args:
      offset: goal minus start in metres, [..., 2].

    Returns:
      [..., horizon].
    """
    check_sizes(horizon=horizon)
    moved = MAX_MOVE * np.arange(1, horizon + 1)
    return np.linalg.norm(np.maximum(np.abs(offset)[..., None, :] - moved[:, None], 0.0), axis=-1)


def oracle_return(offset: np.ndarray, horizon: int = 20) -> np.ndarray:
    """Computes the optimal return of an episode of `point-robot`, for an agent that knows the goal.

    Args:
      offset: goal minus start in metres, [..., 2].

    Returns:
      [...].
    """
    return -shortest_distances(offset, horizon).sum(-1)


def sparse_oracle_return(goal: np.ndarray, horizon: int = 20, goal_radius: float = 0.2) -> np.ndarray:
    """Computes the optimal return of an episode of `sparse-point-robot`, for an agent that knows the goal.

    Args:
      goal: in metres, [..., 2]; the start is the origin.

    Returns:
      [...].
    """
    distance = shortest_distances(goal, horizon)
    return np.where(distance <= goal_radius, 1.0 - distance, 0.0).sum(-1)


def expected_return(horizon: int = 20) -> float:
    """Computes the mean of `oracle_return` over goals and starts uniform in [-1, 1]²: -5.1875 for 20 steps.

    By Gauss-Legendre quadrature over the two coordinates of |goal - start|, which have the density 1 - x / 2 on [0, 2],
    piecewise between the kinks of d_t at the multiples of 0.1.
    """
    node, weight = np.polynomial.legendre.leggauss(8)
    left = MAX_MOVE * np.arange(round(2.0 / MAX_MOVE))
    x = (left[:, None] + MAX_MOVE * (node + 1) / 2).ravel()
    mass = np.tile(MAX_MOVE * weight / 2, len(left)) * (1 - x / 2)
    offset = np.stack(np.meshgrid(x, x, indexing="ij"), axis=-1)
    return float(mass @ oracle_return(offset, horizon) @ mass)


def expected_sparse_return(horizon: int = 20, goal_radius: float = 0.2) -> float:
    """Computes the mean of `sparse_oracle_return` over goals uniform on the half circle: 13.382 for 20 steps.

    By the midpoint rule on one of its two symmetric halves, accurate to about 1e-4: the reward is discontinuous at few
    angles.
    """
    size = 20_000
    angle = (np.arange(size) + 0.5) / size * np.pi / 2
    goals = np.stack([np.cos(angle), np.sin(angle)], axis=-1)
    return float(sparse_oracle_return(goals, horizon, goal_radius).mean())
