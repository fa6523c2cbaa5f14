"""Normalisation of the inputs and outputs of a model of dynamics, whose networks are in `nets.dynamics`.

The statistics are not learned: no gradient flows to them. Only an outer loop or a refit moves them, by `rl.merged` and
`rl.statistics_of` of pairs (inputs, outputs), and `rl.standardised` normalises such pairs.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import struct

from jaxmeta.rl.normalisation import CLIP, EPSILON, Statistics, standardised
from jaxmeta.types import Array, Params


class DynamicsParams(struct.PyTreeNode):
    """A model with the statistics of its inputs and outputs."""

    model: Params
    """Learned; leaves [B, ...] for an ensemble of B models."""
    statistics: Statistics
    """Mean and variance of (inputs, outputs); not learned."""


def dynamics_statistics(inputs: int, outputs: int) -> Statistics:
    """Makes the statistics of a model before the first transition, which normalise nothing.

    Args:
      inputs: numbers of an input.
      outputs: D, numbers of an output.
    """
    mean = (jnp.zeros(inputs), jnp.zeros(outputs))
    return Statistics(jnp.zeros(()), mean, jax.tree.map(jnp.ones_like, mean))


def normalised_inputs(statistics: Statistics, inputs: Array) -> Array:
    """Normalises and clips inputs [..., |inputs|] alone."""
    return standardised(Statistics(statistics.count, statistics.mean[:1], statistics.variance[:1]), (inputs,))[0]


def normalised_outputs(statistics: Statistics, outputs: Array) -> Array:
    """Normalises and clips outputs [..., D] alone."""
    return standardised(Statistics(statistics.count, statistics.mean[1:], statistics.variance[1:]), (outputs,))[0]


def original_outputs(statistics: Statistics, outputs: Array) -> Array:
    """Inverts the normalisation of outputs [..., D]."""
    mean, variance = jax.lax.stop_gradient((statistics.mean[1], statistics.variance[1]))
    return mean + jnp.sqrt(variance + EPSILON) * outputs


def within_reach(statistics: Statistics, obs: Array) -> Array:
    """Clips imagined observations [..., O] to `CLIP` standard deviations around the mean of the data.

    Beyond, a model is wrong in any case, and its errors would grow exponentially over the steps of a plan.
    """
    size = obs.shape[-1]
    mean, std = statistics.mean[0][:size], jnp.sqrt(statistics.variance[0][:size] + EPSILON)
    return jnp.clip(obs, mean - CLIP * std, mean + CLIP * std)
