"""Ants with a hidden direction or goal (PEARL: Rakelly et al., 2019, arXiv:1903.08254)."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from flax import struct

from jaxmeta.tasks.base import TaskFamily, flatten_task
from jaxmeta.tasks.brax.config import LocomotionConfig
from jaxmeta.tasks.brax.env import Outcome, coordinates, locomotion
from jaxmeta.types import Array


@dataclasses.dataclass(frozen=True)
class AntDirConfig(LocomotionConfig):
    """`ant-dir`: walk in a direction that is not part of the observation.

    Tasks: angle 0 or π, each with probability 1/2; uniform on [0, 2π) without `forward_backward`.
    Reward: v · (cos, sin) - 0.5 ||a||² + 1, v the torso's displacement in the plane over dt. Brax has no contact
    forces, so PEARL's contact cost is 0 here.
    Horizon: 200 steps by default, of dt = 0.05 s; ends where the torso's height leaves [0.2, 1] m. Action: 8
    torques in [-1, 1], clipped; the cost is that of the clipped action. Observation: positions without root x, y
    [13], velocities [14].
    """

    forward_backward: bool = True
    """Whether directions are forward and backward only."""


@dataclasses.dataclass(frozen=True)
class AntGoalConfig(LocomotionConfig):
    """`ant-goal`: walk to a goal that is not part of the observation.

    Tasks: g = r (cos θ, sin θ) with r = 3 √U[0, 1] m and θ ~ U[0, 2π), uniform on a disc of `radius` 3 m.
    Reward: -||xy - g||₁ - 0.1 ||a||². Brax has no contact forces, so PEARL's contact cost is 0 here.
    Horizon: 200 steps by default, of dt = 0.05 s; never ends early. Action: 8 torques in [-1, 1], clipped; the cost
    is that of the clipped action. Observation: all positions [15], root x, y included as the reward depends on them,
    velocities [14].
    """

    radius: float = 3.0
    """Radius of the disc of goals around the start, in metres."""

    def __post_init__(self):
        super().__post_init__()
        if not self.radius > 0:
            raise ValueError(f"tasks.radius is {self.radius}; goals need a disc of positive size")


class HeadingTask(struct.PyTreeNode):
    """The direction to walk in."""

    angle: Array
    """Angle from the x axis in radians, scalar."""


class GoalTask(struct.PyTreeNode):
    """The goal to walk to."""

    goal: Array
    """Position in metres, [2]."""


def ant_dir(config: AntDirConfig = AntDirConfig()) -> TaskFamily:
    """Builds the family of directions."""

    def reward(outcome: Outcome, task: HeadingTask) -> Array:
        return jnp.dot(outcome.velocity[:2], heading(task)) - 0.5 * outcome.effort + 1.0

    def terminated(outcome: Outcome) -> Array:
        height = outcome.physics.x.pos[0, 2]
        return (height < 0.2) | (height > 1.0)

    def sample(key):
        if config.forward_backward:
            return HeadingTask(jnp.pi * jax.random.bernoulli(key).astype(jnp.float32))
        return HeadingTask(jax.random.uniform(key, maxval=2 * jnp.pi))

    env = locomotion("ant", config, coordinates(hidden=2), reward=reward, terminated=terminated)
    both = HeadingTask(jnp.array([0.0, jnp.pi])) if config.forward_backward else None
    return TaskFamily(env, sample, sample, heading, train_tasks=both)


def ant_goal(config: AntGoalConfig = AntGoalConfig()) -> TaskFamily:
    """Builds the family of goals on a disc."""

    def reward(outcome: Outcome, task: GoalTask) -> Array:
        position = outcome.physics.x.pos[0, :2]
        return -jnp.sum(jnp.abs(position - task.goal)) - 0.1 * outcome.effort

    def sample(key):
        radius_key, angle_key = jax.random.split(key)
        radius = config.radius * jnp.sqrt(jax.random.uniform(radius_key))
        return GoalTask(radius * heading(HeadingTask(jax.random.uniform(angle_key, maxval=2 * jnp.pi))))

    env = locomotion("ant", config, coordinates(hidden=0), reward=reward)
    return TaskFamily(env, sample, sample, flatten_task)


def heading(task: HeadingTask) -> Array:
    """Returns the unit vector of a direction, [2]."""
    return jnp.stack([jnp.cos(task.angle), jnp.sin(task.angle)])
