"""Blockwise computation, so that attention over a stream takes memory linear in its length."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

BLOCK = 128


def blockwise_vmap(function: Callable[..., Any], per_step):
    """Vmaps over the steps of a stream; for long streams in blocks, which are rematerialised in the backward pass.

    For functions that read the whole stream at each step: memory is then linear in its length, not quadratic.
    """
    if jax.tree.leaves(per_step)[0].shape[0] <= BLOCK:
        return jax.vmap(function)(per_step)
    return jax.lax.map(jax.checkpoint(function), per_step, batch_size=BLOCK)
