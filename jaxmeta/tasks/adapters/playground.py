"""MuJoCo Playground (Zakka et al., 2025, arXiv:2502.08844), with a hidden speed or hidden dynamics."""

from __future__ import annotations

import copy
import dataclasses
import functools
from typing import Any, Literal

import jax
import jax.numpy as jnp

from jaxmeta.config import checks, extras, settings
from jaxmeta.tasks.adapters import ranges
from jaxmeta.tasks.base import TaskFamily, strong
from jaxmeta.tasks.mujoco import quiet
from jaxmeta.types import Array, Continuous, Key, Spec, Step

MULTIPLIED = {"mass": "body_mass", "friction": "geom_friction", "damping": "dof_damping", "gravity": "opt.gravity"}
"""Multiplier of a task -> the entry of MuJoCo's model."""
SPEED_SENSOR = "torso_subtreelinvel"
"""Sensor of the velocity of the body, which the cheetah, hopper, walker and humanoid have."""


@dataclasses.dataclass(frozen=True)
class PlaygroundConfig:
    """`playground`: an environment of MuJoCo Playground with a hidden target speed or hidden dynamics.

    Tasks: a value for each name in `vary`, uniform in its range. `mass`, `friction`, `damping` and `gravity` multiply
    those of all bodies, geoms and joints; `speed` is a target in m/s.
    Reward: that of Playground, in [0, 1]; with `speed`, -|v - speed|, v the forward velocity of the body in m/s.
    Horizon: 200 steps by default; ends early only where the simulation diverges. Held-out tasks are new draws from the
    same distribution. The observation does not contain the task. Action: motor commands in [-1, 1], clipped.

    Environments of the DeepMind Control Suite are part of the library; the others are downloaded at first use.
    """

    env: str = "CheetahRun"
    """Playground's name of the environment."""
    horizon: int = 200
    """Steps in an episode."""
    vary: tuple[str, ...] = ("speed=0:4",)
    """What a task changes: NAME=LOW:HIGH, of speed, mass, friction, damping and gravity."""
    num_starts: int = 32
    """Initial states that are simulated when the family is built; an episode starts in one of them. Playground's own
    reset of the cheetah takes 200 steps of physics."""
    impl: Literal["jax", "warp"] = "jax"
    """Physics: jax, on every device, or warp, on GPUs."""

    def __post_init__(self):
        checks.task_sizes(self, horizon=checks.AN_EPISODE, num_starts="an episode needs a state to start in")
        checks.choice(self, "impl", "jax", "warp")
        if not ranges.parse(self.vary, ("speed", *MULTIPLIED)):
            raise ValueError("tasks.vary is empty; tasks need something to differ in, such as mass=0.5:2")


@dataclasses.dataclass(frozen=True, eq=False)
class Playground:
    """An environment of MuJoCo Playground; its time limit and its automatic reset are not used."""

    body: Any
    """A `mujoco_playground.MjxEnv`, shared by all tasks and never modified."""
    starts: Any
    """Initial states, leaves [num_starts, ...]; they are those of the body that no multiplier has changed."""
    spec: Spec

    def reset(self, key: Key, task: dict[str, Array]) -> tuple[Any, Any]:
        index = jax.random.randint(key, (), 0, jax.tree.leaves(self.starts)[0].shape[0])
        state = jax.tree.map(lambda leaf: leaf[index], self.starts)
        return state, state.obs

    def step(self, key: Key, state: Any, action: Array, task: dict[str, Array]) -> tuple[Any, Step]:
        moved = strong(self._body_of(task).step(state, jnp.clip(action, -1.0, 1.0)))
        finite = jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(moved.obs)]))
        moved = jax.tree.map(lambda new, old: jnp.where(finite, new, old), moved, state)
        reward = moved.reward
        if "speed" in task:
            reward = -jnp.abs(moved.data.sensordata[_forward(self.body.mj_model)] - task["speed"])
        return moved, Step(obs=moved.obs, reward=reward, terminated=(moved.done > 0) | ~finite)

    def _body_of(self, task: dict[str, Array]) -> Any:
        multiplied = MULTIPLIED.keys() & task.keys()
        if not multiplied:
            return self.body
        # a shallow copy: under vmap the new model holds tracers, and Playground has no public way to set one
        body, model = copy.copy(self.body), self.body.mjx_model
        values = {MULTIPLIED[name]: _entry(model, MULTIPLIED[name]) * task[name] for name in multiplied}
        body._mjx_model = model.tree_replace(values)
        return body


@settings.standard()
def playground(config: PlaygroundConfig = PlaygroundConfig()) -> TaskFamily:
    """Builds the family; it simulates the initial states, which takes seconds.

    Raises:
      MissingExtraError: if Playground is not installed.
      ValueError: if there is no such environment, or `speed` is varied where the body has no forward velocity.
    """
    library = extras.load("mujoco_playground", "playground").registry
    extras.check_name("tasks.env", config.env, library.ALL_ENVS)
    with quiet():
        body = library.load(config.env, config_overrides={"impl": config.impl})
    vary = ranges.parse(config.vary, ("speed", *MULTIPLIED))
    if any(one.name == "speed" for one in vary) and _forward(body.mj_model) is None:
        raise ValueError(f"tasks.vary has speed, but {config.env} has no forward velocity; vary its mass or gravity")
    starts = jax.jit(jax.vmap(lambda key: strong(body.reset(key))))(
        jax.random.split(jax.random.key(0), config.num_starts)
    )
    forms = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), starts.obs)
    env = Playground(body, starts, Spec(forms, Continuous(body.action_size), config.horizon, terminates=True))
    sample = functools.partial(ranges.sample, vary)
    return TaskFamily(env, sample, sample, functools.partial(ranges.encode, vary))


def _entry(model: Any, path: str) -> Any:
    return functools.reduce(getattr, path.split("."), model)


def _forward(model: Any) -> int | None:
    """Returns where a MuJoCo model keeps the reading of its forward velocity; None if it has no such sensor."""
    try:
        return int(model.sensor(SPEED_SENSOR).adr[0])
    except KeyError:
        return None
