"""Sums and means over the tasks of all devices."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

from jaxmeta.devices.mesh import AXIS, num_devices
from jaxmeta.devices.pieces import mean_over_chunks
from jaxmeta.types import Array


def task_mean(tree):
    """Averages each leaf over the devices of the enclosing `over_tasks`; call it on local means over tasks."""
    # a reduction over one device is not free
    return tree if num_devices() == 1 else jax.lax.pmean(tree, AXIS)


def task_sum(tree):
    """Sums each leaf over the devices of the enclosing `over_tasks`; call it on local sums over tasks."""
    return tree if num_devices() == 1 else jax.lax.psum(tree, AXIS)


def device_index() -> Array | int:
    """Returns the index of this device among those that the enclosing `over_tasks` runs on; 0 if there is only one."""
    return 0 if num_devices() == 1 else jax.lax.axis_index(AXIS)


def gather_tasks(tree):
    """Concatenates the leaves of all devices along the task axis, [n, ...] to [N, ...], on every device."""
    return tree if num_devices() == 1 else jax.lax.all_gather(tree, AXIS, tiled=True)


def mean_over_tasks(function: Callable[..., Any], per_task, chunk: int | None = None):
    """Computes the mean of a function over the tasks of all devices.

    Args:
      function: a batch of tasks -> the mean of a result over that batch; it is called on each chunk.
      per_task: the tasks of this device, leaves [n, ...].
      chunk: tasks that one device processes in parallel; all by default.
    """
    return task_mean(mean_over_chunks(function, per_task, chunk))
