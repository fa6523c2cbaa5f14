"""Which devices there are, and what is spread over them.

On a CPU the cores are the devices (`use_cpu_cores`). Everything outside of this room is written for one device; inside
`over_tasks` a mean over all tasks of the batch is a local mean followed by `task_mean`. Which devices those are is
decided by who runs a program: `jm.train` enters a mesh, and what is traced within it is spread over it.
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
"""Strata that random draws are made in where the number of devices must not change them; the largest such number."""


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
        return Mesh(usable[: largest_divisor(spread, len(usable))], (AXIS,))


def num_strata(size: int) -> int:
    """Returns how many strata a batch is drawn in so that the number of devices changes nothing: 1, 2, 4 or 8."""
    return math.gcd(size, PARTS)


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


def largest_of_processes(value: int) -> int:
    """Returns the largest of the values that the processes bring; all wait here for each other."""
    if jax.process_count() == 1:
        return int(value)
    from jax.experimental import multihost_utils

    return int(np.max(multihost_utils.process_allgather(np.int32(value))))


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
