"""Point robots as PEARL defines them (Rakelly et al., 2019, arXiv:1903.08254)."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from jaxmeta.config import checks
from jaxmeta.tasks.base import TaskFamily, flatten_task
from jaxmeta.tasks.navigation import MAX_MOVE, PointState, PointTask
from jaxmeta.types import Array, Continuous, Key, Spec, Step


@dataclasses.dataclass(frozen=True)
class PointRobotConfig:
    """`point-robot`: a point moves to a goal that is not part of the observation, from a random start.

    Tasks: goal ~ U[-1, 1]² m. Reward: -d, d the distance to the goal after the move.
    Horizon: 20 steps by default; never ends early. Start: U[-1, 1]² m, resampled in every episode. Action: displacement
    in metres [2], each coordinate clipped to ±0.1, corresponding to ±1 in PEARL. Observation: position [2].
    """

    horizon: int = 20
    """Steps in an episode."""

    def __post_init__(self):
        checks.task_sizes(self, horizon=checks.AN_EPISODE)


@dataclasses.dataclass(frozen=True)
class SparsePointRobotConfig(PointRobotConfig):
    """`sparse-point-robot`: a point moves to a goal on a half circle, with a reward only near the goal.

    Tasks: goal (cos θ, sin θ) m, θ ~ U[0, π]; PEARL's own 100 goals divide the half circle evenly.
    Reward: 1 - d where d ≤ `goal_radius` = 0.2 m, else 0, d the distance to the goal after the move. PEARL evaluates
    and adapts on it, but trains actor and critics on -d: `SparsePointRobot.dense_reward`.
    Horizon: 20 steps by default; never ends early. Start: the origin. Action: displacement in metres [2], each
    coordinate clipped to ±0.1, corresponding to ±1 in PEARL. Observation: position [2].
    """

    goal_radius: float = 0.2
    """Largest distance from the goal with a reward, in metres."""

    def __post_init__(self):
        super().__post_init__()
        if not self.goal_radius > 0:
            raise ValueError(f"tasks.goal_radius is {self.goal_radius}; it must be above 0")


@dataclasses.dataclass(frozen=True)
class PointRobot:
    """A point with a random start in a square and the negative distance to the goal as reward; no early end."""

    horizon: int = 20

    @property
    def spec(self) -> Spec:
        return Spec(observation=(2,), action=Continuous(2, MAX_MOVE), horizon=self.horizon)

    def reset(self, key: Key, task: PointTask) -> tuple[PointState, Array]:
        position = jax.random.uniform(key, (2,), minval=-1.0, maxval=1.0)
        return PointState(position), position

    def step(self, key: Key, state: PointState, action: Array, task: PointTask) -> tuple[PointState, Step]:
        position = state.position + jnp.clip(action, -MAX_MOVE, MAX_MOVE)
        reward = self.reward(position, task)
        return PointState(position), Step(obs=position, reward=reward, terminated=jnp.array(False))

    def reward(self, obs: Array, task: PointTask) -> Array:
        """Computes the reward of a step that ends at `obs`, a position [2]."""
        return -jnp.linalg.norm(obs - task.goal)


@dataclasses.dataclass(frozen=True)
class SparsePointRobot(PointRobot):
    """A point that starts at the origin, with a reward only within a radius of the goal, which is a success."""

    goal_radius: float = 0.2

    @property
    def spec(self) -> Spec:
        return dataclasses.replace(super().spec, success=True)

    def reset(self, key: Key, task: PointTask) -> tuple[PointState, Array]:
        position = jnp.zeros(2)
        return PointState(position), position

    def step(self, key: Key, state: PointState, action: Array, task: PointTask) -> tuple[PointState, Step]:
        state, step = super().step(key, state, action, task)
        return state, step.replace(success=self.dense_reward(step.obs, task) >= -self.goal_radius)

    def reward(self, obs: Array, task: PointTask) -> Array:
        """Computes the reward of a step that ends at `obs`, a position [2]."""
        dense = self.dense_reward(obs, task)
        return jnp.where(dense >= -self.goal_radius, 1.0 + dense, 0.0)

    def dense_reward(self, obs: Array, task: PointTask) -> Array:
        """Computes the dense reward -d for off-policy training; agents observe, and are evaluated on, the sparse one.

        It is a pure function of stored transitions, so `Step` needs no second reward; see `TaskFamily.dense_reward`.

        Args:
          obs: the observation after the step, [2].
        """
        return super().reward(obs, task)


def point_robot(config: PointRobotConfig = PointRobotConfig()) -> TaskFamily:
    """Builds the family of goals uniform in the square where the point starts."""

    def sample(key):
        return PointTask(goal=jax.random.uniform(key, (2,), minval=-1.0, maxval=1.0))

    return TaskFamily(PointRobot(config.horizon), sample, sample, flatten_task)


def sparse_point_robot(config: SparsePointRobotConfig = SparsePointRobotConfig()) -> TaskFamily:
    """Builds the family of goals on the upper half of the unit circle around the start."""

    def sample(key):
        angle = jax.random.uniform(key, maxval=jnp.pi)
        return PointTask(goal=jnp.stack([jnp.cos(angle), jnp.sin(angle)]))

    env = SparsePointRobot(config.horizon, config.goal_radius)
    return TaskFamily(env, sample, sample, flatten_task, dense_reward=env.dense_reward)
