"""Double integrator: a mass on a line that is pushed to the origin, the smallest test of planners."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
from flax import struct

from jaxmeta.tasks.base import TaskFamily
from jaxmeta.tasks.classic_control.physics import PhysicsConfig, hidden_physics
from jaxmeta.types import Array, Continuous, Key, Spec, Step

COST = 0.001


@dataclasses.dataclass(frozen=True)
class DoubleIntegratorConfig(PhysicsConfig):
    """`double-integrator`: push a mass on a line from 1 to the origin and keep it there.

    Dynamics and reward of the test of PETS in MBRL-Lib (Pineda et al., 2021, arXiv:2104.10159).
    Tasks: by default a single one; the gain of the action can vary, also its sign.
    Reward: -0.001 x² after the step, x the position; planners know it. The optimal return is 0 for a gain of ±1: push
    towards the origin, then brake. Standing still returns -0.001 per step. There is no success flag.
    Horizon: 30 steps by default; never ends early. Start: position 1, velocity 0. Action: a in [-1, 1], clipped; the
    velocity changes by the gain times a, then the position by the velocity. Observation: position and velocity, [2].
    Training and held-out tasks have the same distribution.
    """

    horizon: int = 30
    """Steps in an episode."""
    gain: tuple[float, float] = (1.0, 1.0)
    """Range of the change of the velocity over the action. If negative, the actions are reversed."""

    def __post_init__(self):
        self.check(DoubleIntegratorTask)


class DoubleIntegratorTask(struct.PyTreeNode):
    """Physical parameters, scalars."""

    gain: Array | float = 1.0
    """Change of the velocity over the action."""


@dataclasses.dataclass(frozen=True)
class DoubleIntegrator:
    """A mass on a line without friction; the state is the observation, position and velocity [2]."""

    horizon: int = 30

    @property
    def spec(self) -> Spec:
        return Spec((2,), Continuous(1), self.horizon)

    def reset(self, key: Key, task: DoubleIntegratorTask) -> tuple[Array, Array]:
        start = jnp.array([1.0, 0.0])
        return start, start

    def step(self, key: Key, state: Array, action: Array, task: DoubleIntegratorTask) -> tuple[Array, Step]:
        """Changes the velocity by the gain times the clipped action, [1]."""
        velocity = state[1] + task.gain * jnp.clip(action[0], -1.0, 1.0)
        state = jnp.stack([state[0] + velocity, velocity])
        return state, Step(obs=state, reward=planning_reward(state, action, state), terminated=jnp.array(False))


def planning_reward(obs: Array, action: Array, next_obs: Array) -> Array:
    """Computes the reward from the next observation, [2]."""
    return -COST * next_obs[0] ** 2


def double_integrator(config: DoubleIntegratorConfig = DoubleIntegratorConfig()) -> TaskFamily:
    """Builds the family of double integrators."""
    family = hidden_physics(DoubleIntegrator(config.horizon), config, DoubleIntegratorTask)
    return family._replace(planning_reward=planning_reward)
