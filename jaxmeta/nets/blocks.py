"""How what looks back over a whole stream is kept from taking memory as its length squared."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

BLOCK = 128


def blockwise_vmap(function: Callable[..., Any], per_step):
    """Vmaps over the steps of one stream; where they are many, in blocks that are computed again for the gradient.

    It is for what looks at the whole stream from each of its steps: memory then grows as its length, not as the square.
    """
    if jax.tree.leaves(per_step)[0].shape[0] <= BLOCK:
        return jax.vmap(function)(per_step)
    return jax.lax.map(jax.checkpoint(function), per_step, batch_size=BLOCK)
