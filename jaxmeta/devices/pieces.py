"""Processes a batch in pieces that fit a core's cache, sequentially."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

CACHE_BYTES = 256 * 1024


def chunked_vmap(function: Callable[..., Any], batch, chunk: int | None = None):
    """Vmaps over the leading axis in pieces of at most `chunk`, sequentially."""
    size = jax.tree.leaves(batch)[0].shape[0]
    if chunk is None or chunk >= size:
        return jax.vmap(function)(batch)
    # not `lax.map(batch_size=...)`, which fails if a leaf is empty, such as the observation of a bandit
    done = jax.lax.map(jax.vmap(function), _cut(batch, largest_divisor(size, chunk)))
    return jax.tree.map(lambda leaf: leaf.reshape(size, *leaf.shape[2:]), done)


def mean_over_chunks(function: Callable[..., Any], per_task, chunk: int | None = None):
    """Averages `function(some tasks) -> mean over them` over all tasks, in pieces of at most `chunk` tasks."""
    return mean_and_each(lambda some: (function(some), ()), per_task, chunk)[0]


def mean_and_each(function: Callable[..., Any], per_task, chunk: int | None = None) -> tuple[Any, Any]:
    """Averages the first result of `function(some tasks) -> (mean over them, one value per task [m, ...])`.

    The tasks [n, ...] are those of this device, in pieces of at most `chunk`.

    Returns:
      The mean over all tasks, and the values per task of all pieces, concatenated to [n, ...].
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
    """Returns the size of the equal pieces, at most `chunk`, that a batch is split into; None does not split it."""
    return size if chunk is None else largest_divisor(size, min(chunk, size))


def cache_chunk(bytes_per_task: int) -> int | None:
    """Returns how many tasks to vectorise over so that their working set fits in a core's cache.

    On a CPU large batches are slower than small ones once they exceed the cache. On accelerators the result is None:
    all tasks at once.
    """
    if jax.default_backend() != "cpu":
        return None
    return max(1, CACHE_BYTES // max(1, bytes_per_task))


def tree_bytes(tree) -> int:
    """Returns the total size of all leaves, arrays or shapes, in bytes."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def largest_array(program: Any) -> int:
    """Returns the size of the largest array that a program computes, a jaxpr, in bytes; loops and calls included."""
    largest = 0
    for step in program.eqns:
        sizes = [largest_array(one) for one in inner_programs(step)]
        arrays = [var.aval for var in step.outvars if hasattr(var.aval, "dtype")]
        largest = max([largest, *sizes, *(array.size * array.dtype.itemsize for array in arrays)])
    return largest


def inner_programs(step: Any) -> list[Any]:
    """Returns the jaxprs that an operation of a jaxpr contains, such as the branches of a conditional."""
    inside = jax.tree.leaves(step.params, is_leaf=lambda value: hasattr(value, "eqns") or hasattr(value, "jaxpr"))
    programs = [getattr(value, "jaxpr", value) for value in inside]
    return [one for one in programs if hasattr(one, "eqns")]


def _cut(tree, length: int):
    return jax.tree.map(lambda leaf: leaf.reshape(leaf.shape[0] // length, length, *leaf.shape[1:]), tree)


def largest_divisor(size: int, limit: int) -> int:
    """Returns the largest divisor of `size` that is at most `limit`."""
    return max(d for d in range(1, limit + 1) if size % d == 0)
