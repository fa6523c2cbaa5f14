"""Prioritised level replay (PLR): replay the tasks from which most can still be learned."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import jax.numpy as jnp

from jaxmeta.config import checks
from jaxmeta.core.learner import MetaLearner
from jaxmeta.outer.meta_update import Sampler, parts_of
from jaxmeta.outer.samplers import scores
from jaxmeta.outer.samplers.buffer import Buffer, Rating, mixed, rank_weights, replaying, smoothed
from jaxmeta.tasks.base import TaskFamily
from jaxmeta.tasks.few_shot import FewShot
from jaxmeta.types import Array, Task


@dataclasses.dataclass(frozen=True)
class ReplayConfig:
    """Fields of every sampler that replays tasks from a buffer."""

    size: int = 512
    """Tasks that the buffer holds."""
    share: float = 0.5
    """Share of replayed tasks in every update; the others are new."""
    staleness: float = 0.1
    """Weight, in [0, 1], of the time since the last visit in the probability of replay; the rest is by score."""

    def __post_init__(self):
        checks.finite(self)
        checks.at_least_one(self, "size")
        checks.fraction(self, "share", "staleness")


@dataclasses.dataclass(frozen=True)
class PrioritisedConfig(ReplayConfig):
    """PLR: replay tasks by the rank of a score and by staleness (Jiang et al., 2021, arXiv:2010.03934)."""

    score: Literal["value-loss", "max-mc", "query-loss"] | None = None
    """Positive value loss, MaxMC, or the loss of the query set of a supervised task. By default value-loss, and
    query-loss on supervised tasks."""
    temperature: float = 0.3
    """β: the probability by score is proportional to rank^(-1/β)."""
    robust: bool = False
    """Whether new tasks are only scored, and not learned from (robust PLR, Jiang et al., 2021, arXiv:2110.02439)."""
    rate: float = 1.0
    """Weight of the last visit in the moving average of the scores of a task."""
    discount: float = 0.99
    """γ of the returns in scores."""
    trace: float = 0.95
    """λ of the advantages in scores."""

    def __post_init__(self):
        super().__post_init__()
        checks.positive(self, "temperature", "rate")
        checks.fraction(self, "rate", "discount", "trace")


def prioritised_replay(
    family: TaskFamily, meta: MetaLearner, config: PrioritisedConfig = PrioritisedConfig()
) -> Sampler:
    """Builds prioritised level replay for a meta-learner: pass the result to `outer.with_sampler`.

    Raises:
      ValueError: if the score or the buffer does not suit the tasks.
    """

    def by_rank(buffer: Buffer) -> Array:
        return rank_weights(buffer.score, buffer.full, config.temperature)

    return replaying(
        family,
        meta.info.num_tasks,
        rating(family, meta, config),
        mixed(by_rank, config.staleness),
        config.size,
        config.share,
        robust=config.robust,
    )


def rating(family: TaskFamily, meta: MetaLearner, config: PrioritisedConfig) -> Rating:
    """Builds the score that a config names.

    Raises:
      ValueError: if it is of the other kind of tasks.
    """
    parts, env = parts_of(meta), family.env
    supervised = isinstance(env, FewShot)
    name = config.score or ("query-loss" if supervised else "value-loss")
    if supervised != (name == "query-loss"):
        right = "query-loss" if supervised else "value-loss or max-mc"
        raise ValueError(f"score is {name!r}; on these tasks it must be {right}")
    plan, values = meta.info.plan, parts.improve.values
    if name == "query-loss":
        return smoothed(scores.query_loss(meta.learner, env, plan.rounds), config.rate)
    if name == "value-loss":
        return smoothed(scores.positive_value_loss(values, plan, config.discount, config.trace), config.rate)
    return by_best_return(scores.max_monte_carlo(values, plan, config.discount))


def by_best_return(measure: Any) -> Rating:
    """Rates a task by the highest return of all its visits minus the value of the last visit."""

    def first(buffer: Buffer, tasks: Task, measures: dict[str, Array]) -> tuple[Array, Array, Array]:
        best = measures["best"]
        return best - measures["value"], best, jnp.ones(best.shape, bool)

    def again(score: Array, best: Array, measures: dict[str, Array]) -> tuple[Array, Array]:
        best = jnp.maximum(best, measures["best"])
        return best - measures["value"], best

    return Rating(measure, first, again)
