"""Ranges of named parameters, from which the tasks of an adapter are drawn."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxmeta.config import checks
from jaxmeta.types import Array, Key


class Range(NamedTuple):
    """Values uniform in [low, high]."""

    name: str
    """Name of the parameter."""
    low: float
    high: float


def parse(texts: Iterable[str], known: Iterable[str]) -> tuple[Range, ...]:
    """Reads ranges such as `length=0.25:1.5`, as the field `tasks.vary` of a config has them.

    Args:
      known: names of all parameters that can vary.

    Raises:
      ValueError: if one is not NAME=LOW:HIGH, the name is unknown or appears twice, or LOW exceeds HIGH.
    """
    ranges: dict[str, Range] = {}
    known = list(known)
    for text in texts:
        name, _, limits = text.partition("=")
        try:
            low, high = map(float, limits.split(":"))
        except ValueError:
            raise ValueError(f"tasks.vary has {text!r}; a range is NAME=LOW:HIGH, such as length=0.25:1.5") from None
        if name not in known:
            hint = checks.near_miss(name, known)
            raise ValueError(f"tasks.vary has {text!r}, but there is no parameter {name!r}; {hint}")
        if name in ranges:
            raise ValueError(f"tasks.vary has {name!r} twice; give one range for each parameter")
        if not low <= high:
            raise ValueError(f"tasks.vary has {text!r}; LOW must not exceed HIGH")
        ranges[name] = Range(name, low, high)
    return tuple(ranges.values())


def sample(ranges: tuple[Range, ...], key: Key) -> dict[str, Array]:
    """Draws one value of each range, a scalar float32 by name."""
    keys = jax.random.split(key, max(len(ranges), 1))
    return {
        one.name: jax.random.uniform(one_key, minval=one.low, maxval=one.high)
        for one, one_key in zip(ranges, keys, strict=False)
    }


def encode(ranges: tuple[Range, ...], values: dict[str, Array]) -> Array:
    """Returns the values as a vector, the ends of their ranges at -1 and 1; 0 where a range is a single value."""
    parts = [
        jnp.where(one.high > one.low, 2 * (values[one.name] - one.low) / max(one.high - one.low, 1e-12) - 1, 0.0)
        for one in ranges
    ]
    return jnp.stack(parts).astype(jnp.float32)
