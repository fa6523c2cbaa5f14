"""Coordinatewise networks for learned update rules: shared weights, applied to every coordinate of the gradient."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

import jax.numpy as jnp
from flax import linen as nn

from jaxmeta.types import Array, Carry, Key, Params

LOG_RANGE = 10.0
"""p of `encode_gradient`: magnitudes above exp(-p) are encoded logarithmically."""


class Coordinatewise(NamedTuple):
    """A recurrent network that is applied to n coordinates in parallel, with shared weights and separate states."""

    init: Callable[[Key], Params]
    initial_state: Callable[[int], Carry]
    """n -> the initial state of n coordinates."""
    apply: Callable[[Params, Carry, Array], tuple[Carry, Array]]
    """(params, state, gradient [n]) -> (state, outputs (m, d) of `inner.recurrent` [n, 2])."""


class _Recurrent(nn.Module):
    hidden: Sequence[int]

    @nn.compact
    def __call__(self, state: Sequence[Any], x: Array) -> tuple[list[Any], Array]:
        after = []
        for size, one in zip(self.hidden, state, strict=True):
            one, x = nn.OptimizedLSTMCell(size)(one, x)
            after.append(one)
        # initialised to zero, so that the update rule starts as the nominal rule
        return after, nn.Dense(2, kernel_init=nn.initializers.zeros)(x)


def coordinatewise_lstm(hidden: Sequence[int] = (20, 20)) -> Coordinatewise:
    """Builds the optimiser network of Andrychowicz et al. (2016, arXiv:1606.04474), with two outputs, zero at first."""
    module = _Recurrent(tuple(hidden))

    def initial_state(size: int) -> Carry:
        return [(jnp.zeros((size, width)), jnp.zeros((size, width))) for width in hidden]

    return Coordinatewise(
        init=lambda key: module.init(key, initial_state(1), jnp.zeros((1, 2))),
        initial_state=initial_state,
        apply=lambda params, state, gradient: cast(Any, module.apply(params, state, encode_gradient(gradient))),
    )


def encode_gradient(gradient: Array) -> Array:
    """Encodes log-magnitude and sign of gradients [n] of any scale as [n, 2]; its derivative is finite everywhere."""
    size = jnp.abs(gradient)
    large = size >= jnp.exp(-LOG_RANGE)
    logarithm = jnp.log(jnp.where(large, size, 1.0)) / LOG_RANGE
    first = jnp.where(large, logarithm, -1.0)
    return jnp.stack([first, jnp.where(large, jnp.sign(gradient), jnp.exp(LOG_RANGE) * gradient)], axis=-1)
