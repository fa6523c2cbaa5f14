"""Visual navigation in mazes, as in RL² (Duan et al., 2016, arXiv:1611.02779), on a grid of rooms."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from jaxmeta.config import checks
from jaxmeta.tasks.base import TaskFamily, flatten_task
from jaxmeta.types import Array, Discrete, Key, Spec, Step

HEADINGS = ((-1, 0), (0, 1), (1, 0), (0, -1))
"""Displacement (row, column) in rooms of a step ahead by heading: up, right, down, left."""
FORWARD, TURN_LEFT, TURN_RIGHT = range(3)
"""The actions."""
# a quarter turn clockwise increments the heading
TURNS = (0, 3, 1)
WIDTH = 5
"""Cells across the view: the agent's column, and on either side a wall or passage and a room."""


@dataclasses.dataclass(frozen=True)
class MazeConfig:
    """`maze`: find a goal in a maze from a first-person view, and find it again in later episodes.

    Tasks: rooms on a square, joined to a perfect maze by randomised depth-first search from a uniform room; the start
    room, the start heading and the goal, another room, are uniform. They are fixed for all episodes of a trial.
    Training samples uniformly from fixed mazes with their goals, 1,000 by default, with different passages, and then
    the start; held-out mazes are new, with passages different from all training mazes.
    Reward: -0.04 per step, plus 1 for reaching the goal, minus 0.001 for bumping into a wall, as in RL²
    (Duan et al., 2016, arXiv:1611.02779) and SNAIL (Mishra et al., 2018, arXiv:1707.03141).
    Horizon: 100 steps by default, for 5 x 5 rooms; ends early at the goal. Action: forward, turn left, turn right.
    Observation: an egocentric view, floats [2 * view + 1, 5, 2]; the agent is in the middle of the last row and faces
    up. Rows and columns alternate between rooms and the walls or passages between them, so that the next room is two
    rows ahead. The channels are: visible and open; visible goal. The agent sees along its column up to the first wall,
    and from each visible room to both sides up to the first wall; all else is 0. The shape does not depend on the size
    of the maze.
    """

    size: int = 5
    """Rooms per side."""
    view: int = 2
    """Rooms that are visible ahead of the agent's."""
    openings: float = 0.0
    """Probability that a remaining wall between two rooms is opened; above 0 mazes have loops."""
    num_train: int = 1000
    """Number of fixed training mazes; 0 samples new mazes, without holding any out."""
    train_seed: int = 0
    """Seed of the training mazes."""
    horizon: int = 100
    """Steps per episode; larger mazes need more."""
    num_episodes: int = 2
    """Episodes per trial of recurrent agents."""

    def __post_init__(self):
        checks.task_sizes(
            self,
            view="at least 1 room ahead must be visible",
            horizon=checks.AN_EPISODE,
            num_episodes=checks.A_TRIAL,
        )
        if self.size < 2:
            raise ValueError(f"tasks.size is {self.size}; a side needs at least 2 rooms, for a start and a goal")
        if not 0 <= self.openings <= 1:
            raise ValueError(f"tasks.openings is {self.openings}; it must lie in [0, 1], as it is a probability")
        if self.num_train < 0:
            raise ValueError(f"tasks.num_train is {self.num_train}; it must be at least 1, or 0 for new mazes only")


class MazeTask(struct.PyTreeNode):
    """One maze. The index of a room is row * size + column; rows count from the top, columns from the left."""

    passages: Array
    """Whether there is a passage from a room (row, column) in the direction of a heading, bool [size, size, 4].

    Each passage has two entries, one per room; none leads out of the maze.
    """
    start: Array
    """Room where every episode starts, int32 scalar."""
    heading: Array
    """Heading at the start, int32 scalar."""
    goal: Array
    """Room of the goal, different from the start, int32 scalar."""


class MazeState(struct.PyTreeNode):
    """The agent's room and heading."""

    room: Array
    """Index of the room, int32 scalar."""
    heading: Array
    """Index into `HEADINGS`, int32 scalar."""


