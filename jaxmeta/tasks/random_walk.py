"""A random walk on a chain that an agent can steer, after Sutton and Barto (2018, Example 6.2)."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from flax import struct

from jaxmeta.config import checks
from jaxmeta.tasks.base import TaskFamily
from jaxmeta.types import Array, Discrete, Key, Spec, Step


@dataclasses.dataclass(frozen=True)
class RandomWalkConfig:
    """`random-walk`: find out which end of a chain pays, with steps that sometimes go the wrong way.

    The chain, its start and its end of the random walk of Sutton and Barto (2018, Example 6.2): 5 states between two
    ends, a start in the middle, and a reward of 1 at one end. As a task family it is jaxmeta's own: there is an action,
    and the end that pays and the probability of a wrong step are the task.
    Tasks: the end that pays is left or right, each with probability 1/2; the probability of a wrong step, which goes
    opposite to the action, is uniform in the range `slip`.
    Reward: 1 at the step that reaches the end that pays, which is a success; else 0.
    Horizon: 20 steps by default; ends at both ends. Every episode starts in the middle. Action: left, right.
    Observation: the place, one-hot [num_states + 2], ends included. Training and held-out tasks have the same
    distribution.
    """

    num_states: int = 5
    """Number of states between the ends, odd."""
    slip: tuple[float, float] = (0.0, 0.3)
    """Range of the probability that a step goes the wrong way."""
    horizon: int = 20
    """Steps in an episode."""
    num_episodes: int = 5
    """Episodes per trial of recurrent agents."""

    def __post_init__(self):
        checks.task_sizes(
            self, num_states="a chain needs at least 1 state", horizon=checks.AN_EPISODE, num_episodes=checks.A_TRIAL
        )
        if self.num_states % 2 == 0:
            raise ValueError(f"tasks.num_states is {self.num_states}; it must be odd, as episodes start in the middle")
        if not 0.0 <= self.slip[0] <= self.slip[1] <= 1.0:
            raise ValueError(f"tasks.slip is {self.slip}; a range is LOW HIGH, with 0 <= LOW <= HIGH <= 1")


class RandomWalkTask(struct.PyTreeNode):
    """The end that pays, and the probability of a wrong step."""

    right: Array
    """Whether the right end pays, bool scalar."""
    slip: Array
    """Probability that a step goes opposite to the action, scalar."""


class RandomWalkState(struct.PyTreeNode):
    """The place on the chain."""

    place: Array
    """0 is the left end, num_states + 1 the right one; int32 scalar."""


@dataclasses.dataclass(frozen=True)
class RandomWalk:
    """A chain with an end on either side."""

    num_states: int = 5
    horizon: int = 20

    @property
    def spec(self) -> Spec:
        return Spec((self.num_states + 2,), Discrete(2), self.horizon, terminates=True, success=True)

    def reset(self, key: Key, task: RandomWalkTask) -> tuple[RandomWalkState, Array]:
        place = jnp.array((self.num_states + 1) // 2, jnp.int32)
        return RandomWalkState(place), self._observe(place)

    def step(self, key: Key, state: RandomWalkState, action: Array, task: RandomWalkTask):
        """Moves by one place; `action` is 0 for left and 1 for right."""
        right = (action == 1) ^ jax.random.bernoulli(key, task.slip)
        last = self.num_states + 1
        place = jnp.clip(state.place + jnp.where(right, 1, -1), 0, last)
        paid = place == jnp.where(task.right, last, 0)
        ended = (place == 0) | (place == last)
        step = Step(obs=self._observe(place), reward=paid.astype(jnp.float32), terminated=ended, success=paid)
        return RandomWalkState(place), step

    def _observe(self, place: Array) -> Array:
        return jax.nn.one_hot(place, self.num_states + 2)


def random_walk(config: RandomWalkConfig = RandomWalkConfig()) -> TaskFamily:
    """Builds the family of chains. A task is encoded as -1 or 1 for the end that pays, and the slip, [2]."""

    def sample(key: Key) -> RandomWalkTask:
        side_key, slip_key = jax.random.split(key)
        low, high = config.slip
        return RandomWalkTask(jax.random.bernoulli(side_key), jax.random.uniform(slip_key, minval=low, maxval=high))

    def encode(task: RandomWalkTask) -> Array:
        return jnp.stack([jnp.where(task.right, 1.0, -1.0), task.slip])

    return TaskFamily(
        RandomWalk(config.num_states, config.horizon), sample, sample, encode, episodes=config.num_episodes
    )
