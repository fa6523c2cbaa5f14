"""Where devices are known: tasks spread over a mesh, and cache-sized pieces of a task batch.

On a CPU the cores are the devices (`use_cpu_cores`). Everything outside this file is written for one device; inside
`over_tasks` a mean over all tasks of the batch is a local mean followed by `task_mean`.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxmeta.types import TrainState

AXIS = "task"
CACHE_BYTES = 256 * 1024


def use_cpu_cores(num_devices: int | None = None) -> None:
    """Makes every CPU core a device of its own; call it before JAX starts, else it has no effect.

    Args:
      num_devices: how many; by default as many as the process may use.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with contextlib.suppress(RuntimeError):  # raised once a backend runs: its devices stay as they are
        jax.config.update("jax_num_cpu_devices", num_devices or cores)


def num_devices_for(num_tasks: int) -> int:
    """Returns how many of the devices share a batch of tasks: the largest count that divides it."""
    return _largest_divisor(num_tasks, len(jax.devices()))


def over_tasks(
    local_update: Callable[..., Any], num_tasks: int, num_devices: int | None = None, keeps: bool = False
) -> Callable[..., Any]:
    """Spreads `local_update(shared, per_task)` over the devices.

    Each device sees the whole of `shared` and its part of `per_task` (leading axis `num_tasks`). What is returned must
    be the same on every device: reduce with `task_mean` first.

    Args:
      num_devices: by default as many as `num_devices_for` says.
      keeps: whether a pair (shared, per task) is returned, the second of which stays on the devices of its tasks.
    """
    mesh = Mesh(jax.devices()[: num_devices or num_devices_for(num_tasks)], (AXIS,))
    # check_vma=False: the default would sum gradients of replicated params over the mesh, inner-loop ones included,
    # and so mix the tasks without an error
    out_specs = (P(), P(AXIS)) if keeps else P()
    return jax.shard_map(local_update, mesh=mesh, in_specs=(P(), P(AXIS)), out_specs=out_specs, check_vma=False)


def map_over_tasks(function: Callable[..., Any], num_tasks: int, chunk: int | None = None) -> Callable[..., Any]:
    """Spreads `function(shared, one_task)` over devices and tasks; leaves come back as [num_tasks, ...].

    Args:
      chunk: tasks that one device runs side by side; all by default.
    """
    devices = num_devices_for(num_tasks)
    mesh = Mesh(jax.devices()[:devices], (AXIS,))

    def local(shared, per_task):
        return chunked_vmap(lambda one: function(shared, one), per_task, chunk)

    return jax.shard_map(local, mesh=mesh, in_specs=(P(), P(AXIS)), out_specs=P(AXIS), check_vma=False)


def replicate(tree, num_devices: int | None = None):
    """Puts a tree on the first `num_devices` devices, or on all.

    Updates leave their state like that; one that also starts like that is compiled once, not twice.
    """
    return jax.device_put(tree, NamedSharding(Mesh(jax.devices()[:num_devices], (AXIS,)), P()))


def place(state: TrainState, num_devices: int | None = None, leading: int = 0) -> TrainState:
    """Puts a train state where its updates leave it: what belongs to tasks on their devices, all else on every one.

    Args:
      leading: axes before that of the tasks, such as one of seeds.
    """
    mesh = Mesh(jax.devices()[:num_devices], (AXIS,))
    by_task = NamedSharding(mesh, P(*[None] * leading, AXIS))
    return replicate(state.replace(replay=()), num_devices).replace(replay=jax.device_put(state.replay, by_task))


def task_mean(tree):
    """Averages over the devices of `over_tasks`."""
    # a reduction over one device is not free
    return tree if jax.lax.axis_size(AXIS) == 1 else jax.lax.pmean(tree, AXIS)


def gather_tasks(tree):
    """Puts the parts of all devices of `over_tasks` together, [n, ...] to [num_tasks, ...], on every device."""

    def gather(leaf):
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            data = jax.lax.all_gather(jax.random.key_data(leaf), AXIS, tiled=True)
            return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))
        return jax.lax.all_gather(leaf, AXIS, tiled=True)

    return jax.tree.map(gather, tree)


def share(tree):
    """Takes this device's part of what every device of `over_tasks` has, [B, ...]: all, where B cannot be divided.

    The mean over B is the mean over the part followed by `task_mean`.
    """
    devices, size = jax.lax.axis_size(AXIS), jax.tree.leaves(tree)[0].shape[0]
    if size % devices:
        return tree
    part = size // devices
    begin = jax.lax.axis_index(AXIS) * part
    return jax.tree.map(lambda leaf: jax.lax.dynamic_slice_in_dim(leaf, begin, part), tree)


def chunked_vmap(function: Callable[..., Any], per_task, chunk: int | None = None):
    """Vmaps over the leading axis in pieces of at most `chunk`, one piece after the other."""
    size = jax.tree.leaves(per_task)[0].shape[0]
    if chunk is None or chunk >= size:
        return jax.vmap(function)(per_task)
    return jax.lax.map(function, per_task, batch_size=_largest_divisor(size, chunk))


def mean_over_chunks(function: Callable[..., Any], per_task, chunk: int | None = None):
    """Averages `function(some tasks) -> mean over those` over all tasks, in pieces of at most `chunk` tasks."""
    size = jax.tree.leaves(per_task)[0].shape[0]
    length = size if chunk is None else _largest_divisor(size, min(chunk, size))
    if length == size:
        return function(per_task)
    pieces = jax.tree.map(lambda leaf: leaf.reshape(size // length, length, *leaf.shape[1:]), per_task)
    zero = jax.tree.map(
        lambda leaf: jnp.zeros(leaf.shape, leaf.dtype),
        jax.eval_shape(function, jax.tree.map(lambda leaf: leaf[0], pieces)),
    )
    total, _ = jax.lax.scan(lambda total, piece: (jax.tree.map(jnp.add, total, function(piece)), None), zero, pieces)
    return jax.tree.map(lambda leaf: leaf * (length / size), total)


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


def _largest_divisor(size: int, limit: int) -> int:
    """Returns the largest divisor of `size` that is at most `limit`."""
    return max(d for d in range(1, limit + 1) if size % d == 0)
