"""Several families as one: tasks of different kinds, whose observations and actions may differ in size."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from jaxmeta.tasks.base import Env, TaskFamily, strong
from jaxmeta.types import Action, Array, Continuous, Discrete, EnvState, Key, Spec, Step, Task

OBS, MASK = "obs", "actions"
"""Parts of the observation of families whose numbers of actions differ."""


class SeveralTask(struct.PyTreeNode):
    """A task of one of K kinds."""

    kind: Array
    """Index of the family, int32 scalar; `numbered` gives all tasks of one kind the same number."""
    parts: tuple[Task, ...]
    """A task of every family; the one at `kind` counts."""


class SeveralState(struct.PyTreeNode):
    """A state of every environment; the one at `task.kind` counts."""

    time: Array
    """Number of steps in this episode, int32 scalar."""
    parts: tuple[EnvState, ...]


@dataclasses.dataclass(frozen=True)
class Several:
    """K environments as one; the task's kind says which.

    Observations are flattened and padded with zeros to the longest. Discrete actions that a kind lacks are masked: then
    the observation is a dict of the padded one, `obs`, and the mask, `actions`, and such an action is never sampled.
    Clipping it to the last action instead would keep the observation a plain array, but give that action more
    probability than the others, and entropies and likelihood ratios would count choices that do not exist.
    Where all kinds have equally many actions, there is no mask and the observation stays one array. Of a continuous
    action a kind reads its first entries and clips them to its own limit.

    Episodes of kinds with a shorter horizon are truncated there.
    """

    envs: tuple[Env, ...]

    @property
    def spec(self) -> Spec:
        specs = [env.spec for env in self.envs]
        horizon = max(spec.horizon for spec in specs)
        longest = (max(math.prod(spec.observation) for spec in specs),)
        action = _largest([spec.action for spec in specs])
        masks = self._has_mask(action)
        return Spec(
            {OBS: longest, MASK: jax.ShapeDtypeStruct((action.num,), jnp.bool_)} if masks else longest,
            action,
            horizon,
            terminates=any(spec.terminates or spec.horizon < horizon for spec in specs),
            success=any(spec.success for spec in specs),
            action_mask=MASK if masks else None,
        )

    def reset(self, key: Key, task: SeveralTask) -> tuple[SeveralState, Any]:
        begun = [env.reset(key, part) for env, part in zip(self.envs, task.parts, strict=True)]
        obs = jax.lax.select_n(task.kind, *(self._padded(obs) for _, obs in begun))
        state = SeveralState(jnp.zeros((), jnp.int32), tuple(state for state, _ in begun))
        return state, self._observation(obs, task.kind)

    def step(self, key: Key, state: SeveralState, action: Array, task: SeveralTask) -> tuple[SeveralState, Step]:
        """Advances the environment of the task's kind; the states of the others stay as they are."""
        time, horizon = state.time + 1, self.spec.horizon

        def branch(index: int):
            env = self.envs[index]

            def run(parts: tuple[EnvState, ...]) -> tuple[tuple[EnvState, ...], Step]:
                part, step = env.step(key, parts[index], _of_kind(action, env.spec.action), task.parts[index])
                over = jnp.array(env.spec.horizon < horizon) & (time >= env.spec.horizon)
                step = step.replace(obs=self._padded(step.obs), truncated=step.truncated | over)
                return (*parts[:index], part, *parts[index + 1 :]), strong(step)

            return run

        branches = [branch(index) for index in range(len(self.envs))]
        parts, step = jax.lax.switch(task.kind, branches, state.parts)
        return SeveralState(time, parts), step.replace(obs=self._observation(step.obs, task.kind))

    def _has_mask(self, action: Action) -> bool:
        return isinstance(action, Discrete) and any(env.spec.action != action for env in self.envs)

    def _padded(self, obs: Array) -> Array:
        longest = max(math.prod(env.spec.observation) for env in self.envs)
        return _padded(obs.reshape(-1), longest)

    def _observation(self, obs: Array, kind: Array) -> Any:
        """Adds the mask to a padded observation, if there is one."""
        spec = self.spec
        if spec.action_mask is None:
            return obs
        actions: list[Any] = [env.spec.action for env in self.envs]
        nums = [action.num for action in actions]
        return {OBS: obs, MASK: jnp.arange(max(nums)) < jnp.array(nums)[kind]}


