"""A hidden goal on a small grid, as in VariBAD's GridNavi (Zintgraf et al., 2020, arXiv:1910.08348): exact returns.

Every episode starts at the same cell. An action moves to a neighbouring cell or stays. Steps that end on the goal have
the reward `goal_reward`, others `step_reward`; episodes never end early. The goal is uniform over some cells, the same
for all episodes of a trial, and not observed.

Two facts reduce the Bayes-optimal policy to the planning of one path:

* Observations are deterministic: visiting a cell reveals whether the goal is there, and nothing else is informative. So
  until the goal is found everything is deterministic, and a policy is one sequence of cells for the whole trial.
* Once the goal g is found at step t of an episode (counted from 1), it is optimal to stay, for H + 1 - t steps at the
  goal, and to go straight there in each later episode, for H + 1 - d(g) steps, where d is the distance from the start,
  like an agent that knows the goal.

So the expected return is an affine function of the score of the path: the sum, over the goal cells that it visits, of
(H + 1 - t) + (episodes left after this one) x (H + 1 - d(g)), where t and the episode are those of the first visit.
If the start is the goal, d counts as 1: the first step at it is to stay.

The path with the highest score is found by forward dynamic programming over states (episode, step, position, set of
visited cells), which keeps only the best path to each state. States whose upper bound is below a threshold are pruned.
The threshold starts at the bound of the whole trial; while no path survives, it is lowered to the highest pruned bound.
So a surviving path is optimal.
The upper bound of an unvisited cell: in this episode it is reached after as many steps as it is away, and no two cells
in the same step; in a later one, after d(g) steps at the earliest, which adds at most (episodes left after this one) x
(H + 1 - d(g)).
"""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from jaxmeta.core.learner import Learner
from jaxmeta.nets.heads import mostly
from jaxmeta.references.base import best, check_epsilon, check_sizes, reference
from jaxmeta.types import Array, Input, Key

__all__ = [
    "Grid",
    "bayes_optimal",
    "bayes_optimal_path",
    "bayes_optimal_returns",
    "follow",
    "oracle",
    "oracle_return",
    "path_returns",
    "wanderer",
]

Cell = tuple[int, int]
MAX_GOALS = 56
MOVES = ((0, 0), (0, 1), (1, 0), (0, -1), (-1, 0))


@dataclasses.dataclass(frozen=True)
class Grid:
    """A square grid with a hidden goal; the defaults are those of VariBAD."""

    size: int = 5
    """Cells per side."""
    start: Cell = (0, 0)
    no_goal: tuple[Cell, ...] = ((0, 0), (0, 1), (1, 0), (1, 1))
    """Cells without a goal."""
    goal_at_start: bool = False
    """Whether the start can be the goal, unless it is in `no_goal`; it is found by staying there."""
    horizon: int = 15
    """Steps per episode."""
    goal_reward: float = 1.0
    step_reward: float = -0.1
    """Reward of steps that do not end on the goal."""

    def __post_init__(self):
        check_sizes(size=self.size, horizon=self.horizon)
        if self.goal_reward <= self.step_reward:
            raise ValueError(
                f"grid.goal_reward is {self.goal_reward}; it must be above step_reward, which is {self.step_reward}"
            )
        if not self.goals:
            raise ValueError("the grid has 0 goal cells; it must have at least 1")

    @property
    def cells(self) -> tuple[Cell, ...]:
        """All cells, row by row."""
        return tuple((row, column) for row in range(self.size) for column in range(self.size))

    @property
    def goals(self) -> tuple[Cell, ...]:
        """Cells where the goal can be."""
        excluded = self.no_goal if self.goal_at_start else (*self.no_goal, self.start)
        return tuple(cell for cell in self.cells if cell not in excluded)

    def steps_at_goal(self, goal: Cell) -> int:
        """Steps at the goal in an episode of an agent that knows it: H + 1 - d, or H if it is the start."""
        return max(0, self.horizon + 1 - max(1, _distance(self.start, goal)))


def bayes_optimal(grid: Grid = Grid(), episodes: int = 4) -> Learner:
    """Builds the Bayes-optimal agent: it follows a fixed path until it finds the goal, and then goes straight there.

    For `grid-navigation`, with the start at (0, 0).
    """
    return follow(grid, bayes_optimal_path(grid, episodes))


def follow(grid: Grid, path: np.ndarray) -> Learner:
    """Builds an agent that follows a path until it finds the goal, and from then on goes straight there.

    Args:
      path: cells after each step, [episodes, horizon, 2].
    """
    targets = jnp.array(path.reshape(-1, 2))
    threshold = 0.5 * (grid.goal_reward + grid.step_reward)

    def act(params, carry: tuple[Array, Array, Array], inputs: Input):
        step, found, goal = carry
        arrived = (inputs.prev_reward > threshold) & (inputs.first == 0)
        goal = jnp.where(arrived, inputs.prev_next_obs, goal)
        found |= arrived
        target = jnp.where(found, goal, targets[jnp.minimum(step, len(targets) - 1)])
        return (step + 1, found, goal), _towards(grid, inputs.obs, target)

    return reference(len(MOVES), lambda key: (jnp.zeros((), jnp.int32), jnp.array(False), jnp.zeros(2)), act)


