"""Families whose tasks are numbered by their kind, and environments whose observation has that number, the task ID."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from jaxmeta.tasks.base import Env, Revealed, TaskFamily, among, kinds_of, reveal
from jaxmeta.types import Array, EnvState, Key, Spec, Step, Task

TASK_ID = "task_id"
"""Key of a dict observation that `with_task_id` adds for the one-hot task ID."""


class NumberedTask(struct.PyTreeNode):
    """A task of one of K kinds; usually, each task is a kind of its own."""

    task: Task
    """The task of the original family."""
    index: Array
    """The number of its kind, from 0 to K - 1, int32 scalar."""

    @property
    def kind(self) -> Array:
        """Returns `index`."""
        return self.index


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


def numbered(family: TaskFamily, tasks: Task | None = None, kinds: Any = None) -> TaskFamily:
    """Restricts a family to a finite set of tasks, which are encoded by their number, one-hot.

        goals = jm.tasks.PointTask(goal=jnp.array([[0.5, 0.0], [-0.5, 0.0]]))
        both = jm.tasks.numbered(jm.tasks.navigation(), goals)

    Training and held-out tasks are the same: `sample` and `sample_test` draw among all of them. Each task has a number
    of its own, unless there are many tasks of few kinds. Then the number is that of the kind, so that multi-task agents
    have one task ID, head and temperature per kind. The tasks of `several` and of Meta-World's MT10 and MT50 say their
    kind; others can be grouped by `kinds`:

        left_or_right = jm.tasks.numbered(jm.tasks.navigation(), goals, kinds=[0, 0, 1, 1])

    Args:
      tasks: the tasks of the family, leaves [M, ...]; by default its finite set of training tasks, `train_tasks`.
      kinds: the kind of every task, integers [M] from 0 to K - 1; by default see `kinds_of`.

    Raises:
      ValueError: if no tasks are given and the family has no finite set, the leaves differ in M, or the kinds are not
        the numbers from 0 to K - 1 or not as many as the tasks.
    """
    known = family.train_tasks if tasks is None else tasks
    if known is None:
        raise ValueError(
            "tasks.train_tasks is None: the family is a distribution, but multi-task learning and numbered tasks need"
            " a finite set (try jm.finite or jm.tasks.numbered in Python; `ppo --reveal` learns on a distribution)"
        )
    sizes = {leaf.shape[0] if getattr(leaf, "shape", ()) else 0 for leaf in jax.tree.leaves(known)}
    if len(sizes) != 1 or 0 in sizes:
        raise ValueError(f"numbered: the leaves of tasks have first axes of {sorted(sizes)}; all need the same, [M]")
    index, dense = _kinds(known, sizes.pop(), kinds), family.dense_reward
    size = int(index.max()) + 1
    with jax.ensure_compile_time_eval():
        every = NumberedTask(known, jnp.asarray(index))
    return family._replace(
        env=Numbered(family.env),
        sample=among(every),
        sample_test=among(every),
        encode=lambda task: jax.nn.one_hot(task.index, size),
        train_tasks=every,
        dense_reward=dense and (lambda obs, task: dense(obs, task.task)),
    )


def _kinds(tasks: Task, num_tasks: int, kinds: Any) -> np.ndarray:
    """Returns the kind of every task, int32 [M]."""
    if kinds is None:
        return kinds_of(tasks)
    given = np.asarray(kinds)
    if given.shape != (num_tasks,):
        raise ValueError(f"numbered: kinds is of shape {given.shape}; {num_tasks} tasks need one of ({num_tasks},)")
    present = np.unique(given)
    if not np.array_equal(present, np.arange(len(present))):
        raise ValueError(f"numbered: kinds are {present.tolist()}; they must be all the integers from 0 to K - 1")
    return given.astype(np.int32)


def with_task_id(family: TaskFamily) -> TaskFamily:
    """Numbers the training tasks of a family, see `numbered`, and adds the one-hot task ID to the observation.

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
