"""Cart-pole swing-up with hidden physics (PILCO: Deisenroth and Rasmussen, 2011)."""

from __future__ import annotations

import dataclasses
import functools
from typing import Literal

import jax
import jax.numpy as jnp
from flax import struct

from jaxmeta.config import checks
from jaxmeta.tasks.base import TaskFamily
from jaxmeta.tasks.classic_control.physics import PhysicsConfig, hidden_physics, runge_kutta
from jaxmeta.types import Array, Continuous, Key, Spec, Step

DT = 0.02
START_STD = 0.1
REWARD_WIDTH = 0.25


@dataclasses.dataclass(frozen=True)
class CartPoleSwingUpConfig(PhysicsConfig):
    """`cart-pole-swing-up`: swing up and balance a pole on a cart, whose physics is not part of the observation.

    Dynamics, constants, start and cost of PILCO (Deisenroth and Rasmussen, 2011), which Deep PILCO (Gal et al., 2016)
    uses too. PILCO chooses a force every 0.1 s, for 4 s; here it is by default every 0.02 s, so that 200 steps are 4 s.
    Tasks: by default length and mass of the pole vary; the force can too, also its sign.
    Reward: exp(-d² / (2 · 0.25²)) after the step, d the distance in m of the pole's tip from where it is when the pole
    is upright and the cart at 0: 1 minus PILCO's cost. It depends on the length; with `reward` "angle" it is a function
    of observation and action, which planners know: (1 + cos φ) / 2 · exp(-x² / 4) - a² / 100 after the step, φ the
    angle from upright, x the position of the cart in m and a the action. There is no success flag.
    Horizon: 200 steps by default, of 0.02 s; never ends early, and the track has no ends. Start: all coordinates normal
    with a standard deviation of 0.1 around the hanging pole at rest at 0. Action: share of the force, in [-1, 1],
    clipped. Observation: position and velocity of the cart, cosine and sine of the pole's angle, 0 hanging, and its
    angular velocity, [5]. Training and held-out tasks have the same distribution.
    """

    gravity: tuple[float, float] = (9.82, 9.82)
    """Range in m/s²; 9.82 in PILCO."""
    masscart: tuple[float, float] = (0.5, 0.5)
    """Range of the cart's mass in kg; 0.5 in PILCO."""
    masspole: tuple[float, float] = (0.3, 0.7)
    """Range of the pole's mass in kg; 0.5 in PILCO."""
    length: tuple[float, float] = (0.3, 0.7)
    """Range of the pole's whole length in m; 0.5 in PILCO."""
    friction: tuple[float, float] = (0.1, 0.1)
    """Range of the friction between cart and ground in Ns/m; 0.1 in PILCO."""
    force_mag: tuple[float, float] = (10.0, 10.0)
    """Range of the largest force in N; 10 in PILCO. If negative, the actions are reversed."""
    reward: Literal["tip", "angle"] = "tip"
    """What is rewarded: the position of the pole's tip, or the pole's angle and the position of the cart."""
    repeat: int = 1
    """Times 0.02 s that a force is applied, the length of a step; 5 in PILCO."""

    def __post_init__(self):
        self.check(CartPoleSwingUpTask, positive=("masscart", "masspole", "length"))
        checks.task_sizes(self, repeat="an action is applied at least once")
        checks.choice(self, "reward", "tip", "angle")


class CartPoleSwingUpTask(struct.PyTreeNode):
    """Physical parameters, scalars; the defaults are PILCO's."""

    gravity: Array | float = 9.82
    """In m/s²."""
    masscart: Array | float = 0.5
    """In kg."""
    masspole: Array | float = 0.5
    """In kg."""
    length: Array | float = 0.5
    """The pole's whole length, in m."""
    friction: Array | float = 0.1
    """In Ns/m."""
    force_mag: Array | float = 10.0
    """In N."""


class CartPoleSwingUpState(struct.PyTreeNode):
    """The coordinates, scalars."""

    position: Array
    """In m."""
    velocity: Array
    """In m/s."""
    angle: Array
    """In radians, 0 hangs down."""
    angular_velocity: Array
    """In radians/s."""


