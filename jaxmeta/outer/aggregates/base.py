"""The interface of aggregates; means of the tasks' gradients, and sums weighted by their Gram matrix."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxmeta import devices
from jaxmeta.core import guard, paths
from jaxmeta.outer.meta_update import Batch
from jaxmeta.outer.surgery import Rule, relations
from jaxmeta.types import Array, Key, Metrics, Params

Loss = Callable[[Params, Any, Key], tuple[Array, Metrics]]
"""(params, data of one task, key) -> (scalar, metrics)."""

SURGERY = 0x53
"""Separates the key of a rule from that of the loss of the first task."""


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

    Without `max_norm` all tasks are differentiated at once, and one by one only if the sum of their gradients is not
    finite: the gradient of a weight matrix is then one product over all tasks instead of a batch of small ones.
    """

    def one_by_one(loss: Loss, params: Params, batch: Batch, piece: int | None) -> Gradient:
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

    def at_once(loss: Loss, params: Params, batch: Batch, piece: int | None) -> Gradient:
        found, weight = mean()(loss, params, batch, piece), devices.task_mean(jnp.mean(batch.weight))
        found.metrics[guard.NONFINITE + "gradient"] = jnp.zeros(())
        count = batch.weight.size * devices.num_devices()
        sums = jax.tree.map(lambda leaf: leaf * count, (found.loss, found.gradient, found.metrics))
        fine = guard.is_finite(sums) & (weight > 0)

        def again(_: Any) -> tuple[Array, Gradient]:
            return jnp.array(True), one_by_one(loss, params, batch, piece)

        # a loop of at most one iteration, as `cond` would compute both branches for parallel seeds
        return jax.lax.while_loop(lambda carry: ~carry[0], again, (fine, found))[1]

    return at_once if max_norm is None else one_by_one


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


def combined(
    rule: Rule,
    *,
    shared: paths.Names | None = None,
    num_tasks: int | None = None,
    parts: Mapping[str, paths.Names] | None = None,
) -> Aggregate:
    """Sums the tasks' gradients with weights that depend on their Gram matrix alone, as in gradient surgery.

    Each gradient is multiplied by the task's weight first, and the sum is divided by the mean weight. So this equals
    `mean()`:

        combined(lambda gram, key: jnp.full(len(gram), 1 / len(gram)))

    Tasks of weight zero do not take part in the rule; see `surgery.Rule`.

    Args:
      rule: (Gram matrix [K, K] of the gradients of all tasks, key) -> weights [K], such as `surgery.pcgrad`.
      shared: the params whose gradients the rule combines, by names in their paths or by a predicate of the path; by
        default all. The gradients of the others are averaged.
      num_tasks: K, if a batch has several visits of every task: visits of one task are neighbours in the batch,
        [K, visits], and their gradients are averaged first. By default every entry of the batch is a task.
      parts: groups of params, such as actor and critics, each with a Gram matrix of its own, by name; the gradients of
        params in none of them are averaged. By default all params are one group.

    Returns:
      The aggregate. Its metrics are those of the loss and of `surgery.relations`; with parts, they end with the name of
      the part, such as `conflicts/actor`.

    Raises:
      ValueError: at the first update, if `num_tasks` does not divide the batch or no param is shared or in a part.
    """

    def aggregate(loss: Loss, params: Params, batch: Batch, piece: int | None) -> Gradient:
        seen = batch.weight > 0
        each = per_task(loss, params, batch, piece)
        value, gradient, metrics = jax.tree.map(lambda leaf: jax.vmap(guard.zero_unless)(seen, leaf), each)
        member = visited(len(seen), num_tasks)
        total, count = devices.task_sum((member @ batch.weight, member @ seen))
        share = member * batch.weight / jnp.maximum(count, 1.0)[:, None]
        by_task = jax.tree.map(lambda leaf: devices.task_sum(jnp.tensordot(share, leaf, 1)), gradient)

        present, names = total > 0, list(parts or {"": ()})
        group = _groups(params, shared, parts)  # index of the part of each leaf, -1 if its gradients are averaged
        grams = [
            _gram([leaf for leaf, own in zip(*map(jax.tree.leaves, (by_task, group)), strict=True) if own == index])
            for index in range(len(names))
        ]
        key = common_key(batch.keys, SURGERY)
        weights = [_weights(rule, gram, key, present) for gram in grams]
        equal = present / jnp.maximum(jnp.sum(present), 1)
        direction = jax.tree.map(
            lambda leaf, own: jnp.tensordot(equal if own < 0 else weights[own], leaf, 1), by_task, group
        )
        direction = _per_weight(direction, equal @ (total / jnp.maximum(count, 1.0)))
        means = jax.tree.map(lambda leaf: jnp.mean(leaf * batch.weight), (value, metrics))
        means, mean_weight = devices.task_mean((means, jnp.mean(batch.weight)))
        value, metrics = _per_weight(means, mean_weight)
        for name, gram in zip(names, grams, strict=True):
            metrics |= {f"{kind}/{name}".rstrip("/"): told for kind, told in relations(gram, present).items()}
        return Gradient(value, direction, metrics, batch.weight)

    return aggregate


