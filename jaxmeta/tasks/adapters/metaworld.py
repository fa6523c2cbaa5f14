"""Meta-World: manipulation by a simulated Sawyer arm (Yu et al., 2020, arXiv:1910.10897; version 3)."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
from flax import struct

from jaxmeta.config import checks, extras
from jaxmeta.tasks.adapters.host import HostEnv, Outcome, Simulators
from jaxmeta.tasks.base import TaskFamily, among
from jaxmeta.types import Array, Continuous, Spec

GOALS = 50
"""Goals of each environment of a benchmark."""
LONGEST = 500
"""Steps after which Meta-World's own episodes end."""


@dataclasses.dataclass(frozen=True)
class MetaWorldConfig:
    """`metaworld`: manipulation tasks of a robot arm, run on the host.

    Definition: the package metaworld 3.1.1. Tasks: 50 goals (or object positions) of each environment. ML1 trains on 50
    goals of `env` and holds out 50 others; ML10 and ML45 train on 10 and 45 environments and hold out 5 others; MT10
    and MT50 have no held-out tasks, so they are evaluated on the training tasks. `family.train_tasks` holds each
    training goal once. Reward: Meta-World's dense one, version `reward`, up to 10 per step with v2. Horizon: 500 steps
    by default, the longest; never ends early without `end_on_success`. Success: an episode is a success if any of its
    steps is. Action: displacement of the hand and gripper effort in [-1, 1], [4], clipped. Observation: hand and
    objects now [18] and one step before [18], goal [3]; the goal is zero in ML, while MT adds the environment, one-hot.
    """

    benchmark: Literal["ML1", "ML10", "ML45", "MT10", "MT50"] = "ML1"
    """ML: meta-learning, with hidden goals. MT: multi-task learning, with visible ones."""
    env: str = "reach-v3"
    """Environment of ML1; the other benchmarks ignore it."""
    reward: Literal["v1", "v2"] = "v2"
    """Version of the reward; it changes the ranking of algorithms (McLean et al., 2025, arXiv:2505.11289)."""
    horizon: int = LONGEST
    """Steps per episode."""
    num_episodes: int = 2
    """Episodes per trial of recurrent agents."""
    seed: int = 0
    """Determines the goals."""
    end_on_success: bool = False
    """Whether an episode ends at its first success, as in the benchmark's own evaluation; see `first_to_end`."""

    def __post_init__(self):
        checks.task_sizes(self, horizon=checks.AN_EPISODE, num_episodes=checks.A_TRIAL)
        checks.finite(self)
        if self.horizon > LONGEST:
            raise ValueError(f"tasks.horizon is {self.horizon}; episodes of Meta-World have at most {LONGEST} steps")


class MetaWorldTask(struct.PyTreeNode):
    """An environment and a goal."""

    index: Array
    """Into the training tasks, followed by the held-out ones, int32 scalar; `index // 50` is the environment."""


class VisibleTask(MetaWorldTask):
    """A task of MT10 or MT50. As the goal is observed, all goals of an environment are one kind, see `numbered`."""

    @property
    def kind(self) -> Array:
        """Returns the environment, int32."""
        return self.index // GOALS


class _Simulator:
    """One environment of Meta-World as a `host.Simulator`."""

    def __init__(self, env: Any, tasks: list[Any], code: np.ndarray, ends: bool):
        self._env, self._tasks, self._code, self._ends = env, tasks, code, ends

    def reset(self, task: MetaWorldTask, seed: int) -> np.ndarray:
        self.goal(int(task.index))
        return np.concatenate([self._env.reset()[0], self._code])

    def step(self, action: np.ndarray) -> Outcome:
        obs, reward, _, _, info = self._env.step(np.clip(action, -1.0, 1.0).astype(np.float64))
        success = bool(info["success"])
        return Outcome(np.concatenate([obs, self._code]), float(reward), self._ends and success, success=success)

    def goal(self, index: int) -> np.ndarray:
        """Sets a task; returns what varies between the goals of an environment."""
        self._env.set_task(self._tasks[index])
        return self._env._last_rand_vec


