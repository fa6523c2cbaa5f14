"""Sums and means over the tasks of all devices."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

from jaxmeta.devices.mesh import AXIS, num_devices
from jaxmeta.devices.pieces import mean_over_chunks
from jaxmeta.types import Array


def task_mean(tree):
    """Averages over the devices of `over_tasks`."""
    # a reduction over one device is not free
    return tree if num_devices() == 1 else jax.lax.pmean(tree, AXIS)


def task_sum(tree):
    """Sums over the devices of `over_tasks`."""
    return tree if num_devices() == 1 else jax.lax.psum(tree, AXIS)


def device_index() -> Array | int:
    """Returns the index of this device among those of `over_tasks`."""
    return 0 if num_devices() == 1 else jax.lax.axis_index(AXIS)


def gather_tasks(tree):
    """Gathers the parts of all devices of `over_tasks`, [n, ...] to [N, ...], on every device."""
    return tree if num_devices() == 1 else jax.lax.all_gather(tree, AXIS, tiled=True)


def mean_over_tasks(function: Callable[..., Any], per_task, chunk: int | None = None):
    """Averages `function(some tasks) -> mean over them` over the tasks of all devices of `over_tasks`.

    Args:
      per_task: the tasks of this device, leaves [n, ...].
      chunk: tasks that one device processes in parallel; all by default.
    """
    return task_mean(mean_over_chunks(function, per_task, chunk))
