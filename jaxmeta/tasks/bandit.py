"""Bandits, one pull per episode: Bernoulli arms, Gaussian arms, and two dependent arms."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import struct

from jaxmeta.config import checks
from jaxmeta.tasks.base import TaskFamily, flatten_task
from jaxmeta.types import Array, Discrete, Key, Spec, Step, Task

A_TRIAL = "a trial needs at least 1 pull (try --tasks.num-pulls 10)"


@dataclasses.dataclass(frozen=True)
class BanditConfig:
    """`bandit`: Bernoulli arms whose probabilities are uniform on [0, 1] per task."""

    num_arms: int = 10
    """Number of arms."""
    num_pulls: int = 10
    """Pulls per trial, for agents with memory. Each pull is an episode of one step."""

    def __post_init__(self):
        checks.task_sizes(self, num_arms="a bandit needs at least 1 arm (try --tasks.num-arms 10)", num_pulls=A_TRIAL)


@dataclasses.dataclass(frozen=True)
class GaussianBanditConfig(BanditConfig):
    """`gaussian-bandit`: arms with Gaussian rewards around a mean drawn per task.

    Tasks: the means are independent, N(0, 1), as in the testbed of Sutton and Barto (2018, section 2.3).
    Reward: N(mean of the arm, 1), independent at every pull.
    """


@dataclasses.dataclass(frozen=True)
class DependentBanditConfig:
    """`dependent-bandit`: two Bernoulli arms, p₂ = 1 - p₁, so that each pull is informative about both.

    Tasks: by `variant`, as in Wang et al. (2016, arXiv:1611.05763). uniform: p₁ ~ U[0, 1]; easy: p₁ is 0.1 or 0.9;
    medium: 0.25 or 0.75; hard: 0.4 or 0.6, either with probability 1/2.
    Reward: 1 with the probability of the arm, else 0.
    """

    variant: Literal["uniform", "easy", "medium", "hard"] = "uniform"
    """Distribution of p₁."""
    num_pulls: int = 100
    """Pulls per trial, for agents with memory. Each pull is an episode of one step."""

    def __post_init__(self):
        checks.task_sizes(self, num_pulls=A_TRIAL)
        if self.variant != "uniform" and self.variant not in WORSE_ARM:
            known = ", ".join(("uniform", *WORSE_ARM))
            raise ValueError(f"tasks.variant is {self.variant!r}; known variants are {known}")


WORSE_ARM = {"easy": 0.1, "medium": 0.25, "hard": 0.4}
"""Probability of the worse arm in the variants of `dependent-bandit` that have two tasks."""


class BanditTask(struct.PyTreeNode):
    """One bandit with Bernoulli arms."""

    probability: Array
    """Probability of a reward of 1, [num_arms]."""


class GaussianBanditTask(struct.PyTreeNode):
    """One bandit with Gaussian arms."""

    mean: Array
    """Mean rewards, [num_arms]; the variance is 1."""


def pay_bernoulli(key: Key, arm: Array, task: BanditTask) -> Array:
    """Samples the reward of a Bernoulli arm: 1 with its probability, else 0."""
    return jax.random.bernoulli(key, task.probability[arm]).astype(jnp.float32)


def pay_gaussian(key: Key, arm: Array, task: GaussianBanditTask) -> Array:
    """Samples the reward of a Gaussian arm: its mean plus noise of unit variance."""
    return task.mean[arm] + jax.random.normal(key)


@dataclasses.dataclass(frozen=True)
class Bandit:
    """A bandit. The observation is a constant zero, [1]."""

    num_arms: int
    pay: Callable[[Key, Array, Any], Array] = pay_bernoulli
    """(key, arm, task) -> reward."""

    @property
    def spec(self) -> Spec:
        return Spec(observation=(1,), action=Discrete(self.num_arms), horizon=1)

    def reset(self, key: Key, task: Task) -> tuple[tuple[()], Array]:
        return (), jnp.zeros(1)

    def step(self, key: Key, state: tuple[()], action: Array, task: Task) -> tuple[tuple[()], Step]:
        return (), Step(obs=jnp.zeros(1), reward=self.pay(key, action, task), terminated=jnp.array(False))


def bandit(config: BanditConfig = BanditConfig()) -> TaskFamily:
    """Builds the family of Bernoulli bandits with uniform arms, as in RL² (Duan et al., 2016, arXiv:1611.02779)."""

    def sample(key):
        return BanditTask(probability=jax.random.uniform(key, (config.num_arms,)))

    return TaskFamily(Bandit(config.num_arms), sample, sample, flatten_task, episodes=config.num_pulls)


def gaussian_bandit(config: GaussianBanditConfig = GaussianBanditConfig()) -> TaskFamily:
    """Builds the family of Gaussian bandits."""

    def sample(key):
        return GaussianBanditTask(mean=jax.random.normal(key, (config.num_arms,)))

    return TaskFamily(Bandit(config.num_arms, pay_gaussian), sample, sample, flatten_task, episodes=config.num_pulls)


def dependent_bandit(config: DependentBanditConfig = DependentBanditConfig()) -> TaskFamily:
    """Builds the family of bandits with two Bernoulli arms whose probabilities sum to 1."""

    def sample(key):
        if config.variant == "uniform":
            first = jax.random.uniform(key)
        else:
            worse = jnp.float32(WORSE_ARM[config.variant])
            first = jnp.where(jax.random.bernoulli(key), worse, 1.0 - worse)
        return BanditTask(probability=jnp.stack([first, 1.0 - first]))

    return TaskFamily(Bandit(2), sample, sample, flatten_task, episodes=config.num_pulls)