def oracle(grid: Grid = Grid()) -> Learner:
    """Builds the optimal agent that knows the goal, for `jm.tasks.reveal(family)`."""

    def act(params, carry: tuple[()], inputs: Input):
        return carry, _towards(grid, inputs.obs[:2], inputs.obs[2:])

    return reference(len(MOVES), lambda key: (), act)


def wanderer(size: int, epsilon: float = 0.1) -> Learner:
    """Builds an agent that goes to one random cell after the other, whatever the rewards.

    In each stream it moves on from a cell that it has reached with a probability, at every step, that is drawn for the
    stream: log-uniform from 0.01 to 1. So some contexts visit many cells, and others mostly stay at one. A step is
    random with probability `epsilon`. It keeps its target at the start of the next episode.
    """
    check_sizes(size=size)
    check_epsilon(epsilon)
    room = Grid(size=size, no_goal=(), goal_at_start=True)

    def reset(key):
        rate_key, target_key, key = jax.random.split(key, 3)
        leaves = 10.0 ** jax.random.uniform(rate_key, minval=-2.0, maxval=0.0)
        return _Wandering(leaves, jax.random.randint(target_key, (2,), 0, size), jnp.zeros((), jnp.int32), key)

    def act(params, carry: _Wandering, inputs: Input):
        leave_key, target_key = jax.random.split(jax.random.fold_in(carry.key, carry.step))
        arrived = jnp.all(inputs.obs == carry.target)
        leaves = arrived & (jax.random.uniform(leave_key) < carry.leaves)
        target = jnp.where(leaves, jax.random.randint(target_key, (2,), 0, size), carry.target)
        logits = mostly(_towards(room, inputs.obs, target), epsilon)
        return carry.replace(target=target, step=carry.step + 1), logits

    return reference(len(MOVES), reset, act)


class _Wandering(struct.PyTreeNode):
    """The carry of a wanderer."""

    leaves: Array
    """Probability of moving on from a cell that is reached, per step."""
    target: Array
    """Cell, int32 [2]."""
    step: Array
    """Number of steps in the stream, int32."""
    key: Key


def _towards(grid: Grid, position: Array, target: Array) -> Array:
    """Returns logits [5], uniform over the actions that end nearest to the target."""
    after = jnp.clip(position + jnp.array(MOVES), 0, grid.size - 1)
    return best(-jnp.abs(after - target).sum(-1))


def oracle_return(grid: Grid = Grid()) -> float:
    """Computes the expected return of an episode of an agent that knows the goal."""
    return float(_to_return(grid, np.mean([grid.steps_at_goal(goal) for goal in grid.goals])))


def bayes_optimal_returns(grid: Grid = Grid(), episodes: int = 4) -> np.ndarray:
    """Computes the expected return of each episode under a Bayes-optimal policy, [episodes].

    If several policies have the highest expected total, their returns per episode may differ; this is one of them.
    """
    return path_returns(grid, bayes_optimal_path(grid, episodes))


def path_returns(grid: Grid, path: np.ndarray) -> np.ndarray:
    """Computes the expected returns of following a path until the goal is found, and of exploiting it from then on.

    Args:
      path: cells after each step, [episodes, horizon, 2].

    Returns:
      Expected return of each episode over all goals, [episodes].
    """
    on_goal = np.zeros((len(grid.goals), len(path)))
    for index, goal in enumerate(grid.goals):
        found = False
        for episode, cells in enumerate(path):
            visits = np.flatnonzero((cells == goal).all(-1))
            if found:
                on_goal[index, episode] = grid.steps_at_goal(goal)
            elif len(visits):
                found = True
                on_goal[index, episode] = grid.horizon - visits[0]
    return _to_return(grid, on_goal.mean(0))


@functools.lru_cache(maxsize=8)
def bayes_optimal_path(grid: Grid = Grid(), episodes: int = 4) -> np.ndarray:
    """Finds the path of a Bayes-optimal agent until it finds the goal.

    Takes milliseconds for the default grid. If the bound is loose, time and memory grow steeply with the number of goal
    cells: two episodes on 6 x 6 cells take over 20 seconds.

    Returns:
      Cells after each step, [episodes, horizon, 2].

    Raises:
      ValueError: if there are more than `MAX_GOALS` goal cells, or no episodes.
    """
    check_sizes(episodes=episodes)
    if len(grid.goals) > MAX_GOALS:
        raise ValueError(f"the grid has {len(grid.goals)} goal cells; it must have 1 to {MAX_GOALS} to be solved")
    tables = _Tables.build(grid, episodes)
    threshold = int(_bound(tables, _first_states(grid), episode=0, time=0)[0])
    while True:
        states, dropped = _search(tables, threshold)
        if len(states.score):
            path = states.path[np.argmax(states.score)]
            return np.array(grid.cells)[path].reshape(episodes, grid.horizon, 2)
        threshold = dropped


