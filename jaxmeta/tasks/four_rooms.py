"""Four rooms with a hidden goal (Sutton, Precup and Singh, 1999; Bacon et al., 2017, arXiv:1609.05140)."""

from __future__ import annotations

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from jaxmeta.config import checks
from jaxmeta.tasks.base import Cells, TaskFamily, among
from jaxmeta.types import Array, Discrete, Key, Spec, Step

LAYOUT = (
    "#############",
    "#.....#.....#",
    "#.....#.....#",
    "#...........#",
    "#.....#.....#",
    "#.....#.....#",
    "##.####.....#",
    "#.....###.###",
    "#.....#.....#",
    "#.....#.....#",
    "#...........#",
    "#.....#.....#",
    "#############",
)
"""The rooms, a character per cell: `.` is free, `#` is a wall."""
CELLS = np.argwhere([[place == "." for place in row] for row in LAYOUT])
"""Row and column in `LAYOUT` of every free cell, numbered along the rows, [104, 2]."""
HALLWAYS = (25, 51, 62, 88)
"""The cells between two rooms: north, west, east, south."""
MOVES = ((-1, 0), (1, 0), (0, -1), (0, 1))
"""Displacement (row, column) of each action: up, down, left, right."""
FURTHER_STEP = 1 / 3
"""Probability of a further step after a move, with the dynamics `code`."""
FAILURE = 1 / 3
"""Probability that a move goes in one of the other three directions, with the dynamics `sutton`."""
Dynamics = Literal["code", "sutton"]


def neighbours() -> np.ndarray:
    """Returns the cell that each action leads to from each cell, int32 [104, 4]; a move into a wall stays."""
    number = {tuple(cell): index for index, cell in enumerate(CELLS.tolist())}
    reached = [[number.get((row + y, column + x), index) for y, x in MOVES] for (row, column), index in number.items()]
    return np.array(reached, np.int32)


def transitions(dynamics: Dynamics = "code") -> np.ndarray:
    """Computes the probabilities of the next cell, float64 [104, 4, 104]; see `FourRoomsConfig` for the dynamics."""
    reached, stay = neighbours(), np.eye(len(CELLS))
    if dynamics == "sutton":
        goes = np.full((4, 4), FAILURE / 3) + (1 - 4 / 3 * FAILURE) * np.eye(4)
        return np.einsum("ab,sbt->sat", goes, stay[reached])
    moves = reached != np.arange(len(CELLS))[:, None]
    around = np.einsum("sa,sat->st", moves, stay[reached]) / moves.sum(1, keepdims=True)
    after = (1 - FURTHER_STEP) * stay + FURTHER_STEP * around
    return np.where(moves[..., None], after[reached], stay[:, None])


@dataclasses.dataclass(frozen=True)
class FourRoomsConfig:
    """`four-rooms`: find a goal cell that is not part of the observation, in four rooms joined by four hallways.

    The 104 cells of Sutton, Precup and Singh (1999, "Between MDPs and semi-MDPs") and of option-critic (Bacon et al.,
    2017, arXiv:1609.05140), numbered along the rows: 62 is the hallway in the east. Two dynamics are in use under this
    name, and their shortest paths differ by a factor of 1.8. The default is `code`.
    `code`: that of option-critic's published code. A move into a wall stays. Any other succeeds, and with probability
    1/3 a further step to a uniformly drawn free neighbour follows.
    `sutton`: that of Sutton et al. and of the description in that code. With probability 2/3 a move goes in its
    direction, and with 1/9 in each of the others; a move into a wall stays.
    Tasks: the goal is uniform over `goals`, by default over all cells but a fixed start. Training and held-out tasks
    are the same.
    Reward: by default 1 at every step that ends on the goal, which is a success, else 0.
    Horizon: 50 steps by default; by default never ends early, not even at the goal. Every episode starts at a cell
    drawn uniformly from all but the goal, unless `start` fixes it. Action: up, down, left, right. Observation: the
    cell, one-hot [104].
    """

    dynamics: Dynamics = "code"
    """The transition probabilities, see above."""
    horizon: int = 50
    """Steps per episode."""
    goal_ends: bool = False
    """Whether an episode ends at the goal. If not, the optimal agent stays near it."""
    reward: Literal["goal", "step"] = "goal"
    """With `goal`, 1 at every step that ends on the goal, else 0; with `step`, -1 at every other step, else 0."""
    goals: tuple[int, ...] = ()
    """Cells that the goal is drawn from; empty for all cells but a fixed start."""
    start: int | None = None
    """Cell that every episode starts at; None draws it."""
    num_episodes: int = 2
    """Episodes per trial of recurrent agents."""

    def __post_init__(self):
        checks.task_sizes(self, horizon=checks.AN_EPISODE, num_episodes=checks.A_TRIAL)
        for name, known in (("dynamics", ("code", "sutton")), ("reward", ("goal", "step"))):
            if getattr(self, name) not in known:
                raise ValueError(f"tasks.{name} is {getattr(self, name)!r}; it must be one of {', '.join(known)}")
        last = len(CELLS) - 1
        for name, cells in (("goals", self.goals), ("start", () if self.start is None else (self.start,))):
            if any(not 0 <= cell <= last for cell in cells):
                raise ValueError(f"tasks.{name} is {getattr(self, name)}; cells are numbered from 0 to {last}")
        if len(set(self.goals)) < len(self.goals):
            raise ValueError(f"tasks.goals is {self.goals}; every cell may occur once")


