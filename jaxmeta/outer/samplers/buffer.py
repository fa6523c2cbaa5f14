"""A buffer of scored tasks, and the sampler that replays some of them in every update.

All shapes are fixed and every function is deterministic: ties are broken by position, and no row is written twice.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from jaxmeta import devices
from jaxmeta.core import guard
from jaxmeta.outer.meta_update import Draw, Sampler
from jaxmeta.tasks.base import TaskFamily
from jaxmeta.types import Array, Key, Metrics, Params, Task

REPLAY = 2**31 - 2
"""Folded into the key of an update's first task, which draws that task itself."""
QUANTILES = {"min": 0.0, "q25": 0.25, "median": 0.5, "q75": 0.75, "max": 1.0}
"""Quantiles of scores in the log, by name."""
MAX_LOGGED_NUMBERS = 4
"""Longest encoding of a task whose quantiles are logged number by number."""


class Buffer(struct.PyTreeNode):
    """Known tasks and their scores; rows that are not `full` hold a placeholder."""

    tasks: Task
    """Leaves [B, ...]."""
    code: Array
    """Fingerprint of each task, uint32 [B]."""
    full: Array
    """Bool [B]."""
    score: Array
    """Float32 [B]; 0 where empty."""
    value: Array
    """What the next visit is compared with, such as the best return so far, float32 [B]."""
    visited: Array
    """Update of the last visit, int32 [B]."""
    updates: Array
    """Number of updates so far, int32 scalar."""
    probed: Array
    """Environment steps that the sampler itself used for this update, float32 scalar."""


class Rating(NamedTuple):
    """How tasks are scored."""

    measure: Callable[[Params, Any], Any]
    """As `Sampler.score`: on the device of the task."""
    first: Callable[[Buffer, Task, Any], tuple[Array, Array, Array]]
    """(buffer, tasks, measures [N]) -> (scores, values, whether worth keeping) of new tasks, [N] each."""
    again: Callable[[Array, Array, Any], tuple[Array, Array]]
    """(scores, values, measures [N]) -> (scores, values) of known tasks after another visit, [N] each."""


Weigh = Callable[[Buffer], Array]
"""Relative probability of each row to be replayed, [B]; 0 for empty rows."""
Refresh = Callable[[Buffer, Params, Key], Buffer]
"""Changes the buffer before an update draws from it, such as by probing new tasks."""


def smoothed(measure: Callable[[Params, Any], Array], rate: float, only_positive: bool = False) -> Rating:
    """Rates a task by an exponential moving average, over its visits, of one number.

    Args:
      rate: weight of the last visit.
      only_positive: whether to keep only new tasks with a positive score.
    """

    def first(buffer: Buffer, tasks: Task, measures: Array) -> tuple[Array, Array, Array]:
        worth = measures > 0 if only_positive else jnp.ones(measures.shape, bool)
        return measures, jnp.zeros_like(measures), worth

    def again(scores: Array, values: Array, measures: Array) -> tuple[Array, Array]:
        return (1.0 - rate) * scores + rate * measures, values

    return Rating(measure, first, again)


def empty(family: TaskFamily, size: int, key: Key) -> Buffer:
    """Makes an empty buffer of `size` rows."""
    task = family.sample(key)
    nothing = jnp.zeros(size)
    return Buffer(
        tasks=jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (size, *leaf.shape)), task),
        code=jnp.zeros(size, jnp.uint32),
        full=jnp.zeros(size, bool),
        score=nothing,
        value=nothing,
        visited=jnp.zeros(size, jnp.int32),
        updates=jnp.zeros((), jnp.int32),
        probed=jnp.zeros(()),
    )


def rank_weights(score: Array, full: Array, temperature: float) -> Array:
    """Computes probabilities by rank of score, rank^(-1/β) (Jiang et al., 2021, arXiv:2010.03934).

    Args:
      score: [B]. full: bool [B]; other rows get 0.
      temperature: β; small ones prefer high scores.

    Returns:
      [B], with sum 1 unless all rows are empty.
    """
    order = jnp.argsort(jnp.where(full, -score, jnp.inf), stable=True)
    rank = jnp.zeros(score.shape).at[order].set(jnp.arange(1.0, len(score) + 1.0), unique_indices=True)
    return normalised(jnp.where(full, jnp.exp(-jnp.log(rank) / temperature), 0.0))


def staleness_weights(buffer: Buffer) -> Array:
    """Computes probabilities in proportion to the number of updates since the last visit, [B]."""
    age = (buffer.updates - buffer.visited).astype(jnp.float32)
    return normalised(jnp.where(buffer.full, age, 0.0))


def normalised(weight: Array) -> Array:
    """Divides weights by their sum; all zero if that is zero."""
    total = weight.sum()
    return weight / jnp.where(total > 0, total, 1.0)