def several(*families: TaskFamily) -> TaskFamily:
    """Joins families with different observations and actions: one agent for all.

    A task is of a kind drawn uniformly, and from the training or held-out distribution of that family. `encode` is the
    kind, one-hot, followed by the kind's encoded task, padded with zeros to the longest. If every family has a finite
    set of training tasks, the result has their union: the tasks of the first kind, then those of the second, and so on.

        both = jm.tasks.several(jm.tasks.cart_pole(), jm.tasks.acrobot())
        meta = jm.ppo(jm.tasks.reveal(both))

    Under `vmap` over tasks the environments of all kinds are computed at every step.

    Raises:
      ValueError: if there is no family, an observation is not one float32 array, or some actions are discrete and some
        continuous.
    """
    if not families:
        raise ValueError("several: no family is given; it needs at least 1")
    for family in families:
        if not family.env.spec.is_plain:
            raise ValueError(f"several: an observation is {family.env.spec.observation}; it must be one float32 array")
    _largest([family.env.spec.action for family in families])
    codes = [jax.eval_shape(lambda key, one=one: one.encode(one.sample(key)), jax.random.key(0)) for one in families]
    longest, known = max(code.shape[0] for code in codes), _union(families)

    def sampler(name: str):
        def sample(key: Key) -> SeveralTask:
            kind_key, *keys = jax.random.split(key, len(families) + 1)
            kind = jax.random.randint(kind_key, (), 0, len(families))
            parts = tuple(getattr(one, name)(key) for one, key in zip(families, keys, strict=True))
            if known is not None:  # other kinds have their first task, as in the union
                parts = tuple(
                    jax.tree.map(lambda own, of_all, index=index: jnp.where(kind == index, own, of_all[0]), part, one)
                    for index, (part, one) in enumerate(zip(parts, (one.train_tasks for one in families), strict=True))
                )
            return SeveralTask(kind, parts)

        return sample

    def encode(task: SeveralTask) -> Array:
        parts = [_padded(one.encode(part), longest) for one, part in zip(families, task.parts, strict=True)]
        return jnp.concatenate([jax.nn.one_hot(task.kind, len(families)), jax.lax.select_n(task.kind, *parts)])

    return TaskFamily(
        Several(tuple(family.env for family in families)),
        sampler("sample"),
        sampler("sample_test"),
        encode,
        episodes=max(family.episodes for family in families),
        train_tasks=known,
    )


def _union(families: Sequence[TaskFamily]) -> SeveralTask | None:
    """Returns the training tasks of all families, leaves [M, ...]; None if a family has no finite set.

    In a task of one kind, the parts of the others are their first tasks.
    """
    sets = [family.train_tasks for family in families]
    if any(tasks is None for tasks in sets):
        return None
    kind = np.repeat(np.arange(len(sets), dtype=np.int32), [jax.tree.leaves(tasks)[0].shape[0] for tasks in sets])

    def spread(leaf: Array, index: int) -> Array:
        own = np.cumsum(kind == index) - 1
        return leaf[np.where(kind == index, own, 0)]

    parts = [jax.tree.map(lambda leaf, index=index: spread(leaf, index), tasks) for index, tasks in enumerate(sets)]
    return SeveralTask(jnp.asarray(kind), tuple(parts))


def _largest(actions: Sequence[Action]) -> Any:
    """Returns the action space that holds those of all kinds."""
    if all(isinstance(action, Discrete) for action in actions):
        return Discrete(max(action.num for action in actions))  # pyright: ignore[reportAttributeAccessIssue]
    if all(isinstance(action, Continuous) for action in actions):
        sizes, limits = zip(*((action.size, action.limit) for action in actions), strict=True)  # pyright: ignore
        return Continuous(max(sizes), max(limits))
    given = ", ".join(map(str, actions))
    raise ValueError(f"several: the action spaces are {given}; they must be all Discrete or all Continuous")


def _of_kind(action: Array, space: Action) -> Array:
    """Returns the part of an action that a kind with this action space reads."""
    return action[: space.size] if isinstance(space, Continuous) else action


def _padded(vector: Array, size: int) -> Array:
    return jnp.pad(vector, (0, size - vector.size))
