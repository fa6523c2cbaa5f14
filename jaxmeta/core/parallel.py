"""Where devices are known: tasks spread over a mesh, and cache-sized pieces of a task batch.

On a CPU the cores are the devices (`use_cpu_cores`). Everything outside this file is written for one device; inside
`over_tasks` a mean over all tasks of the batch is a local mean followed by `task_mean`. Which devices those are is
decided by who runs a program: `jm.train` enters a mesh, and what is traced within it is spread over it.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import os
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxmeta.types import Array, TrainState

AXIS = "task"
CACHE_BYTES = 256 * 1024
PARTS = 8
"""Strata that random draws are made in where the number of devices must not change them; the largest such number."""
GPU_OPTIONS = {"xla_gpu_autotune_level": 0, "xla_gpu_enable_triton_gemm": False}
"""How programs are compiled for a GPU: without trying for every product which of many kernels is the fastest. That
takes at least as long as all the rest and gains little, and what is chosen, hence how it rounds, can differ by run."""


@dataclasses.dataclass(frozen=True)
class Execution:
    """Where a program runs."""

    devices: int | None = None
    """How many of the devices there are may be used; None takes all."""

    def __post_init__(self):
        if self.devices is not None and self.devices < 1:
            raise ValueError(f"devices is {self.devices}; a program needs at least 1")

    def mesh(self, spread: int) -> Mesh:
        """Returns the mesh that a batch of `spread` tasks is spread over: the largest number of devices dividing it."""
        usable = jax.devices()[: self.devices]
        return Mesh(usable[: _largest_divisor(spread, len(usable))], (AXIS,))


def num_strata(size: int) -> int:
    """Returns how many strata a batch is drawn in so that the number of devices changes nothing: 1, 2, 4 or 8."""
    return math.gcd(size, PARTS)


def compiled(function: Callable[..., Any], **options) -> Callable[..., Any]:
    """Compiles a program that uses `over_tasks` or `map_over_tasks` in float32; options as those of `jax.jit`."""
    # JAX takes them for whole programs alone: how a program is compiled is not for a part of it to say
    compiler_options = dict(GPU_OPTIONS) if jax.default_backend() == "gpu" and not _is_inside_program() else None
    return jax.jit(in_float32(function), compiler_options=compiler_options, **options)


def _is_inside_program() -> bool:
    """Whether what is computed now becomes part of a program that is being traced; `vmap` alone makes none."""
    return isinstance(jnp.add(0, 0), Tracer)


def in_float32(function: Callable[..., Any]) -> Callable[..., Any]:
    """Makes the matrix products of a function as exact on accelerators as on a CPU.

    JAX's own default there rounds the factors to 10 bits (TF32) or 7 (bfloat16): replay would differ from collection,
    and a small step of a trust region be lost. `jax_default_matmul_precision` goes before, where a user has set it.
    """

    @functools.wraps(function)
    def exact(*arguments, **named):
        asked = getattr(jax.config, "jax_default_matmul_precision", None)
        if jax.default_backend() == "cpu" or asked is not None:
            return function(*arguments, **named)
        with jax.default_matmul_precision("float32"):
            return function(*arguments, **named)

    return exact


def use_cpu_cores(num_devices: int | None = None) -> None:
    """Makes every CPU core a device of its own; call it before JAX starts, else it only warns.

    Args:
      num_devices: how many; by default what `JAX_NUM_CPU_DEVICES` or `XLA_FLAGS` say, where a user has set one, and
        else as many as the process may use.
    """
    if num_devices is None:
        flag = "--xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
        if flag or getattr(jax.config, "jax_num_cpu_devices", -1) > 0:
            return
        num_devices = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        jax.config.update("jax_num_cpu_devices", num_devices)
    except RuntimeError:  # a backend runs: its devices stay as they are
        if jax.default_backend() == "cpu" and (there := jax.local_device_count()) != num_devices:
            stay = "1 CPU device, which stays" if there == 1 else f"{there} CPU devices, which stay"
            warnings.warn(
                f"use_cpu_cores: JAX has started with {stay}, not {num_devices}; call it before anything uses JAX",
                stacklevel=2,
            )


def join_processes(
    coordinator: str | None = None, num_processes: int | None = None, process_id: int | None = None, heartbeat: int = 30
) -> None:
    """Makes this process one of several whose devices are one mesh; call it after `use_cpu_cores`, before JAX starts.

    Args:
      coordinator: host and port of process 0; by default, as the other two, what the cluster's environment says.
      heartbeat: seconds after which all end if one no longer answers.

    Raises:
      RuntimeError: if they do not find each other.
    """
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(coordinator, num_processes, process_id, heartbeat_timeout_seconds=heartbeat)


def is_first_process() -> bool:
    """Whether this process is the one that logs; so it is where there is only one."""
    return jax.process_index() == 0


def num_devices() -> int:
    """Returns how many devices of the ambient mesh share what is traced now; 1 where there is none."""
    return jax.sharding.get_abstract_mesh().shape.get(AXIS, 1)


def over_tasks(local: Callable[..., Any], shared, per_task) -> tuple[Any, Any]:
    """Calls `local(shared, per_task) -> (shared, per_task)` on every device of the ambient mesh.

    Each device has the whole of `shared` and its part of `per_task` (leading axis N). What is returned first must be
    the same on every device: reduce with `task_mean`. The second stays on the devices of its tasks.
    """
    if num_devices() == 1:
        return local(shared, per_task)
    # check_vma=False: the default would sum gradients of replicated params over the mesh, inner-loop ones included,
    # and so mix the tasks without an error
    specs = (P(), P(AXIS))
    return jax.shard_map(local, in_specs=specs, out_specs=specs, check_vma=False)(shared, per_task)


def map_tasks(function: Callable[..., Any], per_task):
    """Vmaps `function(one task)` over [N, ...], each task on its device of the ambient mesh."""
    return over_tasks(lambda _, mine: ((), jax.vmap(function)(mine)), (), per_task)[1]


def map_over_tasks(function: Callable[..., Any], mesh: Mesh, chunk: int | None = None) -> Callable[..., Any]:
    """Spreads `function(shared, one_task)` over the devices of a mesh and the tasks; leaves come back as [N, ...].

    Args:
      chunk: tasks that one device runs in parallel; all by default.
    """

    def local(shared, per_task):
        return chunked_vmap(lambda one: function(shared, one), per_task, chunk)

    return jax.shard_map(local, mesh=mesh, in_specs=(P(), P(AXIS)), out_specs=P(AXIS), check_vma=False)


def everywhere(mesh: Mesh) -> NamedSharding:
    """Says that each device of a mesh has the whole."""
    return NamedSharding(mesh, P())


def placement(state: TrainState, mesh: Mesh, leading: int = 0) -> TrainState:
    """Says where the updates of a train state leave its leaves: the source's spread over devices, all else on each.

    A state that also starts like that is compiled once, not twice.

    Args:
      state: arrays or shapes.
      leading: axes before the one that is spread, such as one of seeds.
    """
    spread = NamedSharding(mesh, P(*[None] * leading, AXIS))
    shared = jax.tree.map(lambda leaf: everywhere(mesh), state.replace(source=()))
    return shared.replace(source=jax.tree.map(lambda leaf: spread, state.source))


def largest_of_processes(value: int) -> int:
    """Returns the largest of the values that the processes bring; all wait here for each other."""
    if jax.process_count() == 1:
        return int(value)
    from jax.experimental import multihost_utils

    return int(np.max(multihost_utils.process_allgather(np.int32(value))))


def task_mean(tree):
    """Averages over the devices of `over_tasks`."""
    # a reduction over one device is not free
    return tree if num_devices() == 1 else jax.lax.pmean(tree, AXIS)


def task_sum(tree):
    """Adds up over the devices of `over_tasks`."""
    return tree if num_devices() == 1 else jax.lax.psum(tree, AXIS)


def device_index() -> Array | int:
    """Returns the number of this device among those of `over_tasks`."""
    return 0 if num_devices() == 1 else jax.lax.axis_index(AXIS)


def mean_over_tasks(function: Callable[..., Any], per_task, chunk: int | None = None):
    """Averages `function(some tasks) -> mean over those` over the tasks of all devices of `over_tasks`.

    Args:
      per_task: the tasks of this device, leaves [n, ...].
      chunk: tasks that one device works on in parallel; all by default.
    """
    return task_mean(mean_over_chunks(function, per_task, chunk))


def _cut(tree, length: int):
    return jax.tree.map(lambda leaf: leaf.reshape(leaf.shape[0] // length, length, *leaf.shape[1:]), tree)


def gather_tasks(tree):
    """Puts the parts of all devices of `over_tasks` together, [n, ...] to [N, ...], on every device."""
    return tree if num_devices() == 1 else jax.lax.all_gather(tree, AXIS, tiled=True)


def chunked_vmap(function: Callable[..., Any], batch, chunk: int | None = None):
    """Vmaps over the leading axis, of tasks or of anything, in pieces of at most `chunk`, one piece after the other."""
    size = jax.tree.leaves(batch)[0].shape[0]
    if chunk is None or chunk >= size:
        return jax.vmap(function)(batch)
    # by hand: `lax.map` in batches fails where a leaf is empty, such as the observation of a bandit
    done = jax.lax.map(jax.vmap(function), _cut(batch, _largest_divisor(size, chunk)))
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
    return size if chunk is None else _largest_divisor(size, min(chunk, size))


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
