"""Bernoulli bandits, one pull an episode, as in RL² (Duan et al., 2016, arXiv:1611.02779)."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from flax import struct

from jaxmeta.tasks.base import TaskFamily, flatten_task
from jaxmeta.types import Array, Discrete, Key, Spec, Step


@dataclasses.dataclass(frozen=True)
class BanditConfig:
    """`bandit`: Bernoulli arms whose probabilities are uniform on [0, 1] per task."""

    num_arms: int = 10
    """Arms to choose from."""
    num_pulls: int = 10
    """Pulls in a trial of an agent that remembers; each pull is an episode of one step."""

    def __post_init__(self):
        if self.num_arms < 1:
            raise ValueError(
                f"tasks.num_arms is {self.num_arms}; a bandit needs at least 1 arm (try --tasks.num-arms 10)"
            )
        if self.num_pulls < 1:
            raise ValueError(
                f"tasks.num_pulls is {self.num_pulls}; a trial needs at least 1 pull (try --tasks.num-pulls 10)"
            )


class BanditTask(struct.PyTreeNode):
    """One machine."""

    probability: Array
    """Chance that an arm pays 1, [num_arms]."""


@dataclasses.dataclass(frozen=True)
class Bandit:
    """Arms that pay 1 or 0. There is nothing to observe: the observation is a single zero."""

    num_arms: int

    @property
    def spec(self) -> Spec:
        return Spec(observation=(1,), action=Discrete(self.num_arms), horizon=1)

    def reset(self, key: Key, task: BanditTask) -> tuple[tuple[()], Array]:
        return (), jnp.zeros(1)

    def step(self, key: Key, state: tuple[()], action: Array, task: BanditTask) -> tuple[tuple[()], Step]:
        paid = jax.random.bernoulli(key, task.probability[action])
        return (), Step(obs=jnp.zeros(1), reward=paid.astype(jnp.float32), terminated=jnp.array(False))


def bandit(config: BanditConfig = BanditConfig()) -> TaskFamily:
    """Builds the family of machines with arms drawn uniformly."""

    def sample(key):
        return BanditTask(probability=jax.random.uniform(key, (config.num_arms,)))

    return TaskFamily(Bandit(config.num_arms), sample, sample, flatten_task, episodes=config.num_pulls)
