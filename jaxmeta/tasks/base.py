"""The interfaces of environments and task families, fixed task sets, and environments that reveal the task."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from jaxmeta.types import Array, EnvState, Key, Spec, Step, Task

TASK = "task"
"""Key of a dict observation that `reveal` adds for the task."""


class Env(Protocol):
    """An immutable environment. The task is not part of it, but an argument of every call.

    `reset` and `step` are unbatched pure functions; callers vmap them. A state has the same structure, shapes and
    dtypes before and after `step`.
    """

    @property
    def spec(self) -> Spec: ...

    def reset(self, key: Key, task: Task) -> tuple[EnvState, Any]:
        """Starts an episode and returns the state and the first observation."""
        ...

    def step(self, key: Key, state: EnvState, action: Array, task: Task) -> tuple[EnvState, Step]:
        """Advances the environment by one step."""
        ...


class Cells(NamedTuple):
    """The cells of a grid world."""

    number: int
    of: Callable[[Array], Array]
    """Observation -> index of the cell, int32 scalar."""


class TaskFamily(NamedTuple):
    """A distribution over tasks that share one environment."""

    env: Env
    sample: Callable[[Key], Task]
    """Samples a task for meta-training, unbatched."""
    sample_test: Callable[[Key], Task]
    """Samples a held-out task, unbatched."""
    encode: Callable[[Task], Array]
    """Encodes a task as a flat vector, for oracles and decoders."""
    episodes: int = 1
    """Default number of episodes per trial of recurrent agents."""
    train_tasks: Task | None = None
    """The training tasks, leaves [M, ...], if there are finitely many: `sample` draws from them."""
    dense_reward: Callable[[Array, Task], Array] | None = None
    """(next observation, task) -> a dense reward for off-policy training, where the environment's reward is sparse."""
    cells: Cells | None = None
    """The cells of a grid world, if rewards depend on the cell only."""
    planning_reward: Callable[[Any, Array, Any], Array] | None = None
    """(observation, action within the limit, next observation) -> the reward of the environment, unbatched, if it is
    the same function for all tasks: planners then need not learn it. `jm.testing.check_env` compares the two."""


def finite(family: TaskFamily, num_train: int, num_test: int, key: Key) -> TaskFamily:
    """Turns a task distribution into fixed, disjoint sets of training and held-out tasks (the PEARL protocol).

        family = jm.tasks.finite(jm.tasks.half_cheetah_vel(), num_train=100, num_test=30, key=jax.random.key(0))

    Args:
      family: `num_train` tasks are sampled from its `sample`, `num_test` from its `sample_test`.
      key: determines the sets.

    Returns:
      A family whose `sample` and `sample_test` draw uniformly from the two sets.

    Raises:
      ValueError: if a size is below 1, or if a held-out task is also a training task.
    """
    for name, value in (("num_train", num_train), ("num_test", num_test)):
        if value < 1:
            raise ValueError(f"finite: {name} is {value}; a task set needs at least 1 task")
    train_key, test_key = jax.random.split(key)

    def draw(sample, size, key):
        return jax.vmap(sample)(jax.random.split(key, size))

    train, test = draw(family.sample, num_train, train_key), draw(family.sample_test, num_test, test_key)
    train_codes, test_codes = jax.vmap(family.encode)(train), jax.vmap(family.encode)(test)
    shared = int(jnp.sum(jnp.any(jnp.all(test_codes[:, None] == train_codes, axis=-1), axis=1)))
    if shared:
        raise ValueError(
            f"finite: {shared} of {num_test} held-out tasks are training tasks too; the family has too few tasks"
        )
    return family._replace(sample=among(train), sample_test=among(test), train_tasks=train)


def among(tasks: Task) -> Callable[[Key], Task]:
    """Returns a function that draws one of some tasks uniformly, as `TaskFamily.sample` does.

    Args:
      tasks: leaves are [M, ...].
    """
    size = jax.tree.leaves(tasks)[0].shape[0]

    def sample(key):
        index = jax.random.randint(key, (), 0, size)
        return jax.tree.map(lambda leaf: leaf[index], tasks)

    return sample


