"""XLand-MiniGrid (Nikulin et al., 2023, arXiv:2312.12044): find out what the goal is, and how to make what it needs."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp

from jaxmeta.config import checks, extras
from jaxmeta.tasks.adapters import rulesets
from jaxmeta.tasks.base import TaskFamily, among, strong
from jaxmeta.types import Array, Discrete, Key, Spec, Step, Task


@dataclasses.dataclass(frozen=True)
class XLandConfig:
    """`xland`: a grid of objects where goal and production rules are hidden.

    Tasks: XLand-MiniGrid's `RuleSet` (Nikulin et al., 2023, arXiv:2312.12044): a goal, production rules and initial
    objects. Sets of `num_train` and `num_test` rulesets, no two of which have the same goal and rules, are drawn by
    the suite's procedure, with the settings of its benchmarks trivial, small, medium or high. They are not the rulesets
    of the benchmarks' files; nothing is downloaded.
    Reward: 1 - 0.9 t / horizon at the step t that reaches the goal, which is a success and ends the episode; else 0.
    Horizon: by default 3 x height x width as in the suite, 243 steps on 9x9 cells. Objects and agent start anywhere.
    Action: forward, turn right, turn left, pick up, put down, toggle. Observation: the 5x5 cells in front of the agent;
    kind (13) and colour (12) of each are one-hot, bool [5, 5, 25], as their numbers have no order.
    """

    env: str = "XLand-MiniGrid-R1-9x9"
    """Id of the grid: number of rooms and size."""
    benchmark: Literal["trivial", "small", "medium", "high"] = "small"
    """Settings of the generator: from a goal without rules to three levels of rules."""
    num_train: int = 10_000
    """Number of training rulesets."""
    num_test: int = 1_000
    """Number of held-out rulesets."""
    seed: int = 0
    """Determines the rulesets."""
    horizon: int | None = None
    """Steps per episode."""
    num_episodes: int = 4
    """Episodes per trial of recurrent agents."""

    def __post_init__(self):
        a_set = "a task set needs at least 1 ruleset"
        checks.task_sizes(self, num_train=a_set, num_test=a_set, num_episodes=checks.A_TRIAL)
        checks.choice(self, "benchmark", *rulesets.LEVELS)
        if self.horizon is not None and self.horizon < 1:
            raise ValueError(f"tasks.horizon is {self.horizon}; {checks.AN_EPISODE}")
        rulesets.check_number(self.benchmark, self.num_train + self.num_test)


@dataclasses.dataclass(frozen=True, eq=False)
class XLand:
    """An environment of XLand-MiniGrid, without automatic resets."""

    env: Any
    """The `xminigrid.environment.Environment`."""
    params: Any
    """Its `EnvParams`; their time limit is the horizon."""
    spec: Spec
    sizes: tuple[int, int]
    """Numbers of kinds and of colours."""

    def reset(self, key: Key, task: Task) -> tuple[Any, Array]:
        state = strong(self.env.reset(self.params.replace(ruleset=task), key))
        return state, self._view(state)

    def step(self, key: Key, state: Any, action: Array, task: Task) -> tuple[Any, Step]:
        state = strong(self.env.step(self.params.replace(ruleset=task), state, action))
        reached = state.discount == 0.0
        return state, Step(obs=self._view(state), reward=state.reward, terminated=reached, success=reached)

    def _view(self, state: Any) -> Array:
        one_hot = [jax.nn.one_hot(state.observation[..., i], size, dtype=bool) for i, size in enumerate(self.sizes)]
        return jnp.concatenate(one_hot, axis=-1)


def xland(config: XLandConfig = XLandConfig()) -> TaskFamily:
    """Builds the family of rulesets.

    `encode` gives goal and rules, each integer one-hot; they say which tasks are the same.

    Raises:
      MissingExtraError: if xminigrid is not installed.
      ValueError: if there is no such environment.
    """
    library, constants = extras.load("xminigrid", "xland"), extras.load("xminigrid.core.constants", "xland")
    grids = [name for name in library.registered_environments() if name.startswith("XLand")]
    extras.check_name("tasks.env", config.env, grids)
    env, params = library.make(config.env)
    params = params.replace(max_steps=config.horizon or params.max_steps)
    every = rulesets.different(config.benchmark, config.num_train + config.num_test, config.seed)
    every = type(params.ruleset)(*map(jnp.asarray, every))
    train = jax.tree.map(lambda leaf: leaf[: config.num_train], every)
    test = jax.tree.map(lambda leaf: leaf[config.num_train :], every)

    def encode(task: Any) -> Array:
        ids = jnp.concatenate([task.goal, task.rules.reshape(-1)])
        return jax.nn.one_hot(ids, rulesets.NUM_IDS).reshape(-1)

    sizes = (constants.NUM_TILES, constants.NUM_COLORS)
    view = jax.ShapeDtypeStruct((params.view_size, params.view_size, sum(sizes)), jnp.bool_)
    spec = Spec(view, Discrete(env.num_actions(params)), params.max_steps, terminates=True, success=True)
    env = XLand(env, params, spec, sizes)
    return TaskFamily(env, among(train), among(test), encode, config.num_episodes, train_tasks=train)
