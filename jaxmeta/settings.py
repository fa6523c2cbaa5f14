"""Settings of JAX under which programs are traced: float32, and the standard promotion of dtypes and ranks."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import jax

Function = TypeVar("Function", bound=Callable[..., Any])


def standard(function: Function) -> Function:
    """Lets a function trace under JAX's standard promotion of dtypes and ranks, whatever a user has set.

    `jax_numpy_dtype_promotion` and `jax_numpy_rank_promotion` are set to find slips in one's own code; that of jaxmeta,
    and of the libraries that it stands on, relies on promotion.

    Raises:
      ValueError: when the function is called with `jax_enable_x64` on.
    """

    @functools.wraps(function)
    def traced(*arguments: Any, **named: Any) -> Any:
        refuse_x64()
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            return function(*arguments, **named)

    return traced  # pyright: ignore[reportReturnType]  it has the signature of what it wraps


def refuse_x64() -> None:
    """Raises a ValueError where JAX computes in 64 bits."""
    if getattr(jax.config, "jax_enable_x64", False):
        remedy = "jax.config.update('jax_enable_x64', False), or unset JAX_ENABLE_X64"
        raise ValueError(f"jax_enable_x64 is on; jaxmeta computes in float32 (try {remedy})")
