"""Tasks that change in mid-episode, as in GrBAL (Nagabandi et al., 2019, arXiv:1803.11347)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from jaxmeta.tasks.base import Env, TaskFamily
from jaxmeta.types import Array, EnvState, Key, Spec, Step, Task


class ChangingTask(struct.PyTreeNode):
    """Two tasks, one after the other in every episode."""

    before: Task
    after: Task
    time: Array
    """The first step of an episode on the task `after`, int32 scalar."""


class ChangingState(struct.PyTreeNode):
    """The state of the environment inside, and the time."""

    state: EnvState
    time: Array
    """Number of steps of the episode so far, int32 scalar."""


@dataclasses.dataclass(frozen=True)
class Changing:
    """An environment whose task changes during an episode; the observation does not tell."""

    env: Env

    @property
    def spec(self) -> Spec:
        return self.env.spec

    def reset(self, key: Key, task: ChangingTask) -> tuple[ChangingState, Any]:
        state, obs = self.env.reset(key, task.before)
        return ChangingState(state, jnp.zeros((), jnp.int32)), obs

    def step(self, key: Key, state: ChangingState, action: Array, task: ChangingTask) -> tuple[ChangingState, Step]:
        changed = state.time >= task.time
        now = jax.tree.map(lambda before, after: jnp.where(changed, after, before), task.before, task.after)
        inside, step = self.env.step(key, state.state, action, now)
        return ChangingState(inside, state.time + 1), step


def changing(
    family: TaskFamily,
    change: Callable[[Key, Task], Task] | None = None,
    between: tuple[float, float] = (1 / 3, 2 / 3),
) -> TaskFamily:
    """Makes the tasks of a family change once in every episode, at a time that is a part of the task.

        reversed = lambda key, task: task.replace(gain=-task.gain)
        family = jm.tasks.changing(jm.tasks.pendulum(), reversed)

    Args:
      change: (key, task) -> the task after the change; by default another task of the family.
      between: range of the time of the change, as shares of the horizon; it is uniform.

    Returns:
      A family whose tasks are encoded by both tasks and the share of the horizon before the change.

    Raises:
      ValueError: if the range does not lie in [0, 1] in this order, or the family has a dense reward.
    """
    low, high = between
    if not 0.0 <= low <= high <= 1.0:
        raise ValueError(f"changing: between is {between}; it must be LOW HIGH with 0 <= LOW <= HIGH <= 1")
    if family.dense_reward is not None:
        raise ValueError("changing: the family has a dense reward of its tasks, which would not change with them")
    horizon = family.env.spec.horizon
    first, last = round(low * horizon), round(high * horizon)

    def sampling(draw: Callable[[Key], Task]) -> Callable[[Key], ChangingTask]:
        def sample(key: Key) -> ChangingTask:
            task_key, change_key, time_key = jax.random.split(key, 3)
            before = draw(task_key)
            after = draw(change_key) if change is None else change(change_key, before)
            return ChangingTask(before, after, jax.random.randint(time_key, (), first, last + 1))

        return sample

    def encode(task: ChangingTask) -> Array:
        time = task.time.astype(jnp.float32)[None] / horizon
        return jnp.concatenate([family.encode(task.before), family.encode(task.after), time])

    return family._replace(
        env=Changing(family.env),
        sample=sampling(family.sample),
        sample_test=sampling(family.sample_test),
        encode=encode,
        train_tasks=None,
    )
