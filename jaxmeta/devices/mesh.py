"""The mesh of devices, and sharding over it.

On a CPU the cores are the devices (`use_cpu_cores`). Code outside this package is written for one device; inside
`over_tasks` a mean over all tasks of the batch is a local mean followed by `task_mean`. The caller chooses the devices:
`jm.train` sets a mesh, and programs traced under it are sharded over it.
"""

from __future__ import annotations

import dataclasses
import math
import os
import warnings
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxmeta.devices.pieces import chunked_vmap, largest_divisor
from jaxmeta.types import TrainState

AXIS = "task"


PARTS = 8
"""Largest number of strata. Random draws are made per stratum, so that they do not depend on the number of devices."""


@dataclasses.dataclass(frozen=True)
class Execution:
    """Devices that a program runs on."""

    devices: int | None = None
    """Largest number of devices to use; None uses all."""

    def __post_init__(self):
        if self.devices is not None and self.devices < 1:
            raise ValueError(f"devices is {self.devices}; it must be at least 1")

    def mesh(self, spread: int) -> Mesh:
        """Returns the mesh for a batch of `spread` tasks: the largest number of devices that divides it."""
        usable = jax.devices()[: self.devices]
        return Mesh(usable[: largest_divisor(spread, len(usable))], (AXIS,))


def num_strata(size: int) -> int:
    """Returns the number of strata to draw a batch in, 1, 2, 4 or 8, so that draws do not depend on the devices."""
    return math.gcd(size, PARTS)


def use_cpu_cores(num_devices: int | None = None) -> None:
    """Makes every CPU core a JAX device; call it before JAX initialises its backends, else it only warns.

    Args:
      num_devices: how many; by default as set by `JAX_NUM_CPU_DEVICES` or `XLA_FLAGS`, else all cores that the process
        may use.
    """
    if num_devices is None:
        flag = "--xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
        if flag or getattr(jax.config, "jax_num_cpu_devices", -1) > 0:
            return
        num_devices = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        jax.config.update("jax_num_cpu_devices", num_devices)
    except RuntimeError:  # the backends are initialised: their devices are fixed
        if jax.default_backend() == "cpu" and (there := jax.local_device_count()) != num_devices:
            stay = "1 CPU device, which stays" if there == 1 else f"{there} CPU devices, which stay"
            warnings.warn(
                f"use_cpu_cores: JAX has started with {stay}, not {num_devices}; call it before anything uses JAX",
                stacklevel=2,
            )


def join_processes(
    coordinator: str | None = None, num_processes: int | None = None, process_id: int | None = None, heartbeat: int = 30
) -> None:
    """Joins several processes whose devices form one mesh; call it after `use_cpu_cores`, before JAX's backends start.

    Args:
      coordinator: host and port of process 0; by default, like the other two, from the cluster's environment.
      heartbeat: seconds after which all processes exit if one stops responding.

    Raises:
      RuntimeError: if the processes cannot connect.
    """
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(coordinator, num_processes, process_id, heartbeat_timeout_seconds=heartbeat)


def is_first_process() -> bool:
    """Returns whether this is process 0, the one that logs; always true with a single process."""
    return jax.process_index() == 0


def largest_of_processes(value: int) -> int:
    """Returns the maximum of a value over all processes; a barrier."""
    if jax.process_count() == 1:
        return int(value)
    from jax.experimental import multihost_utils

    return int(np.max(multihost_utils.process_allgather(np.int32(value))))


def num_devices() -> int:
    """Returns the number of devices of the ambient mesh, 1 if there is none."""
    return jax.sharding.get_abstract_mesh().shape.get(AXIS, 1)


def over_tasks(local: Callable[..., Any], shared, per_task) -> tuple[Any, Any]:
    """Calls `local(shared, per_task) -> (shared, per_task)` on every device of the ambient mesh.

        def local(params, tasks):  # tasks: those of this device, [n, ...]
            return devices.task_mean(jnp.mean(jax.vmap(loss, (None, 0))(params, tasks))), ()

        mean_loss, _ = devices.over_tasks(local, params, tasks)

    `shared` is replicated and `per_task` is sharded along its leading axis N. The first result must be the same on
    every device: reduce with `task_mean`. The second is sharded like `per_task`.
    """
    if num_devices() == 1:
        return local(shared, per_task)
    # check_vma=False: the default sums gradients of replicated params over the mesh, those of the inner loop included,
    # and so would silently mix the tasks
    specs = (P(), P(AXIS))
    return jax.shard_map(local, in_specs=specs, out_specs=specs, check_vma=False)(shared, per_task)


def replicated(tree: Any) -> Any:
    """Gathers arrays with leaves [N, ...], outside of `over_tasks`, on all devices of the ambient mesh."""
    return tree if num_devices() == 1 else jax.lax.with_sharding_constraint(tree, P())


def map_tasks(function: Callable[..., Any], per_task):
    """Vmaps `function(one task)` over [N, ...], each task on its device of the ambient mesh."""
    return over_tasks(lambda _, mine: ((), jax.vmap(function)(mine)), (), per_task)[1]


def map_over_tasks(function: Callable[..., Any], mesh: Mesh, chunk: int | None = None) -> Callable[..., Any]:
    """Maps `function(shared, one_task)` over the tasks, sharded over a mesh; the result has leaves [N, ...].

    Args:
      chunk: tasks that one device runs in parallel; all by default.
    """

    def local(shared, per_task):
        return chunked_vmap(lambda one: function(shared, one), per_task, chunk)

    return jax.shard_map(local, mesh=mesh, in_specs=(P(), P(AXIS)), out_specs=P(AXIS), check_vma=False)


def everywhere(mesh: Mesh) -> NamedSharding:
    """Returns the sharding that replicates an array on all devices of a mesh."""
    return NamedSharding(mesh, P())


def placement(state: TrainState, mesh: Mesh, leading: int = 0) -> TrainState:
    """Returns the shardings of a train state after an update: the source's state is sharded, all else replicated.

    An initial state with these shardings avoids a second compilation.

    Args:
      state: arrays or shapes.
      leading: axes before the sharded one, such as one of seeds.
    """
    # on one device, programs return P(): an equal sharding that is written otherwise would compile a second time
    spread = NamedSharding(mesh, P(*[None] * leading, AXIS) if mesh.size > 1 else P())
    shared = jax.tree.map(lambda leaf: everywhere(mesh), state.replace(source=()))
    return shared.replace(source=jax.tree.map(lambda leaf: spread, state.source))
