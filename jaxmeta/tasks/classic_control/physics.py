"""What the families share: ranges of physical parameters, tasks drawn from them, and a Runge-Kutta step."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

from jaxmeta.config import checks
from jaxmeta.tasks.adapters import ranges
from jaxmeta.tasks.base import Env, TaskFamily
from jaxmeta.types import Array, Key, Task

C = TypeVar("C", bound="PhysicsConfig")


@dataclasses.dataclass(frozen=True)
class PhysicsConfig:
    """The fields that every family has."""

    horizon: int = 200
    """Steps in an episode."""
    num_episodes: int = 2
    """Episodes per trial of recurrent agents."""

    def check(self, parameters: type, positive: tuple[str, ...] = ()) -> None:
        """Checks sizes and ranges.

        Args:
          parameters: class of the tasks, with a field for each parameter.
          positive: names of the parameters that must be above zero.

        Raises:
          ValueError: if a size is below 1, a range is not finite, its low end exceeds the high one, or a value that is
            not positive would be possible where it must be.
          TypeError: if a field does not have its declared type.
        """
        checks.task_sizes(self, horizon=checks.AN_EPISODE, num_episodes=checks.A_TRIAL)
        for name in names(parameters):
            low, high = limits = getattr(self, name)
            if not (math.isfinite(low) and math.isfinite(high)):
                raise ValueError(f"tasks.{name} is {limits}; both ends must be finite")
            if low > high:
                raise ValueError(f"tasks.{name} is {limits}; a range is LOW HIGH, and LOW must not exceed HIGH")
            if name in positive and not low > 0:
                raise ValueError(f"tasks.{name} is {limits}; it must be positive")


def names(parameters: type) -> tuple[str, ...]:
    """Lists the parameters, which are the fields of a task."""
    return tuple(field.name for field in dataclasses.fields(parameters))


def fixed(config: C, parameters: type) -> C:
    """Fixes all parameters at the defaults of the tasks, such as gymnasium's constants."""
    standard = {field.name: (field.default, field.default) for field in dataclasses.fields(parameters)}
    return dataclasses.replace(config, **standard)


def hidden_physics(env: Env, config: PhysicsConfig, parameters: type, signed: tuple[str, ...] = ()) -> TaskFamily:
    """Builds the family of an environment whose task is its physical parameters.

    `encode` returns the D parameters that vary, scaled to [-1, 1], [D]; if none does, there is one task.

    Args:
      signed: names of parameters that are negated in half of the tasks; their ranges must not be negative.
    """
    limits = [ranges.Range(name, *map(float, getattr(config, name))) for name in names(parameters)]
    encoded = [ranges.Range(one.name, -one.high, one.high) if one.name in signed else one for one in limits]
    varied = [one for one in encoded if one.low < one.high]

    def sample(key: Key) -> Task:
        drawn = ranges.sample(tuple(limits), key)
        for index, name in enumerate(signed):
            drawn[name] *= jax.random.rademacher(jax.random.fold_in(key, index), (), drawn[name].dtype)
        return parameters(**drawn)

    def encode(task: Task) -> Array:
        scaled = [(2.0 * getattr(task, one.name) - one.low - one.high) / (one.high - one.low) for one in varied]
        return jnp.stack(scaled) if scaled else jnp.zeros(0)

    single = None if varied else jax.tree.map(lambda leaf: leaf[None], sample(jax.random.key(0)))
    return TaskFamily(env, sample, sample, encode, episodes=config.num_episodes, train_tasks=single)


def runge_kutta(derivative: Callable[[Any], Any], state: Any, dt: float) -> Any:
    """Advances a state by one step of the classical Runge-Kutta method of order 4.

    Args:
      derivative: state -> its derivative by time, with the same structure.
      dt: in seconds.
    """

    def shifted(slope, time):
        return jax.tree.map(lambda leaf, change: leaf + time * change, state, slope)

    first = derivative(state)
    second = derivative(shifted(first, dt / 2))
    third = derivative(shifted(second, dt / 2))
    fourth = derivative(shifted(third, dt))
    mean = jax.tree.map(lambda a, b, c, d: (a + 2 * b + 2 * c + d) / 6, first, second, third, fourth)
    return shifted(mean, dt)


def wrapped(angle: Array) -> Array:
    """Returns the same angle in [-π, π), in radians."""
    return (angle + jnp.pi) % (2 * jnp.pi) - jnp.pi