def metaworld(config: MetaWorldConfig = MetaWorldConfig()) -> TaskFamily:
    """Builds the family of a benchmark.

    Building takes up to minutes: Meta-World resets every environment 50 times to draw its goals.

    Raises:
      MissingExtraError: if metaworld is not installed.
      ValueError: if ML1 has no environment of this name.
    """
    benchmark = _benchmark(config)
    tasks, visible = [*benchmark.train_tasks, *benchmark.test_tasks], config.benchmark.startswith("MT")
    classes = dict(benchmark.train_classes) | dict(benchmark.test_classes or {})
    names = list(dict.fromkeys(task.env_name for task in tasks))
    train = len(benchmark.train_tasks)

    def make(name: str) -> _Simulator:
        code = np.eye(len(names))[names.index(name)] if visible else np.zeros(0)
        return _Simulator(classes[name](reward_function_version=config.reward), tasks, code, config.end_on_success)

    simulators = Simulators(make, lambda task: tasks[int(task.index)].env_name)
    ready = {name: make(name) for name in names}
    goals = [ready[task.env_name].goal(index) for index, task in enumerate(tasks)]
    for name, simulator in ready.items():
        simulators.add(name, simulator)
    widest = max(map(len, goals))
    codes = [np.pad(goal, (0, widest - len(goal))) for goal in goals]
    table = np.concatenate([np.eye(len(names))[[names.index(task.env_name) for task in tasks]], codes], axis=1)

    spec = Spec((39 + len(names) * visible,), Continuous(4), config.horizon, config.end_on_success, success=True)
    training = (VisibleTask if visible else MetaWorldTask)(jnp.arange(train))
    return TaskFamily(
        HostEnv(spec, simulators),
        among(training),
        among(MetaWorldTask(jnp.arange(train, len(tasks))) if benchmark.test_tasks else training),
        encode=lambda task: jnp.asarray(table, jnp.float32)[task.index],
        episodes=config.num_episodes,
        train_tasks=training,
    )


def _benchmark(config: MetaWorldConfig) -> Any:
    library = extras.load("metaworld", "metaworld")
    if config.benchmark != "ML1":
        return getattr(library, config.benchmark)(seed=config.seed)
    extras.check_name("tasks.env", config.env, library.ML1.ENV_NAMES)
    return library.ML1(config.env, seed=config.seed)


def first_to_end(lengths: np.ndarray, successes: np.ndarray, parallel: int = 4, counted: int = 3) -> float:
    """Computes the success rate as Meta-World's own meta-evaluation does, which is biased upwards.

    `metaworld.evaluation.metalearning_evaluation` runs several goals of an environment in parallel, ends an episode at
    its first success and starts the next one on the same goal, and counts the first three episodes that end. Episodes
    that succeed end early, so they crowd out those that fail: if the agent always reaches 25 % of the goals after 100
    steps, about 70 % is reported. The unbiased success rate is the mean of `successes`; report both.

        family = metaworld(MetaWorldConfig("ML10", end_on_success=True))
        report = jm.evaluate(learner, params, family, tasks, key, jm.Plan(rounds=10, episodes=3))  # 40 goals of one env
        first_to_end(report.lengths[:, -1, 0], report.successes[:, -1, 0])

    Args:
      lengths: steps of consecutive episodes on each goal of one environment, [goals, episodes], episodes >= `counted`.
      successes: 1.0 where an episode succeeded, shaped like `lengths`.
      parallel: goals that run at the same time; the mean is over groups of this size.
      counted: episodes that are counted in each group.

    Raises:
      ValueError: if there are too few episodes, or the goals do not make whole groups.
    """
    goals, episodes = lengths.shape
    if goals % parallel or episodes < counted:
        need = f"a multiple of {parallel} goals and {counted} episodes or more"
        raise ValueError(f"lengths is [{goals}, {episodes}]; it must have {need}")
    ends = np.cumsum(lengths, axis=1).reshape(-1, parallel * episodes)
    first = np.argsort(ends, axis=1, kind="stable")[:, :counted]
    return float(np.take_along_axis(np.reshape(successes, ends.shape), first, axis=1).mean())
