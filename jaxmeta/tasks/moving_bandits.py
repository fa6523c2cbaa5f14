"""Moving bandits of meta-learned shared hierarchies (Frans et al., 2018, arXiv:1710.09767)."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from flax import struct

from jaxmeta.config import checks
from jaxmeta.tasks.base import TaskFamily, among
from jaxmeta.types import Array, Discrete, Key, Spec, Step

EXTENT = 400.0
"""Side of the square that goals are drawn from; observations are in units of it."""
START = 200.0
"""Both coordinates of the start, the centre of the square."""
MOVE = 20.0
"""Length of a move."""
RADIUS = 50.0
"""A step pays if it ends closer to the goal than this."""
MOVES = ((0, 0), (1, 0), (-1, 0), (0, 1), (0, -1))
"""Direction (x, y) of each action: stay, right, left, up, down."""


@dataclasses.dataclass(frozen=True)
class MovingBanditsConfig:
    """`moving-bandits`: go to the one of two visible goals that pays.

    The constants are those of OpenAI's code of MLSH (Frans et al., 2018, arXiv:1710.09767), MovementBandits-v0.
    Tasks: the first or the second goal pays, each with probability 1/2. Training and held-out tasks are the same.
    Reward: 1 at every step that ends closer than 50 to the goal that pays, which is a success, else 0.
    Horizon: 50 steps by default; never ends early. Every episode starts at (200, 200), and both goals are sampled
    uniformly in [0, 400]² at every reset. Action: stay, or move by 20 to the right, left, up or down; nothing
    bounds the position.
    Observation: the position and the two goals, divided by 400, as floats [6]; not which goal pays.
    """

    horizon: int = 50
    """Steps per episode."""
    num_episodes: int = 2
    """Episodes per trial of recurrent agents."""

    def __post_init__(self):
        checks.task_sizes(self, horizon=checks.AN_EPISODE, num_episodes=checks.A_TRIAL)


class MovingBanditsTask(struct.PyTreeNode):
    """Which goal pays."""

    index: Array
    """0 or 1, int32 scalar."""


class MovingBanditsState(struct.PyTreeNode):
    """The position and the goals of an episode."""

    position: Array
    """[2]."""
    goals: Array
    """[2, 2], one goal per row."""


@dataclasses.dataclass(frozen=True)
class MovingBandits:
    """A point and two goals, one of which pays; see `MovingBanditsConfig`."""

    horizon: int = 50

    @property
    def spec(self) -> Spec:
        return Spec(observation=(6,), action=Discrete(len(MOVES)), horizon=self.horizon, success=True)

    def reset(self, key: Key, task: MovingBanditsTask) -> tuple[MovingBanditsState, Array]:
        state = MovingBanditsState(jnp.full(2, START), jax.random.uniform(key, (2, 2), maxval=EXTENT))
        return state, self._observe(state)

    def step(
        self, key: Key, state: MovingBanditsState, action: Array, task: MovingBanditsTask
    ) -> tuple[MovingBanditsState, Step]:
        state = state.replace(position=state.position + MOVE * jnp.array(MOVES, jnp.float32)[action])
        pays = jnp.sum(jnp.square(state.position - state.goals[task.index])) < RADIUS**2
        never = jnp.array(False)
        step = Step(obs=self._observe(state), reward=pays.astype(jnp.float32), terminated=never, success=pays)
        return state, step

    def _observe(self, state: MovingBanditsState) -> Array:
        return jnp.concatenate([state.position, state.goals.reshape(-1)]) / EXTENT


def moving_bandits(config: MovingBanditsConfig = MovingBanditsConfig()) -> TaskFamily:
    """Builds the family of two goals of which one pays."""
    with jax.ensure_compile_time_eval():
        tasks = MovingBanditsTask(index=jnp.arange(2, dtype=jnp.int32))
    sample = among(tasks)
    return TaskFamily(
        MovingBandits(config.horizon),
        sample,
        sample,
        encode=lambda task: jax.nn.one_hot(task.index, 2),
        episodes=config.num_episodes,
        train_tasks=tasks,
    )
