"""Families of K numbered tasks, and environments whose observation says which of them it is."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from jaxmeta.tasks.base import Env, Revealed, TaskFamily, among, reveal
from jaxmeta.types import Array, EnvState, Key, Spec, Step, Task

TASK_ID = "task_id"
"""Key of a dict observation that `with_task_id` adds for the one-hot task ID."""


class NumberedTask(struct.PyTreeNode):
    """One of K tasks."""

    task: Task
    """The task of the original family."""
    index: Array
    """Its number, from 0 to K - 1, int32 scalar."""


@dataclasses.dataclass(frozen=True)
class Numbered:
    """An environment whose tasks are numbered."""

    env: Env

    @property
    def spec(self) -> Spec:
        return self.env.spec

    def reset(self, key: Key, task: NumberedTask) -> tuple[EnvState, Any]:
        return self.env.reset(key, task.task)

    def step(self, key: Key, state: EnvState, action: Array, task: NumberedTask) -> tuple[EnvState, Step]:
        return self.env.step(key, state, action, task.task)


def numbered(family: TaskFamily, tasks: Task | None = None) -> TaskFamily:
    """Restricts a family to exactly K tasks, which are encoded by their number, one-hot.

        goals = jm.tasks.PointTask(goal=jnp.array([[0.5, 0.0], [-0.5, 0.0]]))
        both = jm.tasks.numbered(jm.tasks.navigation(), goals)

    Training and held-out tasks are the same K tasks: `sample` and `sample_test` draw among them.

    Args:
      tasks: the tasks of the family, leaves [K, ...]; by default its finite set of training tasks, `train_tasks`.

    Raises:
      ValueError: if no tasks are given and the family has no finite set, or the leaves differ in K.
    """
    known = family.train_tasks if tasks is None else tasks
    if known is None:
        raise ValueError(
            "tasks.train_tasks is None: the family is a distribution, but multi-task learning and numbered tasks need"
            " a finite set (try jm.finite or jm.tasks.numbered in Python; `ppo --reveal` learns on a distribution)"
        )
    sizes = {leaf.shape[0] if getattr(leaf, "shape", ()) else 0 for leaf in jax.tree.leaves(known)}
    if len(sizes) != 1 or 0 in sizes:
        raise ValueError(f"numbered: the leaves of tasks have first axes of {sorted(sizes)}; all need the same, [K]")
    size, dense = sizes.pop(), family.dense_reward
    every = NumberedTask(known, jnp.arange(size))
    return family._replace(
        env=Numbered(family.env),
        sample=among(every),
        sample_test=among(every),
        encode=lambda task: jax.nn.one_hot(task.index, size),
        train_tasks=every,
        dense_reward=dense and (lambda obs, task: dense(obs, task.task)),
    )


def with_task_id(family: TaskFamily) -> TaskFamily:
    """Numbers the training tasks of a family and adds the one-hot task ID to the observation.

    Multi-task agents act in the result; `jm.multi_task` applies it itself, and it changes nothing the second time. What
    the observation contains of the task already, as after `reveal`, stays there.

        family = jm.tasks.with_task_id(jm.tasks.half_cheetah_dir())
        meta = jm.multi_task(family)
        report = jm.evaluate(meta.learner, params, family.env, family.train_tasks, key, meta.plan)

    Raises:
      ValueError: if the family has no finite set of training tasks.
    """
    env = family.env
    if isinstance(env, Revealed) and isinstance(env.env, Numbered) and (env.spec.is_plain or env.name == TASK_ID):
        return family
    return reveal(family if isinstance(env, Numbered) else numbered(family), TASK_ID)
