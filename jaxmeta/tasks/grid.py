"""Grids with a hidden goal: GridNavi of VariBAD (Zintgraf et al., 2020, arXiv:1910.08348), and DPT's dark room."""

from __future__ import annotations

import dataclasses
import itertools

import jax
import jax.numpy as jnp
from flax import struct

from jaxmeta.config import checks
from jaxmeta.tasks.base import Cells, TaskFamily, flatten_task
from jaxmeta.types import Array, Discrete, Key, Spec, Step

MOVES = ((0, 0), (0, 1), (1, 0), (0, -1), (-1, 0))
"""Displacement (x, y) in cells of each action: stay, up, right, down, left."""


@dataclasses.dataclass(frozen=True)
class GridConfig:
    """`grid-navigation`: find a goal cell that is not part of the observation.

    Tasks: the goal is uniform over all cells but the start corner's block (0, 0), (0, 1), (1, 0), (1, 1): 21 goals on
    5x5 cells, as in VariBAD's GridNavi (Zintgraf et al., 2020, arXiv:1910.08348).
    Reward: 1 at every step that ends on the goal, else -0.1.
    Horizon: 15 steps by default; never ends early, not even at the goal. Every episode starts at (0, 0). Action: stay,
    up, right, down, left; moves into the border stay. Observation: the coordinates (x, y) in cells, as floats [2].
    """

    size: int = 5
    """Cells per side."""
    horizon: int = 15
    """Steps per episode."""
    num_episodes: int = 4
    """Episodes per trial of recurrent agents."""

    def __post_init__(self):
        checks.task_sizes(self, horizon=checks.AN_EPISODE, num_episodes=checks.A_TRIAL)
        if self.size < 3:
            raise ValueError(
                f"tasks.size is {self.size}; a side needs at least 3 cells, as no goal lies in the start's 2x2 block"
            )


class GridTask(struct.PyTreeNode):
    """The goal."""

    goal: Array
    """Cell (x, y), int32 [2]."""


class GridState(struct.PyTreeNode):
    """The agent's position."""

    position: Array
    """Cell (x, y), int32 [2]."""


@dataclasses.dataclass(frozen=True)
class GridNavigation:
    """A square grid of cells, with the start at the corner (0, 0).

    The reward is 1 where a step ends on the goal, which is a success, and `step_reward` elsewhere. The goal does not
    end the episode: the optimal agent stays there. The observation is the position: the agent must find the goal.
    """

    size: int = 5
    horizon: int = 15
    step_reward: float = -0.1

    @property
    def spec(self) -> Spec:
        return Spec(observation=(2,), action=Discrete(len(MOVES)), horizon=self.horizon, success=True)

    @property
    def num_cells(self) -> int:
        """Number of cells."""
        return self.size**2

    def cell_of(self, obs: Array) -> Array:
        """Returns the index x * size + y of the cell that an observation (x, y) is in; int32 scalar."""
        return jnp.round(obs[0] * self.size + obs[1]).astype(jnp.int32)

    def reset(self, key: Key, task: GridTask) -> tuple[GridState, Array]:
        position = jnp.zeros(2, jnp.int32)
        return GridState(position), position.astype(jnp.float32)

    def step(self, key: Key, state: GridState, action: Array, task: GridTask) -> tuple[GridState, Step]:
        position = jnp.clip(state.position + jnp.array(MOVES)[action], 0, self.size - 1)
        arrived = jnp.all(position == task.goal)
        reward = jnp.where(arrived, 1.0, self.step_reward).astype(jnp.float32)
        obs, never = position.astype(jnp.float32), jnp.array(False)
        step = Step(obs=obs, reward=reward, terminated=never, success=arrived)
        return GridState(position), step


def all_goals(config: GridConfig = GridConfig()) -> GridTask:
    """Returns all tasks of the family, to evaluate on all of them.

    Returns:
      The tasks of all goals, stacked: `goal` is int32 [size² - 4, 2].
    """
    cells = itertools.product(range(config.size), repeat=2)
    return GridTask(goal=jnp.array([cell for cell in cells if max(cell) > 1], jnp.int32))


def grid_navigation(config: GridConfig = GridConfig()) -> TaskFamily:
    """Builds the family of goals uniform over the cells outside the start's block."""

    def sample(key):
        return GridTask(goal=jax.random.choice(key, all_goals(config).goal))

    env = GridNavigation(config.size, config.horizon)
    cells = Cells(env.num_cells, env.cell_of)
    return TaskFamily(env, sample, sample, flatten_task, episodes=config.num_episodes, cells=cells)
