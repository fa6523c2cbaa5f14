"""Gradient surgery: rules that combine the gradients of K tasks so that they conflict less.

Every rule here depends on the gradients only through their Gram matrix, the matrix [K, K] of their inner products, and
returns the weights [K] of their sum. `outer.combined` applies a rule.

    outer.policy_gradient(learner, advantage, aggregate=outer.combined(outer.surgery.pcgrad))
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxmeta.types import Array, Key, Metrics

Rule = Callable[..., Array]
"""(Gram matrix [K, K], key) -> weights [K] of the gradients in the update direction.

A rule may have a third parameter, `present`, bool [K]: which tasks take part. Rows and columns of the others are zero,
and their weights have no effect."""


def pcgrad(gram: Array, key: Key, present: Array | None = None) -> Array:
    """Removes conflicts by projection, PCGrad (Yu et al., 2020, arXiv:2001.06782).

    The gradient of each task is projected, in a random order of its own, onto the normal plane of every other gradient
    with which its inner product is negative. The direction is the mean of the projected gradients; the paper sums them.
    """
    present = jnp.ones(len(gram), bool) if present is None else present
    size, unit = jnp.diagonal(gram), jnp.eye(len(gram))
    # keys by the rank among present tasks: absent ones do not change the orders
    rank = jnp.cumsum(present)
    inverse = jnp.where(size > 0, 1.0 / jnp.where(size > 0, size, 1.0), 0.0)

    def projected(index: Array) -> Array:
        own = jax.random.fold_in(key, rank[index])
        draws = jax.vmap(lambda other: jax.random.uniform(jax.random.fold_in(own, other)))(rank)

        def project(weights: Array, other: Array) -> tuple[Array, None]:
            conflict = jnp.where(other == index, 0.0, jnp.minimum(weights @ gram[:, other], 0.0))
            return weights - conflict * inverse[other] * unit[other], None

        return jax.lax.scan(project, unit[index], jnp.argsort(draws))[0]

    each = jax.vmap(projected)(jnp.arange(len(gram)))
    return present @ each / jnp.maximum(jnp.sum(present), 1)


def relations(gram: Array, present: Array) -> Metrics:
    """Computes how the gradients of the present tasks relate.

    Returns:
      `conflicts`: the share of pairs of tasks with a negative cosine. `cosine/min`: the smallest cosine of a pair, 1 if
      there is none. `grad_norm_ratio`: the largest gradient norm over the smallest that is not zero.
    """
    norm = jnp.sqrt(jnp.diagonal(gram))
    unit = jnp.where(norm > 0, 1.0 / jnp.where(norm > 0, norm, 1.0), 0.0)
    pairs = present[:, None] & present & ~jnp.eye(len(gram), dtype=bool)
    cosine = gram * unit[:, None] * unit
    largest = jnp.max(norm)
    smallest = jnp.min(jnp.where(present & (norm > 0), norm, jnp.inf))
    return {
        "conflicts": jnp.sum(pairs & (gram < 0)) / jnp.maximum(jnp.sum(pairs), 1),
        "cosine/min": jnp.min(cosine, where=pairs, initial=1.0),
        "grad_norm_ratio": jnp.where(largest > 0, largest / smallest, 1.0),
    }