@dataclasses.dataclass(frozen=True)
class _States:
    """The M states that the search has reached at one step."""

    visited: np.ndarray
    """Goal cells visited so far, as a bit mask, [M]."""
    position: np.ndarray
    """Index of a cell, [M]."""
    score: np.ndarray
    """The highest score of a path to this state, [M]."""
    path: np.ndarray
    """Such a path: indices of cells, [M, steps]."""

    def take(self, index: np.ndarray) -> _States:
        return _States(*(getattr(self, field.name)[index] for field in dataclasses.fields(self)))


@dataclasses.dataclass(frozen=True)
class _Tables:
    """The grid as arrays: C cells, G of them goals."""

    horizon: int
    episodes: int
    start: int
    neighbours: np.ndarray
    """Next cell by cell and action, [C, 5]."""
    goal_of: np.ndarray
    """Index of the goal in each cell, -1 for none, [C]."""
    distance: np.ndarray
    """Steps from each cell to each goal, [C, G]."""
    straight: np.ndarray
    """Steps at the goal in an episode of an agent that knows it, [G]."""

    @staticmethod
    def build(grid: Grid, episodes: int) -> _Tables:
        cells, goals = grid.cells, grid.goals
        last = grid.size - 1
        step = lambda cell, move: tuple(min(max(c + m, 0), last) for c, m in zip(cell, move, strict=True))  # noqa: E731
        start = cells.index(grid.start)
        distance = np.array([[_distance(cell, goal) for goal in goals] for cell in cells])
        return _Tables(
            horizon=grid.horizon,
            episodes=episodes,
            start=start,
            neighbours=np.array([[cells.index(step(cell, move)) for move in MOVES] for cell in cells]),
            goal_of=np.array([goals.index(cell) if cell in goals else -1 for cell in cells]),
            distance=distance,
            straight=np.array([grid.steps_at_goal(goal) for goal in goals]),
        )


def _search(tables: _Tables, threshold: int) -> tuple[_States, int]:
    """Expands all paths whose bound reaches a threshold; also returns the highest pruned bound."""
    states, dropped = _first_states_at(tables.start), -1
    for episode in range(tables.episodes):
        states = dataclasses.replace(states, position=np.full_like(states.position, tables.start))
        for time in range(1, tables.horizon + 1):
            states = _best_of_equals(_successors(tables, states, episode, time))
            bound = _bound(tables, states, episode, time)
            keep = bound >= threshold
            dropped = max(dropped, int(bound[~keep].max(initial=-1)))
            states = states.take(np.flatnonzero(keep))
    return states, dropped


def _successors(tables: _Tables, states: _States, episode: int, time: int) -> _States:
    """Takes every action in every state."""
    source = np.repeat(np.arange(len(states.score)), len(MOVES))
    position = tables.neighbours[states.position].ravel()
    goal = tables.goal_of[position]
    bit = np.where(goal >= 0, np.int64(1) << np.maximum(goal, 0), 0)
    visited = states.visited[source]
    worth = tables.horizon + 1 - time + (tables.episodes - 1 - episode) * tables.straight[goal]
    return _States(
        visited=visited | bit,
        position=position,
        score=states.score[source] + np.where(bit & ~visited, worth, 0),
        path=np.concatenate([states.path[source], position[:, None].astype(np.uint8)], 1),
    )


def _best_of_equals(states: _States) -> _States:
    """Keeps the state with the highest score among those with the same position and visited cells."""
    order = np.lexsort((-states.score, states.position, states.visited))
    visited, position = states.visited[order], states.position[order]
    new = np.ones(len(order), bool)
    new[1:] = (visited[1:] != visited[:-1]) | (position[1:] != position[:-1])
    return states.take(order[new])


def _bound(tables: _Tables, states: _States, episode: int, time: int) -> np.ndarray:
    """Computes an upper bound of the score of the whole path, for each state after `time` steps of an episode, [M]."""
    remaining = (states.visited[:, None] >> np.arange(len(tables.straight))) & 1 == 0
    distance = np.where(remaining, np.maximum(tables.distance[states.position], 1), 0)
    soon, in_reach = np.zeros_like(states.score), np.zeros_like(states.score)
    for step in range(1, tables.horizon + 1 - time):
        in_reach += (distance == step).sum(1)
        soon += (in_reach > 0) * (tables.horizon + 1 - time - step)
        in_reach -= in_reach > 0
    later = (tables.episodes - 1 - episode) * (remaining @ tables.straight)
    return states.score + soon + later


def _first_states(grid: Grid) -> _States:
    return _first_states_at(grid.cells.index(grid.start))


def _first_states_at(start: int) -> _States:
    zero = np.zeros(1, np.int64)
    return _States(visited=zero, position=zero + start, score=zero, path=np.zeros((1, 0), np.uint8))


def _to_return(grid: Grid, on_goal):
    """Converts the expected number of steps at the goal to the expected return of an episode."""
    return grid.step_reward * grid.horizon + (grid.goal_reward - grid.step_reward) * on_goal


def _distance(cell: Cell, other: Cell) -> int:
    return abs(cell[0] - other[0]) + abs(cell[1] - other[1])
