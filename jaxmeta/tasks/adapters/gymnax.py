"""Environments of gymnax (Lange, 2022, https://github.com/RobertTLange/gymnax) whose parameters are hidden."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxmeta.config import checks, extras
from jaxmeta.tasks.adapters import ranges
from jaxmeta.tasks.base import TaskFamily, strong
from jaxmeta.types import Array, Continuous, Discrete, Key, Spec, Step, Task

RANGES = {"CartPole-v1": ("gravity=5:15", "length=0.25:1.5", "masscart=0.5:2", "masspole=0.05:0.2")}
"""Ranges of the environments that have some by default; SI units, `length` is half of the pole's."""
DERIVED: dict[str, Callable[[Any], dict[str, Any]]] = {
    "CartPole-v1": lambda p: {"total_mass": p.masscart + p.masspole, "polemass_length": p.masspole * p.length}
}
"""Fields that gymnax stores beside those that they are computed from."""


@dataclasses.dataclass(frozen=True)
class GymnaxConfig:
    """`gymnax`: an environment of gymnax whose parameters, such as the length of a pole, are hidden.

    Tasks: gymnax's `EnvParams`. The fields in `vary` are uniform in their ranges, independently; all others have
    gymnax's defaults. Fields that depend on them, such as the total mass of cart and pole, follow. Training and
    held-out tasks have the same distribution. Dynamics, observation, reward and termination are gymnax's.
    Horizon: 200 steps by default. Episodes never reset themselves; gymnax's own time limit, 500 steps for
    `CartPole-v1`, truncates them if it is shorter than the horizon. Success is not defined.
    """

    env: str = "CartPole-v1"
    """Id of the environment."""
    vary: tuple[str, ...] | None = None
    """Ranges of the hidden parameters, such as length=0.25:1.5; by default gravity, length and masses of `CartPole-v1`.
    Other environments need some. With an empty tuple there is a single task."""
    horizon: int = 200
    """Steps per episode."""
    num_episodes: int = 2
    """Episodes per trial of recurrent agents."""

    def __post_init__(self):
        checks.task_sizes(self, horizon=checks.AN_EPISODE, num_episodes=checks.A_TRIAL)


@dataclasses.dataclass(frozen=True, eq=False)
class Gymnax:
    """An environment of gymnax, without its automatic resets.

    Continuous actions are clipped to the bounds of gymnax's action space.
    """

    env: Any
    """The `gymnax.environments.environment.Environment`."""
    spec: Spec
    space: Any
    """Gymnax's action space."""

    def reset(self, key: Key, task: Task) -> tuple[Any, Array]:
        obs, state = self.env.reset_env(key, task)
        return strong(state), jnp.asarray(obs, jnp.float32)

    def step(self, key: Key, state: Any, action: Array, task: Task) -> tuple[Any, Step]:
        if isinstance(self.spec.action, Continuous):
            action = jnp.clip(action.reshape(self.space.shape), self.space.low, self.space.high)
        obs, state, reward, terminated, _ = self.env.step_env(key, state, action, task)
        truncated = self.env.is_truncated(state, task) & ~terminated
        return strong(state), Step(jnp.asarray(obs, jnp.float32), jnp.float32(reward), terminated, truncated)


def gymnax(config: GymnaxConfig = GymnaxConfig()) -> TaskFamily:
    """Builds the family of an environment with hidden parameters.

    `encode` gives the fields that vary, each scaled to [-1, 1] over its range.

    Raises:
      MissingExtraError: if gymnax is not installed.
      ValueError: if there is no such environment, or a range is not one of a number in its `EnvParams`.
    """
    library = extras.load("gymnax", "gymnax")
    extras.check_name("tasks.env", config.env, library.registered_envs)
    env, default = library.make(config.env)
    derived = DERIVED.get(config.env, lambda task: {})
    numbers = [n for n, v in vars(default).items() if isinstance(v, float) and n not in derived(default)]
    vary = RANGES.get(config.env) if config.vary is None else config.vary
    if vary is None:
        raise ValueError(f"tasks.vary is None; {config.env} needs ranges of some of {', '.join(numbers)}")
    hidden, default = ranges.parse(vary, numbers), strong(default)

    def sample(key: Key) -> Any:
        task = default.replace(**ranges.sample(hidden, key))
        return task.replace(**derived(task))

    def encode(task: Any) -> Array:
        scaled = [(getattr(task, name) - low) / ((high - low) or 1.0) * 2.0 - 1.0 for name, low, high in hidden]
        return jnp.stack(scaled) if scaled else jnp.zeros(0)

    obs, space = jax.eval_shape(env.reset_env, jax.random.key(0), default)[0], env.action_space(default)
    if hasattr(space, "n"):
        action = Discrete(int(space.n))
    else:
        action = Continuous(math.prod(space.shape), float(np.abs([space.low, space.high]).max()))
    spec = Spec(obs.shape, action, config.horizon, terminates=True)
    single = None if hidden else jax.tree.map(lambda leaf: leaf[None], default)
    return TaskFamily(Gymnax(env, spec, space), sample, sample, encode, config.num_episodes, train_tasks=single)
