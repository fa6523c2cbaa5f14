"""Where devices are known: tasks spread over a mesh, and cache-sized pieces of a task batch.

On a CPU the cores are the devices (`use_cpu_cores`). Everything outside this file is written for one device; inside
`over_tasks` a mean over all tasks of the batch is a local mean followed by `task_mean`.
"""

from __future__ import annotations

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

from jaxmeta.types import TrainState

AXIS = "task"
CACHE_BYTES = 256 * 1024
PARTS = 8
"""Parts that a batch is cut into where sums are taken in a fixed order, or as many of them as divide it; the largest
number of devices that give equal bits."""
GPU_OPTIONS = {"xla_gpu_autotune_level": 0, "xla_gpu_enable_triton_gemm": False}
"""How programs are compiled for a GPU: without trying for every product which of many kernels is the fastest. That
takes at least as long as all the rest and gains little, and what is chosen, hence how it rounds, can differ by run."""
_settings = {"fixed_order": False, "devices": None}


def devices() -> list[Any]:
    """Returns the devices that work is spread over: all there are, or as many as `use_devices` says."""
    return jax.devices()[: _settings["devices"]]


def use_devices(count: int | None) -> None:
    """Leaves all devices but the first `count` idle, in programs that are built from here on; None takes all."""
    _settings["devices"] = count


def use_fixed_order(on: bool = True) -> None:
    """Makes results equal bit for bit on 1, 2, 4 and 8 devices, for programs that are built from here on.

    A batch of tasks is computed in parts of one size, whatever the number of devices, and what they add up to is summed
    in the order of the tasks. It costs some speed: the parts are computed one after the other.
    """
    _settings["fixed_order"] = on


def has_fixed_order() -> bool:
    """Whether what is built or traced now sums in a fixed order."""
    return _settings["fixed_order"]


def parts_of(size: int) -> int:
    """Returns how many parts a batch is cut into where the number of devices must not matter: 1, 2, 4 or 8."""
    return math.gcd(size, PARTS)


def can_fix_order(num_tasks: int, num_devices: int) -> bool:
    """Whether a batch has several parts, so many devices can share them, and a fixed order costs little.

    On accelerators it does not: parts of a batch that wait for each other leave most of one idle.
    """
    parts = parts_of(num_tasks)
    return parts > 1 and parts % num_devices == 0 and jax.default_backend() == "cpu"


def compiled(
    function: Callable[..., Any], simplify: bool = True, fixed_order: bool = False, **options
) -> Callable[..., Any]:
    """Compiles a program that uses `over_tasks` or `map_over_tasks`, as `jax.jit` does with these options, in float32.

    Args:
      simplify: whether, with a fixed order, the compiler may rewrite products and sums; see `MetaLearner.simplify`.
      fixed_order: whether this program sums in a fixed order even where `use_fixed_order` is off.
    """
    fixed_order = fixed_order or has_fixed_order()
    # JAX takes them for whole programs alone: how a program is compiled is not for a part of it to say
    compiler_options = dict(GPU_OPTIONS) if jax.default_backend() == "gpu" and not _is_inside_program() else {}

    @functools.wraps(function)
    def traced(*arguments, **named):
        before = has_fixed_order()
        use_fixed_order(fixed_order)
        try:
            return in_float32(function)(*arguments, **named)
        finally:
            use_fixed_order(before)

    if fixed_order:
        # On many devices XLA merges what is computed twice before it simplifies, on a single one later: then other
        # operations are fused, and rounded together. Without that pass both ways lead to the same operations, but for
        # some products with constants.
        compiler_options["xla_disable_hlo_passes"] = "cse" if simplify else "cse,algsimp"
    return jax.jit(traced, compiler_options=compiler_options or None, **options)


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


def num_devices_for(num_tasks: int) -> int:
    """Returns how many of the devices share a batch of tasks: the largest count that divides it."""
    size = parts_of(num_tasks) if _settings["fixed_order"] else num_tasks
    return _largest_divisor(size, len(devices()))


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
    mesh = Mesh(devices()[: num_devices or num_devices_for(num_tasks)], (AXIS,))
    # check_vma=False: the default would sum gradients of replicated params over the mesh, inner-loop ones included,
    # and so mix the tasks without an error
    out_specs = (P(), P(AXIS)) if keeps else P()
    return jax.shard_map(local_update, mesh=mesh, in_specs=(P(), P(AXIS)), out_specs=out_specs, check_vma=False)