@dataclasses.dataclass(frozen=True)
class CartPoleSwingUp:
    """A pole on a cart that starts hanging, integrated by Runge-Kutta steps of 0.02 s."""

    horizon: int = 200
    reward: Literal["tip", "angle"] = "tip"
    """As in `CartPoleSwingUpConfig`."""
    repeat: int = 1
    """Runge-Kutta steps per action."""

    @property
    def spec(self) -> Spec:
        return Spec((5,), Continuous(1), self.horizon)

    def reset(self, key: Key, task: CartPoleSwingUpTask) -> tuple[CartPoleSwingUpState, Array]:
        state = CartPoleSwingUpState(*(START_STD * jax.random.normal(key, (4,))))
        return state, _observe(state)

    def step(
        self, key: Key, state: CartPoleSwingUpState, action: Array, task: CartPoleSwingUpTask
    ) -> tuple[CartPoleSwingUpState, Step]:
        """Pushes the cart with the clipped action, [1], times `task.force_mag`."""
        action = jnp.clip(action, -1.0, 1.0)
        force = task.force_mag * action[0]
        for _ in range(self.repeat):
            state = runge_kutta(lambda state: derivative(state, force, task), state, DT)
        obs = _observe(state)
        reward = tip_reward(obs, task.length) if self.reward == "tip" else angle_reward(obs, action, obs)
        return state, Step(obs=obs, reward=reward, terminated=jnp.array(False))


def tip_reward(next_obs: Array, length: Array | float) -> Array:
    """Computes PILCO's reward from the position of the pole's tip; `length` is that of the pole in m."""
    position, _, cos, sin, _ = next_obs
    sideways, below = position + length * sin, length * (1.0 + cos)
    return jnp.exp(-(sideways**2 + below**2) / (2.0 * REWARD_WIDTH**2))


def angle_reward(obs: Array, action: Array, next_obs: Array) -> Array:
    """Computes the reward of an upright pole on a centred cart; it does not depend on the physics.

    Cosine and sine are divided by their norm, which is 1 unless a model predicted them: a plan must not gain from an
    impossible angle.
    """
    position, _, cos, sin, _ = next_obs
    upright = -cos / jnp.maximum(jnp.hypot(cos, sin), 1e-6)
    return 0.5 * (1.0 + upright) * jnp.exp(-0.25 * position**2) - 0.01 * action[0] ** 2


def derivative(state: CartPoleSwingUpState, force: Array | float, task: CartPoleSwingUpTask) -> CartPoleSwingUpState:
    """Computes the derivatives of all coordinates by time (Deisenroth, 2010, appendix C).

    Args:
      force: on the cart, in N; positive is to the right.
    """
    sin, cos = jnp.sin(state.angle), jnp.cos(state.angle)
    mass, total_mass = task.masspole, task.masscart + task.masspole
    push = force - task.friction * state.velocity
    swing = mass * task.length * state.angular_velocity**2 * sin
    # 4 det M / m of the mass matrix M, for the pole's moment of inertia m l² / 3 about its joint
    divisor = 4.0 * total_mass - 3.0 * mass * cos**2
    acceleration = (2.0 * swing + 3.0 * mass * task.gravity * sin * cos + 4.0 * push) / divisor
    turn = -3.0 * swing * cos - 6.0 * total_mass * task.gravity * sin - 6.0 * push * cos
    return CartPoleSwingUpState(state.velocity, acceleration, state.angular_velocity, turn / (task.length * divisor))


def _observe(state: CartPoleSwingUpState) -> Array:
    angle = state.angle
    return jnp.stack([state.position, state.velocity, jnp.cos(angle), jnp.sin(angle), state.angular_velocity])


def cart_pole_swing_up(config: CartPoleSwingUpConfig = CartPoleSwingUpConfig()) -> TaskFamily:
    """Builds the family of cart-poles to swing up."""
    family = hidden_physics(CartPoleSwingUp(config.horizon, config.reward, config.repeat), config, CartPoleSwingUpTask)
    return family._replace(planning_reward=_planning_reward(config))


def _planning_reward(config: CartPoleSwingUpConfig):
    """Returns the reward as a function of observations and action; None if it depends on a length that varies."""
    if config.reward == "angle":
        return angle_reward
    low, high = config.length
    return functools.partial(_tip_of, length=low) if low == high else None


def _tip_of(obs: Array, action: Array, next_obs: Array, length: float) -> Array:
    return tip_reward(next_obs, length)
