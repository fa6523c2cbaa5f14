"""JAX settings under which programs are traced: float32, and standard promotion of dtypes and ranks."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import jax


@contextlib.contextmanager
def standard() -> Iterator[None]:
    """Traces under JAX's standard promotion of dtypes and ranks, whatever the user's settings; also a decorator.

    Users set `jax_numpy_dtype_promotion` and `jax_numpy_rank_promotion` to find mistakes in their own code; jaxmeta and
    the libraries it depends on rely on promotion.

    Raises:
      ValueError: if `jax_enable_x64` is on.
    """
    refuse_x64()
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def refuse_x64() -> None:
    """Raises a ValueError if `jax_enable_x64` is on."""
    if getattr(jax.config, "jax_enable_x64", False):
        remedy = "jax.config.update('jax_enable_x64', False), or unset JAX_ENABLE_X64"
        raise ValueError(f"jax_enable_x64 is on; jaxmeta computes in float32 (try {remedy})")
