"""Environments on the CPU with gymnasium's interface (Towers et al., 2024, arXiv:2407.17032), also a user's own."""

from __future__ import annotations

import dataclasses
import importlib
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from jaxmeta.config import checks, extras
from jaxmeta.tasks.adapters import ranges
from jaxmeta.tasks.adapters.host import HostEnv, Outcome, Simulators
from jaxmeta.tasks.base import TaskFamily
from jaxmeta.types import Action, Array, Continuous, Discrete, Key, MultiDiscrete, Spec

RANGES = {"CartPole-v1": ("gravity=4.9:19.6", "force_mag=5:20")}
"""Ranges of the environments that have some by default, in SI units."""


@dataclasses.dataclass(frozen=True)
class GymnasiumConfig:
    """`gymnasium`: a CPU environment with gymnasium's interface, also one's own, whose parameters are hidden.

    Definition: the environment's, with its reward and its early ends. Tasks: attributes of `env.unwrapped`, set before
    every reset, and entries of `reset(options=...)`; each is uniform in its range, independently. Training and held-out
    tasks have the same distribution. What the constructor of an environment computes from an attribute does not follow
    it: with the `length` of `CartPole-v1`, `polemass_length` stays. `reset` has a seed drawn from the key.
    Horizon: 200 steps by default; a shorter time limit of the environment truncates. Success: see `success`.
    Observation: a Box; integers keep their dtype. Action: Discrete, MultiDiscrete or Box; a bounded Box is mapped
    to [-1, 1], clipped.
    """

    env: str = "CartPole-v1"
    """Id of an environment, or module:factory, where the factory takes nothing and returns a `gymnasium.Env`."""
    vary: tuple[str, ...] | None = None
    """Ranges of hidden attributes, such as gravity=5:15; by default gravity and force of `CartPole-v1`. Other
    environments need some, or `options`. With an empty tuple none varies."""
    options: tuple[str, ...] = ()
    """Ranges of hidden options of reset, such as goal=-1:1."""
    success: str = ""
    """Key of `info` whose value says whether the task is solved, such as is_success; empty if there is none."""
    horizon: int = 200
    """Steps per episode."""
    num_episodes: int = 2
    """Episodes per trial of recurrent agents."""

    def __post_init__(self):
        checks.task_sizes(self, horizon=checks.AN_EPISODE, num_episodes=checks.A_TRIAL)


class GymnasiumTask(struct.PyTreeNode):
    """Values of the parameters that vary."""

    values: Array
    """Attributes, then options of reset, each in the order of the config, [D]."""


class _Simulator:
    """One environment of gymnasium as a `host.Simulator`."""

    def __init__(self, env: Any, attributes: list[str], options: list[str], success: str):
        self._env, self._attributes, self._options, self._success = env, attributes, options, success

    def reset(self, task: GymnasiumTask, seed: int) -> np.ndarray:
        values = iter(np.asarray(task.values).tolist())
        for name in self._attributes:
            setattr(self._env.unwrapped, name, next(values))
        return self._env.reset(seed=seed, options=dict(zip(self._options, values, strict=True)) or None)[0]

    def step(self, action: np.ndarray) -> Outcome:
        obs, reward, terminated, truncated, info = self._env.step(_decoded(self._env.action_space, action))
        return Outcome(obs, float(reward), bool(terminated), bool(truncated), bool(info.get(self._success, False)))


def gymnasium(config: GymnasiumConfig = GymnasiumConfig()) -> TaskFamily:
    """Builds the family of an environment with hidden parameters.

    `encode` gives the values that vary, each scaled to [-1, 1] over its range.

    Raises:
      MissingExtraError: if gymnasium is not installed.
      ValueError: if there is no such environment, or its spaces or parameters cannot be used.
    """
    make, env = _maker(config.env)
    known = _parameters(env.unwrapped)
    vary = RANGES.get(config.env) if config.vary is None else config.vary
    if vary is None and not config.options:
        raise ValueError(f"tasks.vary is None; {config.env} needs ranges of some of {', '.join(known)}")
    attributes = ranges.parse(vary or (), known)
    options = ranges.parse(config.options, [text.partition("=")[0] for text in config.options])
    spec = Spec(*_spaces(config.env, env), config.horizon, terminates=True, success=bool(config.success))
    names = [one.name for one in attributes], [one.name for one in options]
    simulators = Simulators(lambda kind: _Simulator(make(), *names, config.success))
    low, high = np.array([(one.low, one.high) for one in (*attributes, *options)], np.float32).reshape(-1, 2).T
    half = np.where(high > low, high - low, np.float32(2)) / 2

    def sample(key: Key) -> GymnasiumTask:
        return GymnasiumTask(jax.random.uniform(key, low.shape, minval=low, maxval=high))

    def encode(task: GymnasiumTask) -> Array:
        return (task.values - low) / half - 1.0

    single = None if low.size else GymnasiumTask(jnp.zeros((1, 0)))
    return TaskFamily(HostEnv(spec, simulators), sample, sample, encode, config.num_episodes, train_tasks=single)


def _maker(name: str) -> tuple[Any, Any]:
    """Returns a function that makes an environment, from an id or `module:factory`, and one environment."""
    library = extras.load("gymnasium", "gymnasium")
    module, _, factory = name.rpartition(":")
    if not module:
        extras.check_name("tasks.env", name, library.registry)
    try:
        make = getattr(importlib.import_module(module), factory) if module else lambda: library.make(name)
        return make, make()
    except (ImportError, AttributeError, library.error.Error) as error:
        raise ValueError(f"tasks.env is {name!r}, which cannot be made: {error}") from error


def _parameters(env: Any) -> list[str]:
    """Lists the attributes that are numbers."""
    values = {name: getattr(env, name, None) for name in dir(env) if not name.startswith("_")}
    return [name for name, one in values.items() if isinstance(one, float | np.number) or type(one) is int]


def _spaces(name: str, env: Any) -> tuple[Any, Action]:
    """Returns the observation and the action of a spec."""
    seen, act = env.observation_space, env.action_space
    kinds = {
        "Discrete": lambda: Discrete(int(act.n)),
        "MultiDiscrete": lambda: MultiDiscrete(tuple(act.nvec.ravel().tolist())),
        "Box": lambda: Continuous(math.prod(act.shape), 1.0 if act.is_bounded() else math.inf),
    }
    for what, space, usable in (("observation", seen, ["Box"]), ("action", act, list(kinds))):
        if type(space).__name__ not in usable:
            text = f"whose {what} is a {type(space).__name__}; it must be a {' or '.join(usable)}"
            raise ValueError(f"tasks.env is {name!r}, {text}")
    observation = seen.shape if seen.dtype.kind == "f" else jax.ShapeDtypeStruct(seen.shape, seen.dtype)
    return observation, kinds[type(act).__name__]()


def _decoded(space: Any, action: np.ndarray) -> Any:
    """Returns the element of a space that an action of jaxmeta means."""
    action = action.reshape(space.shape)
    if type(space).__name__ != "Box":
        action = action + space.start
    elif space.is_bounded():
        action = (space.high + space.low) / 2 + (space.high - space.low) / 2 * np.clip(action, -1, 1)
    return action.astype(space.dtype)