@dataclasses.dataclass(frozen=True)
class Maze:
    """A square of rooms; a step moves one room ahead or makes a quarter turn.

    Reaching the goal is a success and ends the episode.
    """

    size: int = 5
    view: int = 2
    horizon: int = 100

    @property
    def spec(self) -> Spec:
        shape = (2 * self.view + 1, WIDTH, 2)
        return Spec(shape, Discrete(len(TURNS)), self.horizon, terminates=True, success=True)

    def reset(self, key: Key, task: MazeTask) -> tuple[MazeState, Array]:
        state = MazeState(room=task.start, heading=task.heading)
        return state, self._observe(state, task)

    def step(self, key: Key, state: MazeState, action: Array, task: MazeTask) -> tuple[MazeState, Step]:
        open_ahead = task.passages.reshape(-1)[state.room * 4 + state.heading]
        forward = action == FORWARD
        room = state.room + jnp.where(forward & open_ahead, self._displacement(state.heading), 0)
        state = MazeState(room=room, heading=(state.heading + jnp.array(TURNS)[action]) % 4)
        at_goal = room == task.goal
        reward = -0.04 - 0.001 * (forward & ~open_ahead) + at_goal
        obs, reward = self._observe(state, task), reward.astype(jnp.float32)
        return state, Step(obs=obs, reward=reward, terminated=at_goal, success=at_goal)

    def _displacement(self, heading: Array) -> Array:
        """Returns the change of the room index by a step ahead."""
        return jnp.array([row * self.size + column for row, column in HEADINGS])[heading]

    def _observe(self, state: MazeState, task: MazeTask) -> Array:
        """Returns the view ahead, and from every visible room to both sides; [2 * view + 1, 5, 2]."""
        ahead, left, right = (self._displacement((state.heading + turn) % 4) for turn in TURNS)
        rooms = state.room + jnp.arange(self.view + 1) * ahead
        # no room beyond the border is ever in sight, so it does not matter what is read there
        leave = rooms[:, None] * 4 + (state.heading + jnp.array(TURNS)) % 4
        open_ahead, open_left, open_right = task.passages.reshape(-1).at[leave].get(mode="clip").T
        seen = jnp.cumprod(jnp.concatenate([jnp.ones(1, bool), open_ahead[:-1]])) > 0
        seen_left, seen_right, wall = seen & open_left, seen & open_right, jnp.zeros_like(seen)

        # the last row of passages leads out of the view
        beyond = jnp.concatenate([seen[1:], wall[:1]])
        goal, goal_left, goal_right = rooms == task.goal, rooms + left == task.goal, rooms + right == task.goal
        room_rows = jnp.stack([seen_left, seen_left, seen, seen_right, seen_right], -1)
        passage_rows = jnp.stack([wall, wall, beyond, wall, wall], -1)
        goal_rows = jnp.stack([seen_left & goal_left, wall, seen & goal, wall, seen_right & goal_right], -1)
        channels = [_interleave(room_rows, passage_rows), _interleave(goal_rows, jnp.zeros_like(goal_rows))]
        return jnp.stack(channels, -1)[::-1].astype(jnp.float32)


def _interleave(room_rows: Array, passage_rows: Array) -> Array:
    """Interleaves rows of rooms and of passages, both [R, W], without the last row of passages: [2 * R - 1, W]."""
    return jnp.stack([room_rows, passage_rows], 1).reshape(-1, room_rows.shape[-1])[:-1]


def draw_passages(key: Key, size: int, openings: float = 0.0) -> Array:
    """Generates a maze by randomised depth-first search.

    The search moves to a uniformly random unvisited neighbour, and backtracks if there is none.

    Args:
      size: rooms per side.
      openings: probability that a remaining wall is opened.

    Returns:
      `MazeTask.passages`, bool [size, size, 4].
    """
    root_key, search_key, openings_key = jax.random.split(key, 3)
    num_rooms = size * size
    beside = jnp.array(neighbours(size))
    root = jax.random.randint(root_key, (), 0, num_rooms)
    # the parent of each room in the search tree, to backtrack; -1 for unvisited rooms
    origin = jnp.full(num_rooms + 1, -1).at[jnp.array([root, num_rooms])].set(jnp.array([root, num_rooms]))

    def move(state, chance):
        origin, room = state
        chance = jnp.where(origin[beside[room]] < 0, chance, -1.0)
        found = chance.max() >= 0
        target = beside[room, chance.argmax()]
        entered = (jnp.arange(num_rooms + 1) == target) & found
        return (jnp.where(entered, room, origin), jnp.where(found, target, origin[room])), None

    # every room but the root is entered once and backtracked from once
    chance = jax.random.uniform(search_key, (2 * (num_rooms - 1), 4))
    (origin, _), _ = jax.lax.scan(move, (origin, root), chance)
    rooms = jnp.arange(num_rooms)[:, None]
    passages = (origin[beside] == rooms) | (origin[rooms] == beside)
    if openings:
        right, down = jax.random.bernoulli(openings_key, openings, (2, num_rooms))
        up, left = jnp.append(down, False)[beside[:, 0]], jnp.append(right, False)[beside[:, 3]]
        passages |= jnp.stack([up, right, down, left], -1) & (beside < num_rooms)
    return passages.reshape(size, size, 4)


