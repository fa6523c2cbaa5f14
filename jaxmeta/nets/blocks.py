"""Computation in blocks and in chunks, so that the memory of a long stream is linear in its length."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxmeta.types import Array

BLOCK = 128


def blockwise_vmap(function: Callable[..., Any], per_step):
    """Vmaps over the steps of a stream; for long streams in blocks, which are rematerialised in the backward pass.

    For functions that read the whole stream at each step: memory is then linear in its length, not quadratic.
    """
    if jax.tree.leaves(per_step)[0].shape[0] <= BLOCK:
        return jax.vmap(function)(per_step)
    return jax.lax.map(jax.checkpoint(function), per_step, batch_size=BLOCK)


def scan_chunks(
    function: Callable[[Any, Any, Array], tuple[Any, Any]], state: Any, per_step: Any, valid: Array, chunk: int
) -> tuple[Any, Any]:
    """Advances a state over the chunks of a stream.

    Args:
      function: (state, leaves of `per_step` [C, ...], valid [C]) -> (state, results [C, ...]). Invalid steps must not
        change the state: the last chunk is padded with them. Wrapped in `jax.checkpoint` it stores the states between
        chunks only.
      per_step: leaves [T, ...].
      valid: [T].
      chunk: steps in a chunk, C; a shorter stream is one chunk.

    Returns:
      The last state, and the results of all steps, [T, ...].
    """
    length = valid.shape[0]
    if length <= chunk:
        return function(state, per_step, valid)

    def cut(steps: Array) -> Array:
        padded = jnp.pad(steps, ((0, -length % chunk), *((0, 0) for _ in steps.shape[1:])))
        return padded.reshape(-1, chunk, *steps.shape[1:])

    state, results = jax.lax.scan(
        lambda state, some: function(state, *some), state, jax.tree.map(cut, (per_step, valid))
    )
    return state, jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:])[:length], results)
