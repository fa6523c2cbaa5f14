"""Bandits, one pull an episode: Bernoulli and Gaussian arms, and two arms of which one tells about the other."""

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
    """Arms to choose from."""
    num_pulls: int = 10
    """Pulls in a trial of an agent that remembers; each pull is an episode of one step."""

    def __post_init__(self):
        checks.task_sizes(self, num_arms="a bandit needs at least 1 arm (try --tasks.num-arms 10)", num_pulls=A_TRIAL)


@dataclasses.dataclass(frozen=True)
class GaussianBanditConfig(BanditConfig):
    """`gaussian-bandit`: arms that pay Gaussian rewards around a mean drawn per task.

    Law: the means are independent, N(0, 1), as in the testbed of Sutton and Barto (2018, section 2.3).
    Reward: N(mean of the arm, 1), fresh noise at every pull.
    """


@dataclasses.dataclass(frozen=True)
class DependentBanditConfig:
    """`dependent-bandit`: two Bernoulli arms, p₂ = 1 - p₁, so that each pull tells about both.

    Law: by `variant`, as in Wang et al. (2016, arXiv:1611.05763). uniform: p₁ ~ U[0, 1]; easy: p₁ is 0.1 or 0.9;
    medium: 0.25 or 0.75; hard: 0.4 or 0.6, either with probability 1/2.
    Reward: 1 with the probability of the arm, else 0.
    """

    variant: Literal["uniform", "easy", "medium", "hard"] = "uniform"
    """How p₁ is drawn."""
    num_pulls: int = 100
    """Pulls in a trial of an agent that remembers; each pull is an episode of one step."""

    def __post_init__(self):
        checks.task_sizes(self, num_pulls=A_TRIAL)
        if self.variant != "uniform" and self.variant not in WORSE_ARM:
            known = ", ".join(("uniform", *WORSE_ARM))
            raise ValueError(f"tasks.variant is {self.variant!r}; known variants are {known}")


WORSE_ARM = {"easy": 0.1, "medium": 0.25, "hard": 0.4}
"""Probability of the worse arm in the variants of `dependent-bandit` that have two tasks."""


class BanditTask(struct.PyTreeNode):
    """One machine with Bernoulli arms."""

    probability: Array
    """Chance that an arm pays 1, [num_arms]."""


class GaussianBanditTask(struct.PyTreeNode):
    """One machine with Gaussian arms."""

    mean: Array
    """Mean reward of an arm, [num_arms]; the variance is 1."""


def pay_bernoulli(key: Key, arm: Array, task: BanditTask) -> Array:
    """Pays 1 with the probability of the arm, else 0."""
    return jax.random.bernoulli(key, task.probability[arm]).astype(jnp.float32)


def pay_gaussian(key: Key, arm: Array, task: GaussianBanditTask) -> Array:
    """Pays the mean of the arm and noise of unit variance."""
    return task.mean[arm] + jax.random.normal(key)


@dataclasses.dataclass(frozen=True)
class Bandit:
    """Arms to pull. There is nothing to observe: the observation is a single zero."""

    num_arms: int
    pay: Callable[[Key, Array, Any], Array] = pay_bernoulli
    """The reward of an arm of a task."""

    @property
    def spec(self) -> Spec:
        return Spec(observation=(1,), action=Discrete(self.num_arms), horizon=1)

    def reset(self, key: Key, task: Task) -> tuple[tuple[()], Array]:
        return (), jnp.zeros(1)

    def step(self, key: Key, state: tuple[()], action: Array, task: Task) -> tuple[tuple[()], Step]:
        return (), Step(obs=jnp.zeros(1), reward=self.pay(key, action, task), terminated=jnp.array(False))


def bandit(config: BanditConfig = BanditConfig()) -> TaskFamily:
    """Builds the family of machines with arms drawn uniformly, as in RL² (Duan et al., 2016, arXiv:1611.02779)."""

    def sample(key):
        return BanditTask(probability=jax.random.uniform(key, (config.num_arms,)))

    return TaskFamily(Bandit(config.num_arms), sample, sample, flatten_task, episodes=config.num_pulls)


def gaussian_bandit(config: GaussianBanditConfig = GaussianBanditConfig()) -> TaskFamily:
    """Builds the family of machines with Gaussian arms."""

    def sample(key):
        return GaussianBanditTask(mean=jax.random.normal(key, (config.num_arms,)))

    return TaskFamily(Bandit(config.num_arms, pay_gaussian), sample, sample, flatten_task, episodes=config.num_pulls)


def dependent_bandit(config: DependentBanditConfig = DependentBanditConfig()) -> TaskFamily:
    """Builds the family of machines whose two arms pay with probabilities that add up to 1."""

    def sample(key):
        if config.variant == "uniform":
            first = jax.random.uniform(key)
        else:
            worse = jnp.float32(WORSE_ARM[config.variant])
            first = jnp.where(jax.random.bernoulli(key), worse, 1.0 - worse)
        return BanditTask(probability=jnp.stack([first, 1.0 - first]))

    return TaskFamily(Bandit(2), sample, sample, flatten_task, episodes=config.num_pulls)
