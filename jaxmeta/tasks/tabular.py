"""Random tabular MDPs, as in RL² (Duan et al., 2016, arXiv:1611.02779)."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from flax import struct

from jaxmeta.config import checks
from jaxmeta.tasks.base import TaskFamily, flatten_task
from jaxmeta.types import Array, Discrete, Key, Spec, Step


@dataclasses.dataclass(frozen=True)
class TabularConfig:
    """`tabular`: MDPs with few states, whose rewards and transitions are sampled per task.

    Tasks: mean rewards R(s, a) ~ N(1, 1), transitions P(·|s, a) ~ Dirichlet(1, ..., 1), all independent (Duan et al.,
    2016, arXiv:1611.02779).
    Reward: N(R(s, a), 1), independent at every step; s is the state that the action was taken in.
    Horizon: 10 steps by default; never ends early. Every episode starts in state 0. Observation: the state, one-hot
    [num_states].
    """

    num_states: int = 10
    """Number of states."""
    num_actions: int = 5
    """Number of actions."""
    horizon: int = 10
    """Steps in an episode."""
    num_episodes: int = 10
    """Episodes per trial of recurrent agents; published results use 10, 25, 50, 75 and 100."""

    def __post_init__(self):
        checks.task_sizes(
            self,
            num_states="an MDP needs at least 1 state",
            num_actions="an MDP needs at least 1 action",
            horizon=checks.AN_EPISODE,
            num_episodes=checks.A_TRIAL,
        )


class TabularTask(struct.PyTreeNode):
    """One MDP."""

    reward: Array
    """Mean reward of an action in a state, [num_states, num_actions]; the variance is 1."""
    transition: Array
    """Probability of the next state, [num_states, num_actions, num_states]; the last axis sums to 1."""


class TabularState(struct.PyTreeNode):
    """The state of the MDP."""

    index: Array
    """Index of the state, int32 scalar."""


@dataclasses.dataclass(frozen=True)
class Tabular:
    """An MDP whose tables are the task. Episodes start in state 0; the observation is the one-hot state."""

    num_states: int = 10
    num_actions: int = 5
    horizon: int = 10

    @property
    def spec(self) -> Spec:
        return Spec(observation=(self.num_states,), action=Discrete(self.num_actions), horizon=self.horizon)

    def reset(self, key: Key, task: TabularTask) -> tuple[TabularState, Array]:
        index = jnp.zeros((), jnp.int32)
        return TabularState(index), self._observe(index)

    def step(self, key: Key, state: TabularState, action: Array, task: TabularTask) -> tuple[TabularState, Step]:
        reward_key, state_key = jax.random.split(key)
        reward = task.reward[state.index, action] + jax.random.normal(reward_key)
        # without the last sum, which should be 1: what rounding takes from it belongs to the last state all the same
        below = jnp.cumsum(task.transition[state.index, action])[:-1]
        index = jnp.sum(jax.random.uniform(state_key) >= below, dtype=jnp.int32)
        return TabularState(index), Step(obs=self._observe(index), reward=reward, terminated=jnp.array(False))

    def _observe(self, index: Array) -> Array:
        return jax.nn.one_hot(index, self.num_states)


def tabular(config: TabularConfig = TabularConfig()) -> TaskFamily:
    """Builds the family of random MDPs of RL² (Duan et al., 2016, arXiv:1611.02779)."""
    env = Tabular(config.num_states, config.num_actions, config.horizon)

    def sample(key):
        reward_key, transition_key = jax.random.split(key)
        reward = 1.0 + jax.random.normal(reward_key, (config.num_states, config.num_actions))
        # a negated Gumbel is the log of an exponential, and normalised exponentials are Dirichlet(1, ..., 1)
        log_weight = -jax.random.gumbel(transition_key, (*reward.shape, config.num_states))
        return TabularTask(reward=reward, transition=jax.nn.softmax(log_weight))

    return TaskFamily(env, sample, sample, flatten_task, episodes=config.num_episodes)
