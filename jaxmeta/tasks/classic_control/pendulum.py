"""Pendulum with hidden physics (gymnasium's Pendulum-v1)."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from flax import struct

from jaxmeta.tasks.base import TaskFamily
from jaxmeta.tasks.classic_control.physics import PhysicsConfig, hidden_physics, wrapped
from jaxmeta.types import Array, Continuous, Key, Spec, Step

DT = 0.05
MAX_SPEED = 8.0
MAX_TORQUE = 2.0


@dataclasses.dataclass(frozen=True)
class PendulumConfig(PhysicsConfig):
    """`pendulum`: swing up and balance a rod, whose physics is not part of the observation.

    Dynamics, start and reward of gymnasium's Pendulum-v1.
    Tasks: by default mass and length vary; the gain of the motor can too, also its sign.
    Reward: -(θ² + 0.1 ω² + 0.001 a²) before the step, θ the angle in [-π, π), 0 upright, ω the angular velocity and a
    the clipped action; planners know it. There is no success flag.
    Horizon: 200 steps by default, of 0.05 s, as in gymnasium; never ends early. Start: θ uniform in [-π, π], ω in
    [-1, 1]. Action: a in [-2, 2] Nm, clipped; the torque is the gain times it. Observation: cos θ, sin θ, ω, [3].
    Training and held-out tasks have the same distribution.
    """

    gravity: tuple[float, float] = (10.0, 10.0)
    """Range in m/s²; 10.0 in gymnasium."""
    mass: tuple[float, float] = (0.75, 1.25)
    """Range in kg; 1.0 in gymnasium."""
    length: tuple[float, float] = (0.75, 1.25)
    """Range in m; 1.0 in gymnasium."""
    gain: tuple[float, float] = (1.0, 1.0)
    """Range of the torque over the action; 1.0 in gymnasium. If negative, the motor is reversed."""
    reverse: bool = False
    """Whether the motor is reversed in half of the tasks: the gain is negated."""

    def __post_init__(self):
        self.check(PendulumTask, positive=("mass", "length"))
        if self.reverse and self.gain[0] < 0:
            raise ValueError(f"tasks.gain is {self.gain}; with reverse its ends must not be negative")


class PendulumTask(struct.PyTreeNode):
    """Physical parameters, scalars; the defaults are gymnasium's."""

    gravity: Array | float = 10.0
    """In m/s²."""
    mass: Array | float = 1.0
    """In kg."""
    length: Array | float = 1.0
    """In m."""
    gain: Array | float = 1.0
    """Torque over action."""


class PendulumState(struct.PyTreeNode):
    """Angle and angular velocity, scalars."""

    angle: Array
    """In radians, not wrapped; 0 is upright."""
    velocity: Array
    """In radians/s."""


@dataclasses.dataclass(frozen=True)
class Pendulum:
    """A rod with a motor at its end, integrated by the semi-implicit Euler method as in gymnasium."""

    horizon: int = 200

    @property
    def spec(self) -> Spec:
        return Spec((3,), Continuous(1, MAX_TORQUE), self.horizon)

    def reset(self, key: Key, task: PendulumTask) -> tuple[PendulumState, Array]:
        start = jax.random.uniform(key, (2,), minval=-1.0, maxval=1.0)
        state = PendulumState(jnp.pi * start[0], start[1])
        return state, _observe(state)

    def step(self, key: Key, state: PendulumState, action: Array, task: PendulumTask) -> tuple[PendulumState, Step]:
        """Applies the gain times the clipped action, [1], as the torque."""
        action = jnp.clip(action[0], -MAX_TORQUE, MAX_TORQUE)
        cost = _cost(wrapped(state.angle), state.velocity, action)
        fall = 3.0 * task.gravity / (2.0 * task.length) * jnp.sin(state.angle)
        drive = 3.0 / (task.mass * task.length**2) * task.gain * action
        velocity = jnp.clip(state.velocity + DT * (fall + drive), -MAX_SPEED, MAX_SPEED)
        state = PendulumState(state.angle + DT * velocity, velocity)
        return state, Step(obs=_observe(state), reward=-cost, terminated=jnp.array(False))


def _cost(angle: Array, velocity: Array, action: Array) -> Array:
    return angle**2 + 0.1 * velocity**2 + 0.001 * action**2


def planning_reward(obs: Array, action: Array, next_obs: Array) -> Array:
    """Computes the reward from the observation [3] and the action [1]."""
    return -_cost(jnp.arctan2(obs[1], obs[0]), obs[2], action[0])


def _observe(state: PendulumState) -> Array:
    return jnp.stack([jnp.cos(state.angle), jnp.sin(state.angle), state.velocity])


def pendulum(config: PendulumConfig = PendulumConfig()) -> TaskFamily:
    """Builds the family of pendulums."""
    signed = ("gain",) if config.reverse else ()
    family = hidden_physics(Pendulum(config.horizon), config, PendulumTask, signed)
    return family._replace(planning_reward=planning_reward)
