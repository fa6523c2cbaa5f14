"""Settings of JAX under which programs are traced: float32, and the standard promotion of dtypes and ranks."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import jax


@contextlib.contextmanager
def standard() -> Iterator[None]:
    """Traces under JAX's standard promotion of dtypes and ranks, whatever a user has set; also a decorator.

    `jax_numpy_dtype_promotion` and `jax_numpy_rank_promotion` are set to find slips in one's own code; that of jaxmeta,
    and of the libraries that it stands on, relies on promotion.

    Raises:
      ValueError: if `jax_enable_x64` is on.
    """
    refuse_x64()
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def refuse_x64() -> None:
    """Raises a ValueError where JAX computes in 64 bits."""
    if getattr(jax.config, "jax_enable_x64", False):
        remedy = "jax.config.update('jax_enable_x64', False), or unset JAX_ENABLE_X64"
        raise ValueError(f"jax_enable_x64 is on; jaxmeta computes in float32 (try {remedy})")
