"""Pieces of a batch that fit a core's cache, one after the other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

CACHE_BYTES = 256 * 1024


def chunked_vmap(function: Callable[..., Any], batch, chunk: int | None = None):
    """Vmaps over the leading axis, of tasks or of anything, in pieces of at most `chunk`, one piece after the other."""
    size = jax.tree.leaves(batch)[0].shape[0]
    if chunk is None or chunk >= size:
        return jax.vmap(function)(batch)
    # by hand: `lax.map` in batches fails where a leaf is empty, such as the observation of a bandit
    done = jax.lax.map(jax.vmap(function), _cut(batch, largest_divisor(size, chunk)))
    return jax.tree.map(lambda leaf: leaf.reshape(size, *leaf.shape[2:]), done)


def mean_over_chunks(function: Callable[..., Any], per_task, chunk: int | None = None):
    """Averages `function(some tasks) -> mean over those` over all tasks, in pieces of at most `chunk` tasks."""
    return mean_and_each(lambda some: (function(some), ()), per_task, chunk)[0]


def mean_and_each(function: Callable[..., Any], per_task, chunk: int | None = None) -> tuple[Any, Any]:
    """Averages the first of what `function(some tasks) -> (mean over those, of each [m, ...])` returns.

    The tasks [n, ...] are those of this device, taken in pieces of at most `chunk`.

    Returns:
      The mean over all of them, and the second of every piece put together, [n, ...].
    """
    size = jax.tree.leaves(per_task)[0].shape[0]
    length = piece_size(size, chunk)
    if length == size:
        return function(per_task)
    pieces = _cut(per_task, length)
    form, _ = jax.eval_shape(function, jax.tree.map(lambda leaf: leaf[0], pieces))
    zero = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), form)

    def add(total, piece):
        mean, each = function(piece)
        return jax.tree.map(jnp.add, total, mean), each

    total, each = jax.lax.scan(add, zero, pieces)
    mean = jax.tree.map(lambda leaf: leaf * (length / size), total)
    return mean, jax.tree.map(lambda leaf: leaf.reshape(size, *leaf.shape[2:]), each)


def piece_size(size: int, chunk: int | None) -> int:
    """Returns the size of equal pieces of at most `chunk` that a batch is cut into; None does not cut it."""
    return size if chunk is None else largest_divisor(size, min(chunk, size))


def cache_chunk(bytes_per_task: int) -> int | None:
    """Returns how many tasks to work on side by side so that what they touch stays in a core's cache.

    On a CPU wide batches are slower than narrow ones once they leave the cache; accelerators want all tasks at once,
    and there the answer is None.
    """
    if jax.default_backend() != "cpu":
        return None
    return max(1, CACHE_BYTES // max(1, bytes_per_task))


def tree_bytes(tree) -> int:
    """Adds up the size of all leaves, arrays or shapes."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def _cut(tree, length: int):
    return jax.tree.map(lambda leaf: leaf.reshape(leaf.shape[0] // length, length, *leaf.shape[1:]), tree)


def largest_divisor(size: int, limit: int) -> int:
    """Returns the largest divisor of `size` that is at most `limit`."""
    return max(d for d in range(1, limit + 1) if size % d == 0)
