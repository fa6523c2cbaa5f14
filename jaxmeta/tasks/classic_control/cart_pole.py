"""Cart-pole with hidden physics (gymnasium's CartPole-v1, after Barto, Sutton and Anderson, 1983)."""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp
from flax import struct

from jaxmeta.tasks.base import TaskFamily
from jaxmeta.tasks.classic_control.physics import PhysicsConfig, hidden_physics
from jaxmeta.types import Array, Discrete, Key, Spec, Step

DT = 0.02
MAX_POSITION = 2.4
MAX_ANGLE = 12 * 2 * math.pi / 360


@dataclasses.dataclass(frozen=True)
class CartPoleConfig(PhysicsConfig):
    """`cart-pole`: balance a pole on a cart whose physics is not part of the observation.

    Dynamics, start and reward of gymnasium's CartPole-v1.
    Tasks: by default the pole's length and both masses, and gravity vary; the force can too, also its sign.
    Reward: 1 at every step, the one that ends the episode included.
    Horizon: 200 steps by default, of 0.02 s; ends where the cart is more than 2.4 m from the centre or the pole leans
    by more than 12°. Start: all coordinates uniform in [-0.05, 0.05]. Action: push left or right. Observation: position
    and velocity of the cart, angle, 0 upright, and angular velocity of the pole, [4]. There is no success flag.
    Training and held-out tasks have the same distribution.
    """

    gravity: tuple[float, float] = (5.0, 15.0)
    """Range in m/s²; 9.8 in gymnasium."""
    masscart: tuple[float, float] = (0.5, 2.0)
    """Range of the cart's mass in kg; 1.0 in gymnasium."""
    masspole: tuple[float, float] = (0.05, 0.5)
    """Range of the pole's mass in kg; 0.1 in gymnasium."""
    length: tuple[float, float] = (0.25, 1.5)
    """Range of half the pole's length in m; 0.5 in gymnasium."""
    force_mag: tuple[float, float] = (10.0, 10.0)
    """Range of the force in N; 10.0 in gymnasium. If negative, the actions are reversed."""

    def __post_init__(self):
        self.check(CartPoleTask, positive=("masscart", "masspole", "length"))


class CartPoleTask(struct.PyTreeNode):
    """Physical parameters, scalars; the defaults are gymnasium's."""

    gravity: Array | float = 9.8
    """In m/s²."""
    masscart: Array | float = 1.0
    """In kg."""
    masspole: Array | float = 0.1
    """In kg."""
    length: Array | float = 0.5
    """Half the pole's length, in m."""
    force_mag: Array | float = 10.0
    """In N."""


class CartPoleState(struct.PyTreeNode):
    """The coordinates, scalars."""

    position: Array
    """In m."""
    velocity: Array
    """In m/s."""
    angle: Array
    """In radians, 0 is upright."""
    angular_velocity: Array
    """In radians/s."""


@dataclasses.dataclass(frozen=True)
class CartPole:
    """A pole on a cart, integrated by Euler's method as in gymnasium."""

    horizon: int = 200

    @property
    def spec(self) -> Spec:
        return Spec((4,), Discrete(2), self.horizon, terminates=True)

    def reset(self, key: Key, task: CartPoleTask) -> tuple[CartPoleState, Array]:
        state = CartPoleState(*jax.random.uniform(key, (4,), minval=-0.05, maxval=0.05))
        return state, _observe(state)

    def step(self, key: Key, state: CartPoleState, action: Array, task: CartPoleTask) -> tuple[CartPoleState, Step]:
        """Pushes the cart; `action` is 0 for left and 1 for right."""
        acceleration, angular_acceleration = accelerations(state, jnp.where(action == 1, 1.0, -1.0), task)
        state = CartPoleState(
            position=state.position + DT * state.velocity,
            velocity=state.velocity + DT * acceleration,
            angle=state.angle + DT * state.angular_velocity,
            angular_velocity=state.angular_velocity + DT * angular_acceleration,
        )
        failed = (jnp.abs(state.position) > MAX_POSITION) | (jnp.abs(state.angle) > MAX_ANGLE)
        return state, Step(obs=_observe(state), reward=jnp.ones(()), terminated=failed)


def accelerations(state: CartPoleState, push: Array, task: CartPoleTask) -> tuple[Array, Array]:
    """Computes the accelerations of cart and pole (Florian, 2007, "Correct equations for the dynamics of the cart-pole
    system", without friction).

    Args:
      push: share of the force, in [-1, 1]; positive is to the right.

    Returns:
      In m/s² and radians/s².
    """
    sin, cos = jnp.sin(state.angle), jnp.cos(state.angle)
    total_mass = task.masscart + task.masspole
    moment = task.masspole * task.length
    free = (task.force_mag * push + moment * state.angular_velocity**2 * sin) / total_mass
    inertia = task.length * (4.0 / 3.0 - task.masspole * cos**2 / total_mass)
    angular_acceleration = (task.gravity * sin - cos * free) / inertia
    return free - moment * angular_acceleration * cos / total_mass, angular_acceleration


def _observe(state: CartPoleState) -> Array:
    return jnp.stack([state.position, state.velocity, state.angle, state.angular_velocity])


def cart_pole(config: CartPoleConfig = CartPoleConfig()) -> TaskFamily:
    """Builds the family of cart-poles."""
    return hidden_physics(CartPole(config.horizon), config, CartPoleTask)
