"""Initialisers of weight matrices: orthogonal, also under vmap over many networks, and LeCun's with a gain."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxmeta.types import Array, Key


def orthogonal(scale: float = 1.0) -> Callable[..., Array]:
    """Builds an initialiser of orthogonal matrices (Saxe et al., 2014, arXiv:1312.6120), times `scale`.

    Under `vmap` it runs sequentially: batched QR decompositions deadlock on several CPU devices.
    """
    draw = nn.initializers.orthogonal(scale)

    def init(key: Key, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
        return jax.custom_batching.sequential_vmap(lambda key: draw(key, shape, dtype))(key)

    return init


def lecun(gain: float = 1.0) -> Callable[..., Array]:
    """Returns LeCun's initialiser, the default of `nn.Dense`, with weights multiplied by `gain`."""
    return nn.initializers.variance_scaling(gain**2, "fan_in", "truncated_normal")
