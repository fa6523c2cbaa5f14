"""Imagined tasks: environments that are learned models of another one, as in MB-MPO (Clavera et al., arXiv:1809.05214).

The models of an ensemble are the tasks: where little is known of the dynamics they differ.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from jaxmeta.tasks.base import TaskFamily
from jaxmeta.types import Array, Continuous, Key, Params, Spec, Step

Imagine = Callable[[Any, Params, Array, Array, Key], tuple[Array, Array]]
"""(statistics, params of a model, observation [O], action, key) -> (next observation [O], reward), unbatched."""


class ImaginedTask(struct.PyTreeNode):
    """A learned model of the dynamics."""

    index: Array
    """Which member of the ensemble it is, int32 scalar."""
    model: Params
    """Its params."""
    statistics: Any
    """Of its inputs and outputs."""


@dataclasses.dataclass(frozen=True)
class Imagined:
    """An environment whose transitions a model imagines; its state is the observation.

    Episodes start as those of a real task do. They do not end before the horizon, as the models do not predict
    terminations.
    """

    family: TaskFamily
    """The real tasks."""
    imagine: Imagine

    @property
    def spec(self) -> Spec:
        return dataclasses.replace(self.family.env.spec, terminates=False, success=False)

    def reset(self, key: Key, task: ImaginedTask) -> tuple[Array, Array]:
        task_key, start_key = jax.random.split(key)
        _, obs = self.family.env.reset(start_key, self.family.sample(task_key))
        return obs, obs

    def step(self, key: Key, state: Array, action: Array, task: ImaginedTask) -> tuple[Array, Step]:
        if isinstance(space := self.spec.action, Continuous):
            action = jnp.clip(action, -space.limit, space.limit)
        obs, reward = self.imagine(task.statistics, task.model, state, action, key)
        return obs, Step(obs, reward, terminated=jnp.array(False))


def imagined(family: TaskFamily, imagine: Imagine, models: Params, statistics: Any) -> TaskFamily:
    """Builds the family whose tasks are the models of an ensemble, all equally likely.

    It may be built while a program is traced, from params that change in every update.

    Args:
      family: the real tasks; imagined episodes start as theirs, each as on a task of its own.
      models: params with leaves [B, ...].
      statistics: of the inputs and outputs of all models.

    Returns:
      A family whose tasks are encoded by the index of the model.
    """
    members = jax.tree.leaves(models)[0].shape[0]

    def sample(key: Key) -> ImaginedTask:
        index = jax.random.randint(key, (), 0, members)
        return ImaginedTask(index, jax.tree.map(lambda leaf: leaf[index], models), statistics)

    encode = lambda task: task.index.astype(jnp.float32)[None]  # noqa: E731
    return TaskFamily(Imagined(family, imagine), sample, sample, encode, planning_reward=family.planning_reward)
