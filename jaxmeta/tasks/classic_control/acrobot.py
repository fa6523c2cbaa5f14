"""Acrobot with hidden physics (gymnasium's Acrobot-v1, after Sutton, 1996)."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from flax import struct

from jaxmeta.tasks.base import TaskFamily
from jaxmeta.tasks.classic_control.physics import PhysicsConfig, hidden_physics, runge_kutta, wrapped
from jaxmeta.types import Array, Discrete, Key, Spec, Step

DT = 0.2
MAX_SPEEDS = (4 * jnp.pi, 9 * jnp.pi)


@dataclasses.dataclass(frozen=True)
class AcrobotConfig(PhysicsConfig):
    """`acrobot`: swing up two links by the motor between them; their physics is not part of the observation.

    Dynamics ("book"), start and reward of gymnasium's Acrobot-v1. Centres of mass are at half the links' lengths, and
    moments of inertia are mass x length², which gives gymnasium's constants; both follow the task.
    Tasks: by default lengths and masses of both links vary.
    Reward: -1 at every step, but 0 at the one that reaches the goal, which is a success: the tip is higher above the
    fixed joint than the first link is long, 1 m in gymnasium.
    Horizon: 200 steps by default, of 0.2 s (gymnasium's 500); ends at the goal. Start: all coordinates uniform in
    [-0.1, 0.1]; 0 hangs down. Action: torque -1, 0 or 1. Observation: cosine and sine of the first joint's angle, then
    of the second's, which is relative to the first link, and both angular velocities, [6].
    Training and held-out tasks have the same distribution.
    """

    length_1: tuple[float, float] = (0.75, 1.25)
    """Range of the first link's length in m; 1.0 in gymnasium."""
    length_2: tuple[float, float] = (0.75, 1.25)
    """Range of the second link's length in m; 1.0 in gymnasium."""
    mass_1: tuple[float, float] = (0.75, 1.25)
    """Range of the first link's mass in kg; 1.0 in gymnasium."""
    mass_2: tuple[float, float] = (0.75, 1.25)
    """Range of the second link's mass in kg; 1.0 in gymnasium."""
    gravity: tuple[float, float] = (9.8, 9.8)
    """Range in m/s²; 9.8 in gymnasium."""
    torque: tuple[float, float] = (1.0, 1.0)
    """Range of the torque in Nm; 1.0 in gymnasium. If negative, the actions are reversed."""

    def __post_init__(self):
        self.check(AcrobotTask, positive=("length_1", "length_2", "mass_1", "mass_2"))


class AcrobotTask(struct.PyTreeNode):
    """Physical parameters, scalars; the defaults are gymnasium's."""

    length_1: Array | float = 1.0
    """In m."""
    length_2: Array | float = 1.0
    """In m."""
    mass_1: Array | float = 1.0
    """In kg."""
    mass_2: Array | float = 1.0
    """In kg."""
    gravity: Array | float = 9.8
    """In m/s²."""
    torque: Array | float = 1.0
    """In Nm."""


class AcrobotState(struct.PyTreeNode):
    """The coordinates."""

    angles: Array
    """Of both joints in radians, [2]; the first is 0 where the link hangs down, the second relative to the first."""
    velocities: Array
    """In radians/s, [2]."""


@dataclasses.dataclass(frozen=True)
class Acrobot:
    """Two links with a motor between them, integrated by one Runge-Kutta step as in gymnasium."""

    horizon: int = 200

    @property
    def spec(self) -> Spec:
        return Spec((6,), Discrete(3), self.horizon, terminates=True, success=True)

    def reset(self, key: Key, task: AcrobotTask) -> tuple[AcrobotState, Array]:
        start = jax.random.uniform(key, (4,), minval=-0.1, maxval=0.1)
        state = AcrobotState(start[:2], start[2:])
        return state, _observe(state)

    def step(self, key: Key, state: AcrobotState, action: Array, task: AcrobotTask) -> tuple[AcrobotState, Step]:
        """Applies a torque; `action` is 0, 1 or 2 for -1, 0 or 1 times `task.torque`."""
        torque = task.torque * (action - 1.0)

        def derivative(state: AcrobotState) -> AcrobotState:
            return AcrobotState(state.velocities, accelerations(state, torque, task))

        state = runge_kutta(derivative, state, DT)
        limit = jnp.array(MAX_SPEEDS)
        state = AcrobotState(wrapped(state.angles), jnp.clip(state.velocities, -limit, limit))
        first, second = state.angles
        height = -task.length_1 * jnp.cos(first) - task.length_2 * jnp.cos(first + second)
        reached = height > task.length_1
        reward = jnp.where(reached, 0.0, -1.0)
        return state, Step(obs=_observe(state), reward=reward, terminated=reached, success=reached)


def accelerations(state: AcrobotState, torque: Array | float, task: AcrobotTask) -> Array:
    """Computes the angular accelerations of both joints in radians/s², [2] (Sutton and Barto, 1998, section 11.3).

    Args:
      torque: at the second joint, in Nm.
    """
    (first, second), (speed_1, speed_2) = state.angles, state.velocities
    sin, cos = jnp.sin(second), jnp.cos(second)
    centre_1, centre_2 = task.length_1 / 2, task.length_2 / 2
    inertia_1, inertia_2 = task.mass_1 * task.length_1**2, task.mass_2 * task.length_2**2
    lever = task.mass_2 * task.length_1 * centre_2

    # M [a1, a2] = forces, with the symmetric mass matrix M = [[m11, m12], [m12, m22]]
    m22 = task.mass_2 * centre_2**2 + inertia_2
    m12 = m22 + lever * cos
    m11 = task.mass_1 * centre_1**2 + task.mass_2 * task.length_1**2 + inertia_1 + m22 + 2 * lever * cos
    weight_2 = task.mass_2 * centre_2 * task.gravity * jnp.sin(first + second)
    weight_1 = (task.mass_1 * centre_1 + task.mass_2 * task.length_1) * task.gravity * jnp.sin(first)
    force_1 = lever * sin * (speed_2**2 + 2 * speed_1 * speed_2) - weight_1 - weight_2
    force_2 = torque - lever * sin * speed_1**2 - weight_2
    acceleration_2 = (force_2 - m12 / m11 * force_1) / (m22 - m12**2 / m11)
    return jnp.stack([(force_1 - m12 * acceleration_2) / m11, acceleration_2])


def _observe(state: AcrobotState) -> Array:
    first, second = state.angles
    return jnp.stack([jnp.cos(first), jnp.sin(first), jnp.cos(second), jnp.sin(second), *state.velocities])


def acrobot(config: AcrobotConfig = AcrobotConfig()) -> TaskFamily:
    """Builds the family of acrobots."""
    return hidden_physics(Acrobot(config.horizon), config, AcrobotTask)
