"""Differential privacy of the clients: Gaussian noise, its settings, and what cannot be accounted for.

An update releases the noised mean of the clients' messages, each clipped to norm C. What follows from the released mean
and from public numbers alone, such as the server's step, the norm of the mean, or ε, costs no further privacy. Losses,
returns and counts of the clients are not of this kind.

The guarantee requires that the random numbers stay secret: with the seed of a run, the noise can be subtracted. Noise
is sampled in float32, so it does not protect against attacks on floating-point rounding (Mironov, 2012).
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax

from jaxmeta.config import checks
from jaxmeta.types import Array, Key


@dataclasses.dataclass(frozen=True)
class PrivateConfig:
    """Differential privacy of clients by the Gaussian mechanism (McMahan et al., 2018, arXiv:1710.06963)."""

    noise_multiplier: float = 0.0
    """σ: standard deviation of the noise on the sum of the clients' messages, relative to `clip`; 0 adds none."""
    clip: float | None = None
    """C: maximum norm of a client's message; longer ones are scaled down. None does not clip."""
    delta: float | None = None
    """δ of the guarantee; None takes M^-1.1 with M clients."""

    def __post_init__(self):
        checks.finite(self)
        checks.not_negative(self, "noise_multiplier")
        checks.positive(self, "clip")
        if self.delta is not None and not 0 < self.delta < 1:
            raise ValueError(f"delta is {self.delta}; it must be above 0 and below 1")
        if self.noise_multiplier and self.clip is None:
            raise ValueError("clip is None; noise is relative to it, so with noise_multiplier > 0 it must be a number")
        if self.delta is not None and not self.noise_multiplier:
            raise ValueError("noise_multiplier is 0.0; without noise there is no ε, so leave delta out (None)")

    @property
    def is_private(self) -> bool:
        """Whether there is noise, and so a guarantee."""
        return self.noise_multiplier > 0

    def deviation(self, expected: float) -> float:
        """Returns the standard deviation of the noise on the mean of n expected clients, σ C / n."""
        return 0.0 if self.clip is None else self.noise_multiplier * self.clip / expected


def with_noise(tree: Any, key: Key, deviation: float) -> Any:
    """Adds independent Gaussian noise to all entries of all leaves; `deviation` is its standard deviation."""
    leaves, form = jax.tree.flatten(tree)
    keys = jax.random.split(key, len(leaves))

    def noised(leaf: Array, key: Key) -> Array:
        return leaf + deviation * jax.random.normal(key, leaf.shape, leaf.dtype)

    return form.unflatten([noised(leaf, key) for leaf, key in zip(leaves, keys, strict=True)])


def refuse_private(aggregate: Any, why: str | None) -> None:
    """Raises a ValueError if an aggregate is private and the privacy of what uses it cannot be accounted for.

    Args:
      why: the reason, as `field is value; ...`; None if it can be accounted for.
    """
    if why is not None and getattr(aggregate, "is_private", False):
        raise ValueError(why)
