"""Causal softmax attention within a stream: by one step, to a ring of earlier keys and values, or by all of its steps.

Queries are grouped: G heads of keys and values serve R queries each (Ainslie et al., 2023, arXiv:2305.13245). With
R = 1 it is multi-head attention.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from jaxmeta.nets.blocks import blockwise_vmap
from jaxmeta.types import Array

UNSEEN = -1e30
"""Logit of masked steps: their attention weight is exactly 0. Minus infinity is slower on a CPU."""


def read(query: Array, keys: Array, values: Array, seen: Array) -> Array:
    """Attends with one query [K] to keys [T, K] and values [T, V] where `seen` [T] is true; returns [V].

    At least one step must be seen. It is softmax attention, but normalises the output, not the weights, which is
    faster.
    """
    logits = jnp.where(seen, keys @ (query / math.sqrt(query.shape[-1])), UNSEEN)
    weights = jnp.exp(logits - jax.lax.stop_gradient(logits.max()))
    return weights @ values / weights.sum()


_read_group = jax.vmap(read, (0, None, None, None))


def put(ring: Array, slot: Array, new: Array) -> Array:
    """Writes `new` [D] to a slot of a ring [L, D].

    It rewrites the whole ring, as attention reads all of it at every step anyway; a batched scatter is slower on a CPU.
    """
    return jnp.where((jnp.arange(len(ring)) == slot)[:, None], new, ring)


def attend_in_step(
    rings: tuple[Array, Array], time: Array, query: Array, key: Array, value: Array
) -> tuple[tuple[Array, Array], Array]:
    """Stores one step in the rings and attends to the last L steps, this one included.

    Args:
      rings: keys [G, L, K] and values [G, L, V] of the last L steps.
      time: number of steps before this one.
      query: [G, R, K]. key: [G, K]. value: [G, V].

    Returns:
      The rings, and the attention output, [G, R, V].
    """
    length = rings[0].shape[1]
    write = jax.vmap(put, (0, None, 0))
    keys, values = (write(ring, time % length, new) for ring, new in zip(rings, (key, value), strict=True))
    seen = jnp.arange(length) <= time
    return (keys, values), jax.vmap(_read_group, (0, 0, 0, None))(query, keys, values, seen)


def attend_along(query: Array, key: Array, value: Array, valid: Array, before: Array, length: int) -> Array:
    """Attends along a stream of T steps: each to the last `length` valid steps, itself included.

    An invalid step attends to itself and to the valid steps before it, and no other step attends to it.

    Args:
      query: [T, G, R, K]. key: [T, G, K]. value: [T, G, V].
      valid: [T].
      before: number of valid steps before each step, [T].

    Returns:
      The attention output, [T, G, R, V].
    """
    times, happened = jnp.arange(len(valid)), valid > 0

    def by_one_group(query: Array, key: Array, value: Array) -> Array:
        def one(moment) -> Array:
            query, time, age = moment
            seen = happened & (times < time) & (age - before < length) | (times == time)
            return _read_group(query, key, value, seen)

        return blockwise_vmap(one, (query, times, before))

    return jax.vmap(by_one_group, 1, 1)(query, key, value)
