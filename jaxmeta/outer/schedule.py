"""What falls over meta-training."""

from __future__ import annotations

import jax.numpy as jnp

from jaxmeta.types import Array


def remaining_share(step: Array, anneal_over: int | None) -> float | Array:
    """Returns what is left, after `step` updates, of what falls linearly from 1 to 0 over `anneal_over`; None: all."""
    return 1.0 if anneal_over is None else jnp.maximum(1.0 - step / anneal_over, 0.0)
