"""Samplers without scores: i.i.d. tasks, all tasks of a finite set, or some of a fixed set."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxmeta import devices
from jaxmeta.outer.meta_update import Draw, Sampler
from jaxmeta.tasks.base import TaskFamily, kinds_of
from jaxmeta.types import Array, Key, Metrics, Params, Task, Trial


def uniform(family: TaskFamily) -> Sampler:
    """Samples tasks i.i.d. from the family's training distribution."""

    def sample(state: tuple[()], params: Params, keys: Key) -> tuple[tuple[()], Draw]:
        tasks = devices.map_tasks(family.sample, keys)
        return state, Draw(tasks, slot=jnp.full(len(keys), -1), weight=jnp.ones(len(keys)))

    return Sampler(
        init=lambda key: (),
        sample=sample,
        score=lambda params, outcome: jnp.zeros(()),
        update=lambda state, *_: (state, {}),
    )


MAX_LOGGED_TASKS = 50
"""Largest number of tasks whose returns `every` logs one by one."""


def every(family: TaskFamily, visits: int = 1, weights: Sequence[float] | None = None) -> Sampler:
    """Visits every training task of a finite set `visits` times per update, in order.

    Task k is at positions k `visits` to (k + 1) `visits` - 1 of the update, and its slot is k. The metrics are the
    return of every task, `return/task_0` to `return/task_{K - 1}` (up to `MAX_LOGGED_TASKS` tasks), which is that of
    the last round, averaged over streams and visits, and the lowest of them, `return/worst`. A task all of whose visits
    were non-finite keeps its last return, at first 0.

    If there are many tasks of K kinds, see `tasks.numbered`, then all of this is per kind, and every visit is to a task
    of the kind drawn uniformly.

    Args:
      family: its `train_tasks` are the tasks; the source must collect trials.
      weights: weight of every task in the improvement, K positive numbers, of which only the ratios matter; by default
        all are equal.

    Raises:
      ValueError: if the family has no finite set of training tasks, there are not K weights, or an update does not have
        K `visits` tasks.
    """
    known = family.train_tasks
    if known is None:
        raise ValueError("outer.every needs a family with a finite set of training tasks (try jm.tasks.numbered)")
    kind = kinds_of(known)
    counts = np.bincount(kind)
    size, widest = len(counts), int(counts.max())
    # [K, M']: the tasks of each kind, repeated where there are fewer than the most
    members = np.stack([np.resize(np.flatnonzero(kind == one), widest) for one in range(size)])
    if weights is not None and len(weights) != size:
        raise ValueError(f"weights has {len(weights)} entries; the family has {size} tasks, and each needs one")
    # the mean is 1, so that equal weights change nothing
    relative = np.ones(size) if weights is None else np.asarray(weights, np.float64) / np.mean(weights)

    def sample(state: Array, params: Params, keys: Key) -> tuple[Array, Draw]:
        if len(keys) != size * visits:
            raise ValueError(f"num_tasks is {len(keys)}; {visits} visits of {size} tasks need {size * visits}")
        slot = jnp.repeat(jnp.arange(size), visits)
        if widest == 1:
            place = jnp.zeros_like(slot)
        else:
            place = jax.vmap(lambda key, count: jax.random.randint(key, (), 0, count))(keys, jnp.asarray(counts)[slot])
        chosen = jnp.asarray(members)[slot, place]
        weight = jnp.asarray(relative, jnp.float32)[slot]
        return state, Draw(jax.tree.map(lambda leaf: leaf[chosen], known), slot, weight)

    def score(params: Params, trial: Trial) -> Array:
        return trial.rounds.reward[-1].sum(0).mean()

    def update(state: Array, draw: Draw, scores: Array, finite: Array) -> tuple[Array, Metrics]:
        scores, finite = scores.reshape(size, visits), finite.reshape(size, visits)
        count = finite.sum(1)
        mean = jnp.where(finite, scores, 0.0).sum(1) / jnp.maximum(count, 1)
        state = jnp.where(count > 0, mean, state)
        each = {f"return/task_{index}": state[index] for index in range(size)} if size <= MAX_LOGGED_TASKS else {}
        return state, each | {"return/worst": state.min()}

    essential = "every update visits all tasks of a finite set"
    return Sampler(lambda key: jnp.zeros(size), sample, score, update, essential=essential)


def revisit(family: TaskFamily, num_train_tasks: int, in_turn: int = 0, strata: int = 1) -> Sampler:
    """Samples from a fixed set of training tasks, without replacement within an update.

    The set is divided into strata of neighbouring tasks, with as many samples from each, so that every device samples
    the tasks whose replay buffers it holds.

    Args:
      num_train_tasks: size of the set, sampled from `family.sample` when training starts; ignored if the family has a
        finite set of training tasks (`train_tasks`).
      in_turn: updates at the start that cycle through the tasks; later ones sample at random.
      strata: number of strata; must divide the number of tasks and the tasks per update.
    """
    known = family.train_tasks
    size = num_train_tasks if known is None else jax.tree.leaves(known)[0].shape[0]

    def init(key: Key) -> tuple[Task, Array]:
        tasks = jax.vmap(family.sample)(jax.random.split(key, size)) if known is None else known
        return jax.tree.map(jnp.array, tasks), jnp.zeros((), jnp.int32)

    def sample(state: tuple[Task, Array], params: Params, keys: Key) -> tuple[Any, Draw]:
        tasks, updates = state
        here, visits = size // strata, len(keys) // strata

        def choose(key: Key) -> Array:
            turn = (updates * visits + jnp.arange(visits)) % here
            return jnp.where(updates < in_turn, turn, jax.random.choice(key, here, (visits,), replace=False))

        chosen = jax.vmap(choose)(keys[:strata])
        slot = (chosen + here * jnp.arange(strata)[:, None]).reshape(-1)
        return state, Draw(jax.tree.map(lambda leaf: leaf[slot], tasks), slot, jnp.ones(len(keys)))

    def update(state: tuple[Task, Array], draw: Draw, scores: Array, finite: Array) -> tuple[Any, Metrics]:
        tasks, updates = state
        return (tasks, updates + 1), {}

    essential = "its replay buffers belong to the tasks of a fixed set, which outer.revisit draws from"
    return Sampler(init, sample, lambda params, outcome: jnp.zeros(()), update, essential=essential)