def mixed(of_score: Callable[[Buffer], Array], staleness: float) -> Weigh:
    """Mixes probabilities by score with those by staleness; uniform over full rows where both are zero."""

    def weigh(buffer: Buffer) -> Array:
        weight = (1.0 - staleness) * of_score(buffer) + staleness * staleness_weights(buffer)
        return jnp.where(weight.sum() > 0, weight, buffer.full.astype(jnp.float32))

    return weigh


def without_replacement(key: Key, weight: Array, count: int) -> tuple[Array, Array]:
    """Draws distinct rows, one after the other in proportion to their weights, by the Gumbel top-k trick.

    Args:
      weight: [B]; rows with 0 are never drawn.

    Returns:
      Rows, int32 [count], and whether each was drawn, bool [count]: false if there are fewer rows than `count`.
    """
    noise = jax.random.gumbel(key, weight.shape)
    priority, rows = jax.lax.top_k(jnp.where(weight > 0, jnp.log(weight) + noise, -jnp.inf), count)
    return rows.astype(jnp.int32), priority > -jnp.inf


def fingerprints(family: TaskFamily, tasks: Task) -> Array:
    """Hashes the encodings of tasks [N, ...] to uint32 [N]: equal tasks have equal fingerprints."""
    codes = jax.vmap(family.encode)(tasks)
    bits = jax.lax.bitcast_convert_type(codes.astype(jnp.float32), jnp.uint32)
    factors = np.random.default_rng(0).integers(0, 2**32, bits.shape[1], dtype=np.uint32) | 1
    mixed_bits = (bits ^ (bits >> 16)) * jnp.asarray(factors)
    return jnp.sum(mixed_bits ^ (mixed_bits >> 15), axis=1, dtype=jnp.uint32)


def insert(buffer: Buffer, tasks: Task, code: Array, score: Array, value: Array, worth: Array) -> Buffer:
    """Keeps the rows with the highest scores among those of the buffer and new ones.

    A new task that equals a known one, or an earlier new one, is left out. Of equal scores the earlier row is kept.

    Args:
      tasks: leaves [N, ...]. code: their fingerprints, uint32 [N].
      score: [N]. value: [N].
      worth: whether to consider each, bool [N].
    """
    known = jnp.any((code[:, None] == buffer.code) & buffer.full, axis=1)
    earlier = jnp.tril(code[:, None] == code, k=-1) & worth
    worth &= ~known & ~jnp.any(earlier, axis=1)
    new = (tasks, code, worth, jnp.where(worth, score, 0.0), jnp.where(worth, value, 0.0))
    new = (*new, jnp.full(score.shape, buffer.updates, jnp.int32))
    old = (buffer.tasks, buffer.code, buffer.full, buffer.score, buffer.value, buffer.visited)
    both = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), old, new)
    keep = jnp.argsort(jnp.where(both[2], -both[3], jnp.inf), stable=True)[: len(buffer.full)]
    tasks, code, full, score, value, visited = jax.tree.map(lambda leaf: leaf[keep], both)
    return buffer.replace(tasks=tasks, code=code, full=full, score=score, value=value, visited=visited)


def replayed_positions(num_tasks: int, share: float) -> np.ndarray:
    """Returns which positions of an update replay a task: interleaved, in equal blocks, so that devices get as many.

    Args:
      share: of the update; rounded to at least 1 task, and at most all but 1.

    Returns:
      Bool [num_tasks].
    """
    count = num_replayed(num_tasks, share)
    blocks = math.gcd(num_tasks, count)
    length, replays = num_tasks // blocks, count // blocks
    moment = np.concatenate([np.arange(replays) / replays, (np.arange(length - replays) + 0.5) / (length - replays)])
    block = np.argsort(moment, kind="stable") < replays
    return np.tile(block, blocks)


def num_replayed(num_tasks: int, share: float) -> int:
    """Returns the number of replayed tasks of an update.

    Raises:
      ValueError: if an update has one task only.
    """
    if num_tasks < 2:
        raise ValueError(f"num_tasks is {num_tasks}; a curriculum needs at least 2, a new and a replayed one")
    return min(max(round(num_tasks * share), 1), num_tasks - 1)