def map_over_tasks(function: Callable[..., Any], num_tasks: int, chunk: int | None = None) -> Callable[..., Any]:
    """Spreads `function(shared, one_task)` over devices and tasks; leaves come back as [num_tasks, ...].

    Args:
      chunk: tasks that one device runs side by side; all by default.
    """
    mesh = Mesh(devices()[: num_devices_for(num_tasks)], (AXIS,))

    def local(shared, per_task):
        return chunked_vmap(lambda one: function(shared, one), per_task, chunk)

    return jax.shard_map(local, mesh=mesh, in_specs=(P(), P(AXIS)), out_specs=P(AXIS), check_vma=False)


def everywhere(num_devices: int | None = None) -> NamedSharding:
    """Says that each of the first `num_devices` devices has the whole."""
    return NamedSharding(Mesh(devices()[:num_devices], (AXIS,)), P())


def replicate(tree, num_devices: int | None = None):
    """Puts a tree on the first `num_devices` devices, or on all."""
    return jax.device_put(tree, everywhere(num_devices))


def placement(state: TrainState, num_devices: int | None = None, leading: int = 0) -> TrainState:
    """Says where the updates of a train state leave its leaves: those of tasks on their devices, all else on every one.

    A state that also starts like that is compiled once, not twice.

    Args:
      state: arrays or shapes.
      leading: axes before that of the tasks, such as one of seeds.
    """
    mesh = Mesh(devices()[:num_devices], (AXIS,))
    everywhere, by_task = NamedSharding(mesh, P()), NamedSharding(mesh, P(*[None] * leading, AXIS))
    shared = jax.tree.map(lambda leaf: everywhere, state.replace(replay=()))
    return shared.replace(replay=jax.tree.map(lambda leaf: by_task, state.replay))


def largest_of_processes(value: int) -> int:
    """Returns the largest of the values that the processes bring; all wait here for each other."""
    if jax.process_count() == 1:
        return int(value)
    from jax.experimental import multihost_utils

    return int(np.max(multihost_utils.process_allgather(np.int32(value))))


def task_mean(tree):
    """Averages over the devices of `over_tasks`, in no fixed order: see `mean_over_tasks`."""
    # a reduction over one device is not free
    return tree if jax.lax.axis_size(AXIS) == 1 else jax.lax.pmean(tree, AXIS)


def task_sum(tree):
    """Adds up over the devices of `over_tasks`; for counts, as the order is not fixed."""
    return jax.lax.psum(tree, AXIS)


def mean_over_tasks(function: Callable[..., Any], per_task, chunk: int | None = None):
    """Averages `function(some tasks) -> mean over those` over the tasks of all devices of `over_tasks`.

    Args:
      per_task: the tasks of this device, leaves [n, ...].
      chunk: tasks that one device works on side by side; all by default.
    """
    if not _settings["fixed_order"]:
        return task_mean(mean_over_chunks(function, per_task, chunk))
    length = part_size(jax.tree.leaves(per_task)[0].shape[0])
    parts = _map_alike(lambda part: mean_over_chunks(function, part, chunk), _cut(per_task, length))
    return _mean_in_order(gather_tasks(parts))