class FourRoomsTask(struct.PyTreeNode):
    """The goal."""

    goal: Array
    """Number of a cell, int32 scalar."""


class FourRoomsState(struct.PyTreeNode):
    """The agent's position."""

    cell: Array
    """Number of a cell, int32 scalar."""


@dataclasses.dataclass(frozen=True)
class FourRooms:
    """The rooms; the goal is the task. See `FourRoomsConfig` for dynamics, rewards and starts."""

    dynamics: Dynamics = "code"
    horizon: int = 50
    goal_ends: bool = False
    reward: Literal["goal", "step"] = "goal"
    start: int | None = None

    @property
    def spec(self) -> Spec:
        size = len(CELLS)
        return Spec((size,), Discrete(len(MOVES)), self.horizon, terminates=self.goal_ends, success=True)

    def reset(self, key: Key, task: FourRoomsTask) -> tuple[FourRoomsState, Array]:
        if self.start is None:
            drawn = jax.random.randint(key, (), 0, len(CELLS) - 1)
            cell = jnp.where(drawn < task.goal, drawn, drawn + 1)
        else:
            cell = jnp.full((), self.start, jnp.int32)
        return FourRoomsState(cell), self._observe(cell)

    def step(self, key: Key, state: FourRoomsState, action: Array, task: FourRoomsTask) -> tuple[FourRoomsState, Step]:
        advance = _advance_code if self.dynamics == "code" else _advance_sutton
        cell = advance(key, state.cell, action)
        arrived = cell == task.goal
        paid = (1.0, 0.0) if self.reward == "goal" else (0.0, -1.0)
        reward = jnp.where(arrived, *paid).astype(jnp.float32)
        ends = arrived & self.goal_ends
        return FourRoomsState(cell), Step(self._observe(cell), reward, terminated=ends, success=arrived)

    def _observe(self, cell: Array) -> Array:
        return jax.nn.one_hot(cell, len(CELLS))


def _advance_code(key: Key, cell: Array, action: Array) -> Array:
    """Moves, and then with probability 1/3 goes on to a free neighbour, drawn uniformly."""
    reached = jnp.asarray(neighbours())
    further_key, direction_key = jax.random.split(key)
    moved = reached[cell, action]
    around = reached[moved]
    further = jax.random.categorical(direction_key, jnp.where(around == moved, -jnp.inf, 0.0))
    goes_on = (moved != cell) & jax.random.bernoulli(further_key, FURTHER_STEP)
    return jnp.where(goes_on, around[further], moved)


def _advance_sutton(key: Key, cell: Array, action: Array) -> Array:
    """Moves in the direction of the action, or with probability 1/3 in one of the others, drawn uniformly."""
    failure_key, direction_key = jax.random.split(key)
    other = (action + jax.random.randint(direction_key, (), 1, 4)) % 4
    fails = jax.random.bernoulli(failure_key, FAILURE)
    return jnp.asarray(neighbours())[cell, jnp.where(fails, other, action)]


def four_rooms(config: FourRoomsConfig = FourRoomsConfig()) -> TaskFamily:
    """Builds the family of goals in four rooms."""
    env = FourRooms(config.dynamics, config.horizon, config.goal_ends, config.reward, config.start)
    cells = config.goals or tuple(cell for cell in range(len(CELLS)) if cell != config.start)
    with jax.ensure_compile_time_eval():
        tasks = FourRoomsTask(goal=jnp.array(cells, jnp.int32))
    sample = among(tasks)
    return TaskFamily(
        env,
        sample,
        sample,
        encode=lambda task: jax.nn.one_hot(task.goal, len(CELLS)),
        episodes=config.num_episodes,
        train_tasks=tasks,
        cells=Cells(len(CELLS), lambda obs: jnp.argmax(obs).astype(jnp.int32)),
    )
