"""Aggregates: combine the gradients of the tasks into one.

An aggregate receives the loss of one task and differentiates it itself, so that a mean can be accumulated over the
tasks, while gradient surgery can compare the gradients of all tasks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxmeta import devices
from jaxmeta.core import guard
from jaxmeta.outer.meta_update import Batch
from jaxmeta.types import Array, Key, Metrics, Params

Loss = Callable[[Params, Any, Key], tuple[Array, Metrics]]
"""(params, data of one task, key) -> (scalar, metrics)."""


class Gradient(NamedTuple):
    """The aggregate over the tasks of all devices."""

    loss: Array
    gradient: Params
    metrics: Metrics
    weight: Array
    """Weight of each task of this device in the aggregate, [n]; 0 for those left out."""


Aggregate = Callable[[Loss, Params, Batch, "int | None"], Gradient]
"""(loss, params, batch, tasks that one device differentiates in parallel) -> gradient."""


def weighted_mean(loss: Loss, params: Params, batch: Batch, piece: int | None) -> tuple[Array, Metrics]:
    """Computes the weighted mean of a loss and its metrics over the tasks of all devices, without a gradient."""
    means, share = devices.mean_over_tasks(
        lambda some: (_local_mean(loss, params, some), jnp.mean(some.weight)), batch, piece
    )
    return _per_weight(means, share)


def mean() -> Aggregate:
    """Builds the weighted mean of the tasks' gradients.

    It differentiates the tasks in pieces and keeps only the running sum of gradients in memory.
    """

    def aggregate(loss: Loss, params: Params, batch: Batch, piece: int | None) -> Gradient:
        def of_some(some: Batch) -> Any:
            value_and_grad = jax.value_and_grad(lambda params: _local_mean(loss, params, some), has_aux=True)
            return value_and_grad(params), jnp.mean(some.weight)

        means, share = devices.mean_over_tasks(of_some, batch, piece)
        (value, metrics), gradient = _per_weight(means, share)
        return Gradient(value, gradient, metrics, batch.weight)

    return aggregate


def _local_mean(loss: Loss, params: Params, some: Batch) -> tuple[Array, Metrics]:
    each = jax.vmap(loss, (None, 0, 0))(params, some.data, some.keys)
    return jax.tree.map(lambda leaf: jnp.mean(leaf * some.weight), each)


def masked(max_norm: float | None = None) -> Aggregate:
    """Averages over the tasks whose gradient is finite and whose gradient norm is at most `max_norm`.

    The metric `masked_tasks` is the share of tasks left out, among those with positive weight;
    `nonfinite_tasks/gradient` is the number of tasks with a non-finite gradient.
    """

    def aggregate(loss: Loss, params: Params, batch: Batch, piece: int | None) -> Gradient:
        def of_one(one: Batch) -> Any:
            (value, metrics), gradient = jax.value_and_grad(loss, has_aux=True)(params, one.data, one.keys)
            # the norm is finite only if the gradient is, so that one pass over it is enough
            size = gradient if max_norm is None else optax.global_norm(gradient)
            finite = guard.is_finite((value, metrics, size))
            keep = finite if max_norm is None else finite & (size <= max_norm)
            output = guard.zero_unless(keep, (value, metrics, gradient))
            nonfinite = (~finite & (one.weight > 0)).astype(jnp.float32)
            return jax.tree.map(lambda leaf: leaf * one.weight, output), keep * one.weight, nonfinite

        def of_some(some: Batch) -> Any:
            output, keep, nonfinite = jax.vmap(of_one)(some)
            means = jax.tree.map(lambda leaf: jnp.mean(leaf, axis=0), (output, keep, nonfinite))
            return means, keep

        means, keep = devices.mean_and_each(of_some, batch, piece)
        (output, share, nonfinite), before = devices.task_mean((means, jnp.mean(batch.weight)))
        value, metrics, gradient = _per_weight(output, share, jnp.nan)
        metrics |= {guard.NONFINITE + "gradient": nonfinite * batch.weight.size * devices.num_devices()}
        if max_norm is not None:
            metrics["masked_tasks"] = jnp.where(before > 0, 1.0 - share / before, 0.0)
        return Gradient(value, gradient, metrics, keep)

    return aggregate


def mean_of_kept(each: Any, keep: Array) -> Any:
    """Averages the results of `guard.kept` over the kept tasks of all devices; NaN if no task was kept."""
    means, share = devices.task_mean(jax.tree.map(lambda leaf: jnp.mean(leaf, axis=0), (each, keep)))
    return _per_weight(means, share, jnp.nan)


def per_task(loss: Loss, params: Params, batch: Batch, piece: int | None) -> tuple[Array, Params, Metrics]:
    """Computes loss, gradient and metrics of each task of this device; leaves [n, ...]."""

    def one(one: Batch) -> Any:
        return jax.value_and_grad(loss, has_aux=True)(params, one.data, one.keys)

    (value, metrics), gradient = devices.chunked_vmap(one, batch, piece)
    return value, gradient, metrics


def combined(combine: Callable[[Array], Array]) -> Aggregate:
    """Sums the tasks' gradients with coefficients that depend on their Gram matrix alone, as in gradient surgery.

    Each gradient is multiplied by the task's weight first, and the sum is divided by the mean weight. So this equals
    `mean()`:

        combined(lambda gram: jnp.full(len(gram), 1 / len(gram)))

    Args:
      combine: the Gram matrix [N, N] of the gradients of all tasks -> the coefficients [N].
    """

    def aggregate(loss: Loss, params: Params, batch: Batch, piece: int | None) -> Gradient:
        each = per_task(loss, params, batch, piece)
        value, gradient, metrics = jax.tree.map(lambda leaf: jax.vmap(jnp.multiply)(leaf, batch.weight), each)
        flat = jnp.concatenate([leaf.reshape(len(value), -1) for leaf in jax.tree.leaves(gradient)], axis=1)
        whole = devices.gather_tasks(flat)
        here = len(value) * devices.device_index() + jnp.arange(len(value))
        coefficients = combine(whole @ whole.T)[here]
        total = jax.tree.map(lambda leaf: devices.task_sum(jnp.tensordot(coefficients, leaf, 1)), gradient)
        means = jax.tree.map(jnp.mean, (value, metrics, batch.weight))
        value, metrics, share = devices.task_mean(means)
        value, metrics, total = _per_weight((value, metrics, total), share)
        return Gradient(value, total, metrics, batch.weight)

    return aggregate


def _per_weight(tree: Any, share: Array, empty: float = 1.0) -> Any:
    """Divides a mean over all tasks by their mean weight; by `empty` if that is zero."""
    return jax.tree.map(lambda leaf: leaf / jnp.where(share > 0, share, empty), tree)
