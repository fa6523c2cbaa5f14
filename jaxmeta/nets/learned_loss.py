"""Learned losses: networks whose scalar output an agent minimises (Yu et al., 2018, arXiv:1802.01557)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxmeta.types import Array, Key, Params


class LearnedLoss(NamedTuple):
    """A loss of one stream of features, as pure functions."""

    init: Callable[[Key], Params]
    apply: Callable[[Params, Array, Array], Array]
    """(params, features [T, D], valid [T]) -> the loss at each step, not negative, [T]. Invalid steps have no effect on
    the loss at valid ones."""


class _Temporal(nn.Module):
    hidden: Sequence[int]
    width: int
    outputs: int

    @nn.compact
    def __call__(self, features: Array, valid: Array) -> Array:
        x = features
        for size in self.hidden:
            x = jax.nn.relu(nn.Conv(size, (self.width,))(x * valid[:, None]))
        x = nn.Conv(self.outputs, (self.width,))(x * valid[:, None])
        return jnp.sum(jnp.square(x), axis=-1)


def temporal_loss(size: int, hidden: Sequence[int] = (32,), width: int = 3, outputs: int = 8) -> LearnedLoss:
    """Builds the squared norm of temporal convolutions, the learned loss of arXiv:1802.01557.

    A convolution over time can compare an observation with the next one, so the loss can recover from observations what
    the demonstrator did.

    Args:
      size: D, the number of features at a step.
      hidden: channels of the hidden convolutions, each followed by relu.
      width: steps that a convolution spans.
      outputs: channels of the last convolution, whose squared norm is the loss.
    """
    module = _Temporal(tuple(hidden), width, outputs)
    return LearnedLoss(
        init=lambda key: module.init(key, jnp.zeros((width, size)), jnp.ones(width)),
        apply=lambda params, features, valid: cast(Array, module.apply(params, features, valid)),
    )