def mean_over_shared(function: Callable[..., Any], batch):
    """Averages `function(some rows) -> mean over those` over a batch [B, ...] that every device has.

    The devices share the work if their number divides B, else each does it all.
    """
    size = jax.tree.leaves(batch)[0].shape[0]
    if not _settings["fixed_order"]:
        return task_mean(function(share(batch)))
    if parts_of(size) % jax.lax.axis_size(AXIS) == 0:
        return mean_over_tasks(function, share(batch))
    return _mean_in_order(_map_alike(function, _cut(batch, size // parts_of(size))))


def part_size(size: int) -> int:
    """Returns the tasks of a part, see `parts_of`, where each device has `size`."""
    total = size * jax.lax.axis_size(AXIS)
    return total // parts_of(total)


def _cut(tree, length: int):
    return jax.tree.map(lambda leaf: leaf.reshape(leaf.shape[0] // length, length, *leaf.shape[1:]), tree)


def _map_alike(function: Callable[..., Any], pieces):
    """Maps over pieces one by one, so that each is computed alike, be it one of many or the only one."""

    def turn(index, results):
        result = function(jax.tree.map(lambda leaf: leaf[index], pieces))
        return jax.tree.map(lambda whole, one: whole.at[index].set(one), results, result)

    length = jax.tree.leaves(pieces)[0].shape[0]
    if length == 1:  # a second piece that is never taken: the only one would be known before the loop
        pieces = jax.tree.map(lambda leaf: jnp.concatenate([leaf, leaf]), pieces)
    form = jax.eval_shape(function, jax.tree.map(lambda leaf: leaf[0], pieces))
    empty = jax.tree.map(lambda leaf: jnp.empty((length, *leaf.shape), leaf.dtype), form)
    return _turns(length, turn, empty, pieces)


def _mean_in_order(parts):
    """Averages [p, ...] over p, from the first to the last."""
    count = jax.tree.leaves(parts)[0].shape[0]
    zero = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape[1:], leaf.dtype), parts)
    total = _turns(
        count, lambda index, total: jax.tree.map(lambda all, part: all + part[index], total, parts), zero, parts
    )
    return sealed(jax.tree.map(lambda leaf: leaf / count, total))


def sealed(tree):
    """Returns a tree as it is; with a fixed order, what makes it is not fused, and so rounded, with what uses it."""
    if not _settings["fixed_order"]:
        return tree
    return _turns(1, lambda index, before: tree, jax.tree.map(jnp.zeros_like, tree), tree)


def _turns(count: int, turn: Callable[..., Any], start, data):
    """Runs a loop whose number of turns the compiler does not know, as it would have to look at some `data`.

    A loop of one turn, on the last of many devices, it would otherwise fuse with what comes before and after, and round
    differently. Such a loop has no gradient.
    """
    leaves = [leaf for leaf in jax.tree.leaves(data) if leaf.size]
    known = [leaf for leaf in leaves if not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)]
    first = known[0] if known else jax.random.key_data(leaves[0])
    at_least_count = count + (first.ravel()[0] > 0).astype(jnp.int32)
    return jax.lax.fori_loop(0, jnp.minimum(count, at_least_count), turn, start)


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
    count, size = jax.lax.axis_size(AXIS), jax.tree.leaves(tree)[0].shape[0]
    if size % count:
        return tree
    part = size // count
    begin = jax.lax.axis_index(AXIS) * part
    return jax.tree.map(lambda leaf: jax.lax.dynamic_slice_in_dim(leaf, begin, part), tree)


def chunked_vmap(function: Callable[..., Any], per_task, chunk: int | None = None):
    """Vmaps over the tasks of this device in pieces of at most `chunk`, one piece after the other."""
    size = jax.tree.leaves(per_task)[0].shape[0]
    if _settings["fixed_order"]:
        length = part_size(size)
        pieces = _cut(per_task, length if chunk is None else _largest_divisor(length, chunk))
        return jax.tree.map(lambda leaf: leaf.reshape(size, *leaf.shape[2:]), _map_alike(jax.vmap(function), pieces))
    return vmap_in_pieces(function, per_task, chunk)


def vmap_in_pieces(function: Callable[..., Any], batch, chunk: int | None = None):
    """Vmaps over the leading axis, of tasks or of anything, in pieces of at most `chunk`, one piece after the other."""
    size = jax.tree.leaves(batch)[0].shape[0]
    if chunk is None or chunk >= size:
        return jax.vmap(function)(batch)
    # by hand: `lax.map` in batches fails where a leaf is empty, such as the observation of a bandit
    done = jax.lax.map(jax.vmap(function), _cut(batch, _largest_divisor(size, chunk)))
    return jax.tree.map(lambda leaf: leaf.reshape(size, *leaf.shape[2:]), done)


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