def kinds_of(tasks: Task) -> np.ndarray:
    """Returns the kind of each of M tasks, int32 [M] from 0 to K - 1, in the order of the kinds.

    Tasks say their kind by an attribute `kind`, integers [M], as those of `several` do; else each is its own kind.

    Args:
      tasks: leaves are [M, ...].
    """
    kind = getattr(tasks, "kind", None)
    if kind is None or not jnp.issubdtype(jnp.result_type(kind), jnp.integer):
        return np.arange(jax.tree.leaves(tasks)[0].shape[0], dtype=np.int32)
    return np.unique(np.asarray(kind), return_inverse=True)[1].astype(np.int32)


@dataclasses.dataclass(frozen=True)
class Revealed:
    """An environment whose observation includes the encoded task.

    It is concatenated to a single float32 array, added to a dict as `name`, and any other observation becomes a dict of
    `obs` and `name`.
    """

    env: Env
    encode: Callable[[Task], Array]
    size: int
    """Length of the encoded task."""
    name: str = TASK
    """Key of the encoded task in a dict observation."""

    @property
    def spec(self) -> Spec:
        spec = self.env.spec
        if spec.is_plain:
            return dataclasses.replace(spec, observation=(math.prod(spec.observation) + self.size,))
        parts = spec.observation if isinstance(spec.observation, dict) else {"obs": spec.observation}
        if self.name in parts:
            raise ValueError(f"tasks.observation has a part {self.name!r} already; rename it to use reveal")
        return dataclasses.replace(spec, observation=parts | {self.name: (self.size,)})

    def reset(self, key: Key, task: Task) -> tuple[EnvState, Any]:
        state, obs = self.env.reset(key, task)
        return state, self.with_task(obs, task)

    def step(self, key: Key, state: EnvState, action: Array, task: Task) -> tuple[EnvState, Step]:
        state, step = self.env.step(key, state, action, task)
        return state, step.replace(obs=self.with_task(step.obs, task))

    def with_task(self, obs: Any, task: Task) -> Any:
        """Returns an observation of the original environment with the encoded task."""
        if self.env.spec.is_plain:
            return jnp.concatenate([obs.reshape(-1), self.encode(task)])
        return (obs if isinstance(obs, dict) else {"obs": obs}) | {self.name: self.encode(task)}

    def without_task(self, obs: Any) -> Any:
        """Returns the observation of the original environment."""
        spec = self.env.spec
        if spec.is_plain:
            return obs[: -self.size].reshape(spec.observation)
        parts = {name: part for name, part in obs.items() if name != self.name}
        return parts if isinstance(spec.observation, dict) else parts["obs"]


def reveal(family: TaskFamily, name: str = TASK) -> TaskFamily:
    """Adds the encoded task to the observation: agents trained on the result are oracles, or multi-task agents.

    Example:
      oracle = jm.ppo(jm.tasks.reveal(family))

    Args:
      name: key of the encoded task in a dict observation.
    """
    code = jax.eval_shape(lambda key: family.encode(family.sample(key)), jax.random.key(0))
    env = Revealed(family.env, family.encode, code.shape[0], name)
    dense, cells, planning = family.dense_reward, family.cells, family.planning_reward
    plain = env.without_task
    return family._replace(
        env=env,
        dense_reward=dense and (lambda obs, task: dense(plain(obs), task)),
        cells=cells and Cells(cells.number, lambda obs: cells.of(plain(obs))),
        planning_reward=planning and (lambda obs, action, after: planning(plain(obs), action, plain(after))),
    )


def flatten_task(task: Task) -> Array:
    """Concatenates the leaves of a task into one vector, the default `TaskFamily.encode`."""
    return jnp.concatenate([jnp.ravel(leaf).astype(jnp.float32) for leaf in jax.tree.leaves(task)])


def strong(tree: Any) -> Any:
    """Removes weak types, which would change the dtype of a scan's carry: for the states of other libraries."""
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.asarray(leaf).dtype), tree)
