"""Mountain car with hidden physics (gymnasium's MountainCar-v0, after Moore, 1990)."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from flax import struct

from jaxmeta.tasks.base import TaskFamily
from jaxmeta.tasks.classic_control.physics import PhysicsConfig, hidden_physics
from jaxmeta.types import Array, Discrete, Key, Spec, Step

MIN_POSITION, MAX_POSITION = -1.2, 0.6
GOAL = 0.5
MAX_SPEED = 0.07


@dataclasses.dataclass(frozen=True)
class MountainCarConfig(PhysicsConfig):
    """`mountain-car`: drive out of a valley with an engine, whose force is not part of the observation.

    Dynamics, start and reward of gymnasium's MountainCar-v0.
    Tasks: by default the engine's force and gravity vary; the sign of the force can too.
    Reward: -1 at every step. The goal, on the right hill at position 0.5, ends the episode and is a success.
    Horizon: 200 steps by default, as in gymnasium; ends at the goal. Start: position uniform in [-0.6, -0.4], at rest.
    Action: accelerate to the left, not at all, or to the right. Observation: position and velocity, [2], without units.
    Training and held-out tasks have the same distribution.
    """

    force: tuple[float, float] = (0.0008, 0.0015)
    """Range of the engine's acceleration per step; 0.001 in gymnasium. If negative, the actions are reversed."""
    gravity: tuple[float, float] = (0.002, 0.003)
    """Range of the acceleration by the steepest slope per step; 0.0025 in gymnasium."""

    def __post_init__(self):
        self.check(MountainCarTask)


class MountainCarTask(struct.PyTreeNode):
    """Physical parameters, scalars in units of position per step²; the defaults are gymnasium's."""

    force: Array | float = 0.001
    gravity: Array | float = 0.0025


class MountainCarState(struct.PyTreeNode):
    """The coordinates, scalars."""

    position: Array
    velocity: Array
    """Per step."""


@dataclasses.dataclass(frozen=True)
class MountainCar:
    """A car in a valley between two hills, whose engine is too weak to climb the right one from rest."""

    horizon: int = 200

    @property
    def spec(self) -> Spec:
        return Spec((2,), Discrete(3), self.horizon, terminates=True, success=True)

    def reset(self, key: Key, task: MountainCarTask) -> tuple[MountainCarState, Array]:
        state = MountainCarState(jax.random.uniform(key, minval=-0.6, maxval=-0.4), jnp.zeros(()))
        return state, _observe(state)

    def step(
        self, key: Key, state: MountainCarState, action: Array, task: MountainCarTask
    ) -> tuple[MountainCarState, Step]:
        """Accelerates; `action` is 0 for left, 1 for not at all, and 2 for right."""
        change = task.force * (action - 1.0) - task.gravity * jnp.cos(3.0 * state.position)
        velocity = jnp.clip(state.velocity + change, -MAX_SPEED, MAX_SPEED)
        position = jnp.clip(state.position + velocity, MIN_POSITION, MAX_POSITION)
        velocity = jnp.where((position == MIN_POSITION) & (velocity < 0), 0.0, velocity)
        state = MountainCarState(position, velocity)
        reached = (position >= GOAL) & (velocity >= 0)
        return state, Step(obs=_observe(state), reward=-jnp.ones(()), terminated=reached, success=reached)


def _observe(state: MountainCarState) -> Array:
    return jnp.stack([state.position, state.velocity])


def mountain_car(config: MountainCarConfig = MountainCarConfig()) -> TaskFamily:
    """Builds the family of mountain cars."""
    return hidden_physics(MountainCar(config.horizon), config, MountainCarTask)
