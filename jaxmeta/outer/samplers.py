"""Samplers: which tasks an update visits."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jaxmeta import devices
from jaxmeta.outer.meta_update import Draw, Sampler
from jaxmeta.tasks.base import TaskFamily
from jaxmeta.types import Array, Key, Metrics, Params, Task


def uniform(family: TaskFamily) -> Sampler:
    """Draws every task from the family's training distribution."""

    def sample(state: tuple[()], params: Params, keys: Key) -> tuple[tuple[()], Draw]:
        tasks = devices.map_tasks(family.sample, keys)
        return state, Draw(tasks, slot=jnp.full(len(keys), -1), weight=jnp.ones(len(keys)))

    return Sampler(
        init=lambda key: (), sample=sample, score=lambda outcome: jnp.zeros(()), update=lambda state, *_: (state, {})
    )


def revisit(family: TaskFamily, num_train_tasks: int, in_turn: int = 0, strata: int = 1) -> Sampler:
    """Visits a fixed set of training tasks again and again, each at most once in an update.

    The tasks are divided into strata of neighbours, and as many are drawn from each: then a device that holds what is
    remembered of some of them visits those.

    Args:
      num_train_tasks: size of the set, drawn from `family.sample` when training begins; where the family has finitely
        many (`train_tasks`), those are taken instead.
      in_turn: updates at the start that visit the tasks one after the other; later ones draw them at random.
      strata: divides the number of tasks, and those of an update.
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

    return Sampler(init, sample, lambda outcome: jnp.zeros(()), update)
