"""Variational inference over a trial: KL divergences and evidence lower bounds of a chain of posteriors."""

from __future__ import annotations

import chex
import jax.numpy as jnp
from flax import struct

from jaxmeta.types import Array


class Trajectory(struct.PyTreeNode):
    """The steps of a whole trial, its episodes concatenated; leaves are [T, ...]."""

    obs: Array
    action: Array
    reward: Array
    """The environment's reward."""
    next_obs: Array
    """The next observation; at the end of an episode its final observation."""
    valid: Array
    """1.0 at valid steps, else 0.0."""


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

    Posterior t is conditioned on the first t steps, and decodes all steps of the trial, future ones included: it must
    represent the task instead of only reconstructing the past.

    Args:
      log_likelihood: of step s under posterior t, [T + 1, T].
      kl: KL divergence of each posterior from the previous one, [T + 1].
      valid: [T]. An invalid step, and the posterior after it, are left out.

    Returns:
      The sums of all log-likelihoods and of all KL divergences. The bound is the first minus the second.
    """
    chex.assert_rank([log_likelihood, kl, valid], [2, 1, 1])
    chex.assert_equal_shape([log_likelihood[0], kl[1:], valid])
    counts = jnp.concatenate([jnp.ones_like(valid[:1]), valid])
    return counts @ log_likelihood @ valid, counts @ kl
