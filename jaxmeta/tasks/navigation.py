"""2D point navigation as MAML defines it (Finn et al., 2017, arXiv:1703.03400)."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from flax import struct

from jaxmeta.config import checks
from jaxmeta.tasks.base import TaskFamily, flatten_task
from jaxmeta.types import Array, Continuous, Key, Spec, Step

MAX_MOVE = 0.1
"""Largest displacement per coordinate and step, in metres."""


@dataclasses.dataclass(frozen=True)
class NavigationConfig:
    """`navigation`: a point moves to a goal that is not part of the observation."""

    horizon: int = 100
    """Steps in an episode."""
    extent: float = 0.5
    """Goals are uniform in [-extent, extent] in both coordinates, in metres."""

    def __post_init__(self):
        checks.task_sizes(self, horizon=checks.AN_EPISODE)
        if not self.extent > 0:
            raise ValueError(f"tasks.extent is {self.extent}; goals need a square of positive size")


class PointTask(struct.PyTreeNode):
    """The goal."""

    goal: Array
    """In metres, [2]."""


class PointState(struct.PyTreeNode):
    """The position of the point."""

    position: Array
    """In metres, [2]."""


@dataclasses.dataclass(frozen=True)
class Navigation:
    """A point that starts at the origin and moves by at most 0.1 m per coordinate and step.

    The reward is the negative distance to the goal after the move; the episode ends within 0.01 m of the goal in both
    coordinates, which is a success. The observation is the position: the agent must find the goal.
    """

    horizon: int = 100

    @property
    def spec(self) -> Spec:
        return Spec((2,), Continuous(2, MAX_MOVE), self.horizon, terminates=True, success=True)

    def reset(self, key: Key, task: PointTask) -> tuple[PointState, Array]:
        position = jnp.zeros(2)
        return PointState(position), position

    def step(self, key: Key, state: PointState, action: Array, task: PointTask) -> tuple[PointState, Step]:
        position = state.position + jnp.clip(action, -MAX_MOVE, MAX_MOVE)
        offset = position - task.goal
        arrived = jnp.all(jnp.abs(offset) < 0.01)
        reward = -jnp.linalg.norm(offset)
        return PointState(position), Step(obs=position, reward=reward, terminated=arrived, success=arrived)


def navigation(config: NavigationConfig = NavigationConfig()) -> TaskFamily:
    """Builds the family of goals uniform in a square around the start."""

    def sample(key):
        return PointTask(goal=jax.random.uniform(key, (2,), minval=-config.extent, maxval=config.extent))

    return TaskFamily(Navigation(config.horizon), sample, sample, flatten_task)
