"""Networks for supervised learners, which predict targets from inputs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxmeta.nets.networks import MLP
from jaxmeta.types import Array, Key, Params


class Predictor(NamedTuple):
    """A predictor of a batch of examples, as pure functions."""

    init: Callable[[Key], Params]
    apply: Callable[[Params, Array], Array]
    """Predicts [M, outputs] from inputs [M, size]."""


class _Perceptron(nn.Module):
    outputs: int
    hidden: Sequence[int]
    activation: str
    context: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        if self.context:
            context = self.param("context", nn.initializers.zeros, (self.context,))
            x = jnp.concatenate([x, jnp.broadcast_to(context, (len(x), self.context))], axis=1)
        features = MLP(self.hidden, self.activation, math.sqrt(2.0))(x)
        return nn.Dense(self.outputs, name="head")(features)


def perceptron(
    size: int, outputs: int, hidden: Sequence[int] = (40, 40), activation: str = "relu", context: int = 0
) -> Predictor:
    """Builds a multi-layer perceptron.

    Args:
      size: length of an input.
      hidden: widths of the hidden layers; the output layer is named "head".
      activation: one of `ACTIVATIONS`.
      context: number of CAVIA's context parameters, which are concatenated to all inputs and initially zero.
    """
    module = _Perceptron(outputs, tuple(hidden), activation, context)
    return Predictor(
        init=lambda key: module.init(key, jnp.zeros((1, size))),
        apply=lambda params, inputs: cast(Array, module.apply(params, inputs)),
    )


def linear(size: int, outputs: int, init_scale: float = 0.01) -> Predictor:
    """Builds a linear function without bias; its initial params are N(0, init_scale²)."""
    return Predictor(
        init=lambda key: {"kernel": init_scale * jax.random.normal(key, (size, outputs))},
        apply=lambda params, inputs: inputs @ params["kernel"],
    )
