"""Mathematics of variational beliefs: what a chain of posteriors over a trial is worth."""

from __future__ import annotations

import chex
import jax.numpy as jnp
from flax import struct

from jaxmeta.types import Array


class Trajectory(struct.PyTreeNode):
    """The steps of a whole trial, its episodes one after the other; leaves are [T, ...]."""

    obs: Array
    action: Array
    reward: Array
    """As the environment paid it."""
    next_obs: Array
    """What the step led to, the last sight of an episode included."""
    valid: Array
    """1.0 for steps that count, else 0.0."""


def gaussian_kl(mean: Array, log_var: Array, other_mean: Array, other_log_var: Array) -> Array:
    """Computes KL(N(mean, exp(log_var)) || N(other_mean, exp(other_log_var))), summed over the last axis: [..., L] to
    [...]."""
    chex.assert_equal_shape([mean, log_var, other_mean, other_log_var])
    ratio = jnp.exp(log_var - other_log_var)
    distance = jnp.square(mean - other_mean) * jnp.exp(-other_log_var)
    return 0.5 * jnp.sum(ratio + distance - 1.0 + other_log_var - log_var, axis=-1)


def chain_kl(mean: Array, log_var: Array) -> Array:
    """Computes KL(q_t || q_{t-1}) for a chain of diagonal Gaussians, q_{-1} = N(0, I).

    Args:
      mean: [T + 1, L].
      log_var: [T + 1, L].

    Returns:
      [T + 1].
    """
    chex.assert_equal_shape([mean, log_var])
    before = [jnp.concatenate([jnp.zeros_like(leaf[:1]), leaf[:-1]]) for leaf in (mean, log_var)]
    return gaussian_kl(mean, log_var, *before)


def elbo_sums(log_likelihood: Array, kl: Array, valid: Array) -> tuple[Array, Array]:
    """Sums the evidence lower bounds of a trial, one per posterior, each on the whole trial (Zintgraf et al., 2020).

    A posterior t sums up the first t steps. It is asked about every step, those that it has not seen included: that is
    what makes it a belief about the task and not a record of the past.

    Args:
      log_likelihood: of step s under posterior t, [T + 1, T].
      kl: of each posterior from the one before, [T + 1].
      valid: [T]. A step that is not valid, and the posterior after it, count for nothing.

    Returns:
      The sums of all log-likelihoods and of all divergences. The bound is the first less the second.
    """
    chex.assert_rank([log_likelihood, kl, valid], [2, 1, 1])
    chex.assert_equal_shape([log_likelihood[0], kl[1:], valid])
    counts = jnp.concatenate([jnp.ones_like(valid[:1]), valid])
    return counts @ log_likelihood @ valid, counts @ kl