def neighbours(size: int) -> np.ndarray:
    """Returns the index of the neighbour of each room in each heading.

    Returns:
      Int32 [size², 4]; size² for neighbours outside the maze.
    """
    rows_and_columns = np.stack(np.divmod(np.arange(size * size), size))[:, :, None]
    row, column = rows_and_columns + np.array(HEADINGS).T[:, None]
    inside = (row >= 0) & (row < size) & (column >= 0) & (column < size)
    return np.where(inside, row * size + column, size * size).astype(np.int32)


def maze(config: MazeConfig = MazeConfig()) -> TaskFamily:
    """Builds the family of mazes, and generates the training mazes.

    Raises:
      ValueError: if `config` asks for more different mazes than there are of its size.
    """
    env = Maze(config.size, config.view, config.horizon)
    num_rooms = config.size**2

    def choose(key, number):
        """Samples an index below `number`, a heading, and the offset between two different rooms."""
        # in one call, as every call of the random number generator takes long to compile
        return jax.random.randint(key, (3,), jnp.array([0, 0, 1]), jnp.array([number, len(HEADINGS), num_rooms]))

    def draw(key):
        maze_key, places_key = jax.random.split(key)
        start, heading, further = choose(places_key, num_rooms)
        passages = draw_passages(maze_key, config.size, config.openings)
        return MazeTask(passages=passages, start=start, heading=heading, goal=(start + further) % num_rooms)

    if not config.num_train:
        return TaskFamily(env, draw, draw, flatten_task, episodes=config.num_episodes)
    train = _distinct(draw, config)
    known = jax.jit(jax.vmap(_packed))(train)

    def sample(key):
        index, heading, further = choose(key, config.num_train)
        task = jax.tree.map(lambda leaf: leaf[index], train)
        # with a fixed start the first view would identify a training maze, and its goal could be memorised
        return task.replace(start=(task.goal + further) % num_rooms, heading=heading)

    def sample_test(key):
        def again(state):
            key, draw_key = jax.random.split(state[0])
            return key, draw(draw_key)

        def is_known(state):
            return jnp.any(jnp.all(known == _packed(state[1])[None], axis=1))

        return jax.lax.while_loop(is_known, again, again((key, None)))[1]

    return TaskFamily(env, sample, sample_test, flatten_task, episodes=config.num_episodes)


def _packed(task: MazeTask) -> Array:
    """Packs the passages to few bytes, to compare them fast."""
    return jnp.packbits(task.passages)


def _distinct(draw: Callable[[Key], MazeTask], config: MazeConfig) -> MazeTask:
    """Generates the training mazes, stacked, with different passages."""
    # twice as many as needed, to replace duplicates and to check that mazes can be held out
    keys = jax.random.split(jax.random.key(config.train_seed), max(2 * config.num_train, 64))
    tasks, passages = jax.jit(jax.vmap(lambda key: (task := draw(key), _packed(task))))(keys)
    _, first = np.unique(np.asarray(passages), axis=0, return_index=True)
    if len(first) < 1.5 * config.num_train:
        raise ValueError(
            f"tasks.num_train is {config.num_train}; it must be lower, as only {len(first)} mazes with different"
            f" passages were found among {len(keys)} (or try more rooms than --tasks.size {config.size})"
        )
    index = np.sort(first)[: config.num_train]
    return jax.tree.map(lambda leaf: leaf[index], tasks)