def replaying(
    family: TaskFamily,
    num_tasks: int,
    rating: Rating,
    weigh: Weigh,
    size: int,
    share: float = 0.5,
    *,
    robust: bool = False,
    refresh: Refresh = lambda buffer, params, key: buffer,
) -> Sampler:
    """Builds a sampler with a fixed share of replayed and of new tasks in every update.

    Where the buffer has too few tasks, new ones take their place. A new task that is scored higher than the lowest of
    the buffer replaces it, and one that was non-finite is forgotten.

    Args:
      num_tasks: tasks per update.
      rating: scores the tasks after each visit.
      weigh: the probabilities of replay.
      size: rows of the buffer. share: of replayed tasks in an update.
      robust: whether new tasks are only scored, with weight 0, unless they take the place of a replayed one.
      refresh: called before each draw.

    Raises:
      ValueError: if the buffer is smaller than the share of replayed tasks.
    """
    replayed = replayed_positions(num_tasks, share)
    count = int(replayed.sum())
    if size < count:
        raise ValueError(f"size is {size}; the buffer must hold the {count} tasks that an update replays")
    places = np.flatnonzero(replayed)
    weight = jnp.asarray(replayed if robust else np.ones(num_tasks), jnp.float32)
    learned = tuple(replayed[: num_tasks // math.gcd(num_tasks, count)].tolist()) if robust else (True,)

    def sample(buffer: Buffer, params: Params, keys: Key) -> tuple[Buffer, Draw]:
        if len(keys) != num_tasks:
            raise ValueError(f"num_tasks is {len(keys)}; the sampler was built for {num_tasks}")
        refresh_key, draw_key = jax.random.split(jax.random.fold_in(keys[0], REPLAY))
        buffer = refresh(buffer, params, refresh_key)
        rows, drawn = without_replacement(draw_key, weigh(buffer), count)
        slot = jnp.full(num_tasks, -1, jnp.int32).at[places].set(jnp.where(drawn, rows, -1), unique_indices=True)
        new = devices.map_tasks(family.sample, keys)
        tasks = jax.tree.map(lambda old, new: _select(slot >= 0, old[jnp.maximum(slot, 0)], new), buffer.tasks, new)
        return buffer, Draw(tasks, slot, weight)

    def update(buffer: Buffer, draw: Draw, measures: Any, finite: Array) -> tuple[Buffer, Metrics]:
        draw, measures, finite = devices.replicated((draw, measures, finite))
        finite &= guard.is_finite(measures, leading=1)
        buffer = buffer.replace(updates=buffer.updates + 1)
        old, row = draw.slot >= 0, jnp.maximum(draw.slot, 0)
        score, value = rating.again(buffer.score[row], buffer.value[row], measures)
        first_score, first_value, worth = rating.first(buffer, draw.tasks, measures)
        buffer = _visited(buffer, jnp.where(old, draw.slot, size), score, value, finite)
        new = (fingerprints(family, draw.tasks), first_score, first_value, worth & ~old & finite)
        buffer = insert(buffer, draw.tasks, *new)
        scores = jnp.where(old, score, first_score)
        buffer = devices.replicated(buffer)  # else the compiler may shard it, and the next call compiles again
        return buffer, _metrics(buffer, scores, old, finite) | _task_quantiles(family, draw.tasks)

    return Sampler(lambda key: empty(family, size, key), sample, rating.measure, update, learned)


def _visited(buffer: Buffer, row: Array, score: Array, value: Array, finite: Array) -> Buffer:
    """Writes the results of a visit to the rows [N] of a buffer, dropping those out of range."""
    kept = jnp.where(finite, row, len(buffer.full))
    return buffer.replace(
        score=buffer.score.at[kept].set(score, mode="drop"),
        value=buffer.value.at[kept].set(value, mode="drop"),
        visited=buffer.visited.at[kept].set(buffer.updates, mode="drop"),
        full=buffer.full.at[jnp.where(finite, len(buffer.full), row)].set(False, mode="drop"),
    )


def _metrics(buffer: Buffer, scores: Array, old: Array, finite: Array) -> Metrics:
    """Returns what the sampler chose, and the quantiles of the scores in the buffer."""

    def mean(values: Array, where: Array) -> Array:
        return jnp.sum(jnp.where(where, values, 0.0)) / jnp.maximum(where.sum(), 1)

    metrics = {
        "sampler/score": mean(buffer.score, buffer.full),
        "sampler/filled": buffer.full.mean(),
        "sampler/replayed": old.mean(),
        "sampler/score_of_new": mean(scores, ~old & finite),
        "sampler/score_of_replayed": mean(scores, old & finite),
        "env_steps": buffer.probed,
    }
    last = jnp.maximum(buffer.full.sum() - 1, 0)
    ordered = jnp.sort(jnp.where(buffer.full, buffer.score, jnp.inf))
    for name, share in QUANTILES.items():
        value = ordered[jnp.round(share * last).astype(jnp.int32)]
        metrics[f"sampler/score_{name}"] = jnp.where(buffer.full.any(), value, 0.0)
    return metrics


def _task_quantiles(family: TaskFamily, tasks: Task) -> Metrics:
    """Returns the median and the 10 % and 90 % quantiles of the encodings of an update's tasks, if they are short."""
    codes = jax.vmap(family.encode)(tasks)
    if codes.shape[1] > MAX_LOGGED_NUMBERS:
        return {}
    quantiles = {"q10": 0.1, "median": 0.5, "q90": 0.9}
    values = jnp.quantile(codes, jnp.array(list(quantiles.values())), axis=0)
    return {
        f"sampler/task_{number}_{name}": values[index, number]
        for number in range(codes.shape[1])
        for index, name in enumerate(quantiles)
    }


def _select(condition: Array, one: Array, other: Array) -> Array:
    return jnp.where(condition.reshape(-1, *[1] * (one.ndim - 1)), one, other)
