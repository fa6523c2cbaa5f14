"""The dark room of DPT (Lee et al., 2023, arXiv:2306.14892), a grid with a hidden goal."""

from __future__ import annotations

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np

from jaxmeta.config import checks
from jaxmeta.tasks.base import Cells, TaskFamily, flatten_task
from jaxmeta.tasks.grid import GridNavigation, GridTask
from jaxmeta.types import Array


@dataclasses.dataclass(frozen=True)
class DarkRoomConfig:
    """`dark-room`: find a goal cell that is not part of the observation, anywhere in a room.

    The dark room of DPT (Lee et al., 2023, arXiv:2306.14892).
    Tasks: the goal is uniform over the training cells; held-out tasks over the others. 20 of 100 cells are held out,
    the same as in DPT's code (a permutation by NumPy's `RandomState(0)`). With `held_out` 0 both are uniform over all
    cells, the start included: the prior of the exact values in `jm.references.dark_room`.
    Reward: 1 at every step that ends on the goal, which is a success, else 0.
    Horizon: 100 steps by default; never ends early, not even at the goal. Every episode starts at (0, 0). Action: stay,
    up, right, down, left; moves into the border stay. Observation: the coordinates (x, y) in cells, as floats [2].
    """

    size: int = 10
    """Cells per side."""
    horizon: int = 100
    """Steps per episode."""
    num_episodes: int = 2
    """Episodes per trial of recurrent agents."""
    held_out: int = 20
    """Number of goal cells that are not for training; 0 trains on all and evaluates on all."""

    def __post_init__(self):
        checks.task_sizes(
            self, size="a room needs at least 1 cell", horizon=checks.AN_EPISODE, num_episodes=checks.A_TRIAL
        )
        if not 0 <= self.held_out < self.size**2:
            raise ValueError(
                f"tasks.held_out is {self.held_out}; it must be at least 0, and leave one of {self.size**2} cells"
            )


def dark_room_goals(config: DarkRoomConfig = DarkRoomConfig()) -> GridTask:
    """Returns the tasks of all goals, stacked, training goals first: `goal` is int32 [size², 2]."""
    goals = np.array(list(itertools.product(range(config.size), repeat=2)), np.int32)
    np.random.RandomState(0).shuffle(goals)
    return GridTask(goal=jnp.array(goals))


def dark_room(config: DarkRoomConfig = DarkRoomConfig()) -> TaskFamily:
    """Builds the family of goals in a dark room."""
    goals = dark_room_goals(config).goal
    train = goals[: config.size**2 - config.held_out]
    test = goals[-config.held_out :] if config.held_out else goals

    def sampler(goals: Array):
        return lambda key: GridTask(goal=jax.random.choice(key, goals))

    env = GridNavigation(config.size, config.horizon, step_reward=0.0)
    return TaskFamily(
        env,
        sampler(train),
        sampler(test),
        flatten_task,
        episodes=config.num_episodes,
        train_tasks=GridTask(goal=train),
        cells=Cells(env.num_cells, env.cell_of),
    )
