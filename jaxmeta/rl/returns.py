"""Returns and advantages of one stream in time. Unbatched, [T]; callers vmap over streams."""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp

from jaxmeta.types import Array


def discounted_return(reward: Array, discount: Array, bootstrap: Array | float = 0.0) -> Array:
    """Computes the discounted return from every step on.

    Args:
      reward: [T].
      discount: [T], applied to the return after the step; zero where the return ends.
      bootstrap: scalar, the expected return after the last step.

    Returns:
      [T].
    """
    chex.assert_equal_shape([reward, discount])

    def step(following, moment):
        reward, discount = moment
        total = reward + discount * following
        return total, total

    return jax.lax.scan(step, jnp.asarray(bootstrap, reward.dtype), (reward, discount), reverse=True)[1]


def generalized_advantage(reward: Array, value: Array, discount: Array, trace: float, valid: Array) -> Array:
    """Computes GAE(λ) advantages (Schulman et al., 2016, arXiv:1506.02438) over a stream with gaps.

    Args:
      reward: [T].
      value: [T + 1], the last one bootstraps.
      discount: [T], applied to the return after the step.
      trace: λ in [0, 1].
      valid: [T], 1.0 at valid steps. Invalid steps are skipped: the successor of a valid step is the next valid step.

    Returns:
      Advantages, [T]; zero at invalid steps.
    """
    chex.assert_equal_shape([reward, discount, value[:-1], valid])

    def step(following, moment):
        next_value, next_advantage = following
        reward, value, discount, valid = moment
        advantage = reward + discount * next_value - value + discount * trace * next_advantage
        kept = jax.tree.map(lambda new, old: jnp.where(valid > 0, new, old), (value, advantage), following)
        return kept, jnp.where(valid > 0, advantage, 0.0)

    start = (value[-1], jnp.zeros_like(value[-1]))
    return jax.lax.scan(step, start, (reward, value[:-1], discount, valid), reverse=True)[1]
