"""Running statistics of observations and returns, and the normalisation by them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from jaxmeta.rl.advantages import discounts
from jaxmeta.types import Array, Params, Rollout, Spec

CLIP = 10.0
"""Normalised observations are clipped to [-CLIP, CLIP]."""
EPSILON = 1e-8
"""Added to variances."""


class Statistics(struct.PyTreeNode):
    """Mean and variance of every number of some arrays, over all steps so far; 0 and 1 before the first."""

    count: Array
    """Number of steps, float32 scalar."""
    mean: tuple[Any, ...]
    """By leaf of the observation, in the order of `jax.tree.leaves`; None for a leaf that is not normalised. It has the
    shape of the leaf, or fewer numbers along the last axis: the others of the leaf are not normalised."""
    variance: tuple[Any, ...]
    """Like `mean`; not corrected for bias."""


class NormalisedParams(struct.PyTreeNode):
    """Params of an agent with normalised observations, see `inner.normalised`."""

    learner: Params
    """The params of the agent inside, which are meta-learned."""
    statistics: Statistics
    """Of the observations; not learned."""


def initial_statistics(spec: Spec, last: int = 0, keys: tuple[str, ...] = ()) -> Statistics:
    """Makes the statistics of observations before the first step: with them, observations are only clipped.

    Integer and boolean leaves are not normalised, and so neither is an action mask.

    Args:
      last: numbers at the end of a plain observation that are not normalised, such as a one-hot task ID.
      keys: keys of a dict observation that are not normalised.

    Raises:
      ValueError: if a plain observation is shorter than `last`, or no leaf would be normalised.
    """
    forms = jax.tree_util.tree_flatten_with_path(spec.observation_form())[0]
    shapes = []
    for path, form in forms:
        named = bool(path) and getattr(path[0], "key", None) in keys
        shapes.append(None if named or not jnp.issubdtype(form.dtype, jnp.floating) else form.shape)
    if all(shape is None for shape in shapes):
        raise ValueError(f"spec.observation is {spec.observation}; no part is a float array that could be normalised")
    if spec.is_plain and last:
        *axes, size = spec.observation or (0,)
        if size < last:
            raise ValueError(f"last is {last}; the observation has shape {spec.observation}")
        shapes = [(*axes, size - last)]
    made = lambda make: tuple(shape if shape is None else make(shape) for shape in shapes)  # noqa: E731
    return Statistics(jnp.zeros(()), made(jnp.zeros), made(jnp.ones))


def merged(statistics: Statistics, batch: Statistics) -> Statistics:
    """Merges the statistics of two sets of steps (Chan et al., 1979).

    Args:
      batch: may be of zero steps; the result is then the first argument.
    """
    count = statistics.count + batch.count
    share = batch.count / jnp.maximum(count, 1.0)
    apart = jax.tree.map(jnp.subtract, batch.mean, statistics.mean)
    mean = jax.tree.map(lambda old, apart: old + share * apart, statistics.mean, apart)
    variance = jax.tree.map(
        lambda old, new, apart: (1.0 - share) * old + share * new + share * (1.0 - share) * jnp.square(apart),
        statistics.variance,
        batch.variance,
        apart,
    )
    return Statistics(count, mean, variance)


def statistics_of(
    arrays: Any, valid: Array, near: Statistics, total: Callable[[Any], Any] = lambda tree: tree
) -> Statistics:
    """Computes the statistics of a batch, in two passes.

    Args:
      arrays: observations, with leaves of shape `[..., *shape]`.
      valid: 1.0 for the steps that count, [...].
      near: statistics with the structure of the result. Means are computed relative to its means, so that numbers that
        are large compared with their deviations do not lose precision.
      total: sums trees over devices, such as `devices.task_sum`; by default there is one device.
    """
    chosen = [_leading(leaf, mean) for leaf, mean in zip(jax.tree.leaves(arrays), near.mean, strict=True)]
    axes = tuple(range(valid.ndim))

    def summed(values: Array) -> Array:
        weight = valid.reshape(*valid.shape, *[1] * (values.ndim - valid.ndim))
        return jnp.sum(values * weight, axes)

    offset = tuple(None if leaf is None else leaf - mean for leaf, mean in zip(chosen, near.mean, strict=True))
    count, sums = total((jnp.sum(valid), jax.tree.map(summed, offset)))
    steps = jnp.maximum(count, 1.0)
    shift = jax.tree.map(lambda leaf: leaf / steps, sums)
    squares = total(jax.tree.map(lambda leaf, mean: summed(jnp.square(leaf - mean)), offset, shift))
    return Statistics(
        count=count,
        mean=jax.tree.map(jnp.add, near.mean, shift),
        variance=jax.tree.map(lambda leaf: leaf / steps, squares),
    )


def standardised(statistics: Statistics, obs: Any) -> Any:
    """Normalises observations, leaves `[..., *shape]`, to zero mean and unit variance, and clips them.

    No gradient flows to the statistics.
    """
    statistics = jax.lax.stop_gradient(statistics)
    leaves, structure = jax.tree.flatten(obs)

    def one(leaf: Array, mean: Any, variance: Any) -> Array:
        part = _leading(leaf, mean)
        if part is None:
            return leaf
        part = jnp.clip((part - mean) / jnp.sqrt(variance + EPSILON), -CLIP, CLIP).astype(leaf.dtype)
        return part if part.shape == leaf.shape else jnp.concatenate([part, leaf[..., part.shape[-1] :]], -1)

    triples = zip(leaves, statistics.mean, statistics.variance, strict=True)
    return jax.tree.unflatten(structure, [one(*triple) for triple in triples])


def standardised_rounds(statistics: Statistics, rounds: Rollout) -> Rollout:
    """Normalises all observations of rounds with any leading axes."""
    inputs = rounds.inputs.replace(
        obs=standardised(statistics, rounds.inputs.obs),
        prev_next_obs=standardised(statistics, rounds.inputs.prev_next_obs),
    )
    return rounds.replace(inputs=inputs, next_obs=standardised(statistics, rounds.next_obs))


def clipped_share(statistics: Statistics, obs: Any, valid: Array) -> tuple[Array, Array]:
    """Counts the numbers of normalised observations that are clipped at valid steps, and all of them."""
    clipped = numbers = jnp.zeros(())
    for leaf, mean in zip(jax.tree.leaves(obs), statistics.mean, strict=True):
        part = _leading(leaf, mean)
        if part is not None:
            each = jnp.sum(jnp.abs(part) >= CLIP, tuple(range(valid.ndim, part.ndim)))
            clipped += jnp.sum(each * valid)
            numbers += jnp.sum(valid) * math.prod(part.shape[valid.ndim :])
    return clipped, numbers


def returns_so_far(experience: Rollout, discount: float, across_episodes: bool = False) -> Array:
    """Computes the discounted sum of a stream's rewards up to each step, [T, E]: G_t = r_t + γ G_{t-1}.

    Args:
      across_episodes: whether sums continue past the end of an episode; invalid steps are skipped.
    """

    def step(before: Array, moment: tuple[Array, Array, Array]) -> tuple[Array, Array]:
        reward, factor, valid = moment
        here = reward + before
        return jnp.where(valid > 0, factor * here, before), here

    moments = (experience.reward, discounts(experience, discount, across_episodes), experience.valid)
    return jax.lax.scan(step, jnp.zeros_like(experience.reward[0]), moments)[1]


def return_scale(returns: Statistics) -> Array:
    """Returns the standard deviation of returns, by which rewards are divided; 1 if all returns are equal."""
    variance = returns.variance[0]
    return jnp.where(variance > EPSILON, jnp.sqrt(jnp.maximum(variance, EPSILON)), 1.0)


def _leading(leaf: Array, mean: Any) -> Array | None:
    """Returns the numbers of a leaf that are normalised, if there are any."""
    return None if mean is None else leaf[..., : mean.shape[-1]] if mean.ndim else leaf
