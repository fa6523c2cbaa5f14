"""Half-cheetahs with a hidden goal velocity or direction (MAML: Finn et al., 2017, arXiv:1703.03400)."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from flax import struct

from jaxmeta.tasks.base import TaskFamily, flatten_task
from jaxmeta.tasks.brax.config import LocomotionConfig
from jaxmeta.tasks.brax.env import Outcome, coordinates, locomotion
from jaxmeta.types import Array

CONTROL_COST = 0.05


@dataclasses.dataclass(frozen=True)
class HalfCheetahVelConfig(LocomotionConfig):
    """`half-cheetah-vel`: run at a velocity that is not part of the observation.

    Tasks: v* ~ U[min_velocity, max_velocity], by default [0, 2] m/s as in MAML; PEARL, VariBAD and ProMP use [0, 3].
    Reward: -|v - v*| - 0.05 ||a||², v the torso's displacement along x over dt.
    Horizon: 200 steps by default, of dt = 0.05 s; never ends early. Action: 6 torques in [-1, 1], clipped; the cost
    is that of the clipped action. Observation: positions without root x [8], velocities [9].
    """

    min_velocity: float = 0.0
    """Smallest goal velocity in m/s."""
    max_velocity: float = 2.0
    """Largest goal velocity in m/s."""

    def __post_init__(self):
        super().__post_init__()
        if not self.min_velocity <= self.max_velocity:
            raise ValueError(
                f"tasks.max_velocity is {self.max_velocity}; it must be at least tasks.min_velocity,"
                f" {self.min_velocity}"
            )


@dataclasses.dataclass(frozen=True)
class HalfCheetahDirConfig(LocomotionConfig):
    """`half-cheetah-dir`: run forward or backward; the direction is not part of the observation.

    Tasks: d = ±1, each with probability 1/2. Reward: d v - 0.05 ||a||², v the torso's displacement along x over dt.
    Horizon: 200 steps by default, of dt = 0.05 s; never ends early. Action: 6 torques in [-1, 1], clipped; the cost
    is that of the clipped action. Observation: positions without root x [8], velocities [9].
    """


class VelocityTask(struct.PyTreeNode):
    """The velocity to run at."""

    velocity: Array
    """Along x in m/s, scalar."""


class DirectionTask(struct.PyTreeNode):
    """The direction to run in."""

    direction: Array
    """1.0 is forward, -1.0 backward; scalar."""


def half_cheetah_vel(config: HalfCheetahVelConfig = HalfCheetahVelConfig()) -> TaskFamily:
    """Builds the family of goal velocities."""

    def reward(outcome: Outcome, task: VelocityTask) -> Array:
        return -jnp.abs(outcome.velocity[0] - task.velocity) - CONTROL_COST * outcome.effort

    def sample(key):
        return VelocityTask(jax.random.uniform(key, minval=config.min_velocity, maxval=config.max_velocity))

    env = locomotion("halfcheetah", config, coordinates(hidden=1), reward=reward)
    return TaskFamily(env, sample, sample, flatten_task)


def half_cheetah_dir(config: HalfCheetahDirConfig = HalfCheetahDirConfig()) -> TaskFamily:
    """Builds the family of the two directions."""

    def reward(outcome: Outcome, task: DirectionTask) -> Array:
        return task.direction * outcome.velocity[0] - CONTROL_COST * outcome.effort

    def sample(key):
        return DirectionTask(jax.random.rademacher(key, (), jnp.float32))

    env = locomotion("halfcheetah", config, coordinates(hidden=1), reward=reward)
    both = DirectionTask(jnp.array([1.0, -1.0]))
    return TaskFamily(env, sample, sample, flatten_task, train_tasks=both)
