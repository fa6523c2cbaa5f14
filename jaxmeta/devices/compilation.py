"""Compilation and matrix-product precision."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import Tracer

GPU_OPTIONS = {"xla_gpu_autotune_level": 0, "xla_gpu_enable_triton_gemm": False}
"""XLA options for GPUs: no autotuning of matrix products. Autotuning at least doubles compile time and gains little,
and it can choose other kernels, with other rounding, in every run."""


def compiled(function: Callable[..., Any], **options) -> Callable[..., Any]:
    """Compiles a program that uses `over_tasks` or `map_over_tasks`, in float32; takes the options of `jax.jit`."""
    # JAX accepts compiler options for the outermost jit only
    compiler_options = dict(GPU_OPTIONS) if jax.default_backend() == "gpu" and not _is_inside_program() else None
    return jax.jit(in_float32(function), compiler_options=compiler_options, **options)


def _is_inside_program() -> bool:
    """Returns whether a surrounding jit is being traced; `vmap` alone does not count."""
    return isinstance(jnp.add(0, 0), Tracer)


def in_float32(function: Callable[..., Any]) -> Callable[..., Any]:
    """Decorates a function so that its matrix products use full float32 precision on accelerators.

    JAX's default there rounds the factors to 10 bits (TF32) or 7 (bfloat16) of mantissa: replay would differ from
    collection, and small trust-region steps would be lost. The user's `jax_default_matmul_precision` takes precedence.
    """

    @functools.wraps(function)
    def exact(*arguments, **named):
        asked = getattr(jax.config, "jax_default_matmul_precision", None)
        if jax.default_backend() == "cpu" or asked is not None:
            return function(*arguments, **named)
        with jax.default_matmul_precision("float32"):
            return function(*arguments, **named)

    return exact


def remembered(most: int) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorates a function that builds a compiled program: equal arguments get the program that was built before.

    Otherwise every call would trace and compile again, since a new closure is a new program to `jax.jit`. Arguments
    that cannot be hashed, such as a mutable environment, build a new program each time.

    Args:
      most: number of programs that are kept, the ones used last.
    """

    def decorate(build):
        # where it is built decides on the options of the compiler
        known = functools.lru_cache(most)(lambda inside, *arguments: build(*arguments))

        @functools.wraps(build)
        def program(*arguments):
            try:
                hash(arguments)
            except TypeError:
                return build(*arguments)
            return known(_is_inside_program(), *arguments)

        program.cache_clear = known.cache_clear  # pyright: ignore[reportAttributeAccessIssue]  as of `functools.cache`
        return program

    return decorate