def _groups(params: Params, shared: paths.Names | None, parts: Mapping[str, paths.Names] | None) -> Any:
    """Returns the index of the part that each leaf of the params is in, -1 if it is in none or not shared."""
    is_shared = jax.tree.map(lambda _: True, params) if shared is None else paths.named(params, shared)
    if parts is None:
        return jax.tree.map(lambda kept: 0 if kept else -1, is_shared)
    members = [paths.named(params, names) for names in parts.values()]
    group = jax.tree.map(lambda kept, *within: within.index(True) if kept and any(within) else -1, is_shared, *members)
    empty = [name for index, name in enumerate(parts) if index not in jax.tree.leaves(group)]
    if empty:
        raise ValueError(f"the tasks share no param in part {empty[0]!r}")
    return group


def visited(here: int, num_tasks: int | None) -> Array:
    """Returns which of the K tasks each entry of this device's part of the batch is a visit of, [K, n] of 0 and 1.

    Visits of one task are neighbours in the batch, [K, visits].
    """
    size = here * devices.num_devices()
    num_tasks = size if num_tasks is None else num_tasks
    if num_tasks < 1 or size % num_tasks:
        raise ValueError(f"num_tasks is {num_tasks}; it must divide the batch, which has {size} tasks")
    index = here * devices.device_index() + jnp.arange(here)
    return jax.nn.one_hot(index // (size // num_tasks), num_tasks, axis=0)


def _gram(gradients: list[Array]) -> Array:
    """Computes the inner products [K, K] of gradients with leaves [K, ...]."""
    flat = [leaf.reshape(len(leaf), -1) for leaf in gradients]
    return sum((leaf @ leaf.T for leaf in flat), jnp.zeros(()))


def _weights(rule: Rule, gram: Array, key: Key, present: Array) -> Array:
    """Applies a rule to the present tasks; absent ones get weight zero."""
    if "present" in inspect.signature(rule).parameters:
        return rule(gram, key, present=present) * present
    # exact if the rule's weights are averages over the tasks
    return rule(gram, key) * present * (len(present) / jnp.maximum(jnp.sum(present), 1))


def common_key(keys: Key, purpose: int) -> Key:
    """Derives a key from that of the first task, the same on all devices; `purpose` separates it from others."""
    first = devices.gather_tasks(jax.random.key_data(keys[:1]))[0]
    return jax.random.fold_in(jax.random.wrap_key_data(first, impl=jax.random.key_impl(keys)), purpose)


def _per_weight(tree: Any, share: Array, empty: float = 1.0) -> Any:
    """Divides a mean over all tasks by their mean weight; by `empty` if that is zero."""
    return jax.tree.map(lambda leaf: leaf / jnp.where(share > 0, share, empty), tree)
