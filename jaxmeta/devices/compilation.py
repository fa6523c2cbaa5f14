"""How programs are compiled."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import Tracer

GPU_OPTIONS = {"xla_gpu_autotune_level": 0, "xla_gpu_enable_triton_gemm": False}
"""How programs are compiled for a GPU: without trying for every product which of many kernels is the fastest. That
takes at least as long as all the rest and gains little, and what is chosen, hence how it rounds, can differ by run."""


def compiled(function: Callable[..., Any], **options) -> Callable[..., Any]:
    """Compiles a program that uses `over_tasks` or `map_over_tasks` in float32; options as those of `jax.jit`."""
    # JAX takes them for whole programs alone: how a program is compiled is not for a part of it to say
    compiler_options = dict(GPU_OPTIONS) if jax.default_backend() == "gpu" and not _is_inside_program() else None
    return jax.jit(in_float32(function), compiler_options=compiler_options, **options)


def _is_inside_program() -> bool:
    """Whether what is computed now becomes part of a program that is being traced; `vmap` alone makes none."""
    return isinstance(jnp.add(0, 0), Tracer)


def in_float32(function: Callable[..., Any]) -> Callable[..., Any]:
    """Makes the matrix products of a function as exact on accelerators as on a CPU.

    JAX's own default there rounds the factors to 10 bits (TF32) or 7 (bfloat16): replay would differ from collection,
    and a small step of a trust region be lost. `jax_default_matmul_precision` goes before, where a user has set it.
    """

    @functools.wraps(function)
    def exact(*arguments, **named):
        asked = getattr(jax.config, "jax_default_matmul_precision", None)
        if jax.default_backend() == "cpu" or asked is not None:
            return function(*arguments, **named)
        with jax.default_matmul_precision("float32"):
            return function(*arguments, **named)

    return exact
