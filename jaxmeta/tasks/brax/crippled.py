"""Half-cheetahs and ants with dead motors (GrBAL: Nagabandi et al., 2019, arXiv:1803.11347)."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from flax import struct

from jaxmeta.tasks.base import TaskFamily
from jaxmeta.tasks.brax.config import LocomotionConfig
from jaxmeta.tasks.brax.env import Locomotion, Outcome, coordinates, locomotion
from jaxmeta.types import Array

JOINTS, LEGS = 6, 4
"""Joints of a half-cheetah with a motor each; legs of an ant with two motors each."""


def _check_split(held_out: tuple[int, ...], number: int, what: str) -> None:
    if not held_out or not set(held_out) < set(range(number)):
        raise ValueError(
            f"tasks.held_out is {held_out}; it must be some of the {what} 0 to {number - 1}, but not all of them"
        )


@dataclasses.dataclass(frozen=True)
class HalfCheetahCrippledConfig(LocomotionConfig):
    """`half-cheetah-crippled`: run forward with one dead joint; which one is not part of the observation.

    As in GrBAL's code: the motor of the joint gets the command 0.
    Tasks: joints 0 to 5 are those of the back thigh, shin and foot, then of the front; each of the training joints is
    equally likely, and so is each of the held-out ones. By default joint 0 is held out and 1 to 5 are for training.
    Reward: v - 0.05 ||u||², v the torso's displacement along x over dt, u the commands, 0 at the dead joint; no success
    flag.
    Horizon: 200 steps by default, of dt = 0.05 s, GrBAL's have 1,000; never ends early. Action: 6 torques in [-1, 1],
    clipped. Observation: positions without root x [8], velocities [9].
    """

    held_out: tuple[int, ...] = (0,)
    """Joints of the held-out tasks; the others are for training."""

    def __post_init__(self):
        super().__post_init__()
        _check_split(self.held_out, JOINTS, "joints")


@dataclasses.dataclass(frozen=True)
class AntCrippledConfig(LocomotionConfig):
    """`ant-crippled`: walk forward with one dead leg; which one is not part of the observation.

    As in GrBAL's code: both motors of the leg get the command 0. There the leg is shortened as well; here it keeps its
    shape.
    Tasks: legs 0 to 3 in the order of their motors, two each; each of the training legs is equally likely, and so is
    each of the held-out ones. By default leg 0 is held out, as in GrBAL's code, and 1 to 3 are for training.
    Reward: v + 0.05, v the torso's displacement along x over dt; no control cost and no success flag.
    Horizon: 200 steps by default, of dt = 0.05 s, GrBAL's have 1,000; never ends early. Action: 8 torques in [-1, 1],
    clipped. Observation: positions without root x, y [13], velocities [14].
    """

    held_out: tuple[int, ...] = (0,)
    """Legs of the held-out tasks; the others are for training."""

    def __post_init__(self):
        super().__post_init__()
        _check_split(self.held_out, LEGS, "legs")


class CrippledTask(struct.PyTreeNode):
    """What is dead."""

    dead: Array
    """Index of the joint or leg, int32 scalar."""


def half_cheetah_crippled(config: HalfCheetahCrippledConfig = HalfCheetahCrippledConfig()) -> TaskFamily:
    """Builds the family of half-cheetahs with a dead joint."""

    def reward(outcome: Outcome, task: CrippledTask) -> Array:
        return outcome.velocity[0] - 0.05 * outcome.effort

    def command(action: Array, task: CrippledTask) -> Array:
        return jnp.where(jnp.arange(JOINTS) == task.dead, 0.0, action)

    env = locomotion("halfcheetah", config, coordinates(hidden=1), reward, command=command)
    return _family(env, config.held_out, JOINTS)


def ant_crippled(config: AntCrippledConfig = AntCrippledConfig()) -> TaskFamily:
    """Builds the family of ants with a dead leg."""

    def reward(outcome: Outcome, task: CrippledTask) -> Array:
        return outcome.velocity[0] + 0.05

    def command(action: Array, task: CrippledTask) -> Array:
        return jnp.where(jnp.arange(2 * LEGS) // 2 == task.dead, 0.0, action)

    env = locomotion("ant", config, coordinates(hidden=2), reward, command=command)
    return _family(env, config.held_out, LEGS)


def _family(env: Locomotion, held_out: tuple[int, ...], number: int) -> TaskFamily:
    """Splits `number` tasks; a task is encoded as a one-hot vector of what is dead."""
    train = jnp.array([one for one in range(number) if one not in held_out], jnp.int32)
    test = jnp.array(sorted(set(held_out)), jnp.int32)

    def uniform(choices):
        return lambda key: CrippledTask(choices[jax.random.randint(key, (), 0, len(choices))])

    def encode(task):
        return jax.nn.one_hot(task.dead, number)

    return TaskFamily(env, uniform(train), uniform(test), encode, train_tasks=CrippledTask(train))
