"""Learning progress: replay the tasks whose performance changes."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from jaxmeta.config import checks
from jaxmeta.core.learner import MetaLearner
from jaxmeta.outer.meta_update import Sampler
from jaxmeta.outer.samplers import scores
from jaxmeta.outer.samplers.buffer import Buffer, Rating, mixed, normalised, replaying
from jaxmeta.outer.samplers.prioritised import ReplayConfig
from jaxmeta.tasks.base import TaskFamily
from jaxmeta.tasks.few_shot import FewShot
from jaxmeta.types import Array, Task


@dataclasses.dataclass(frozen=True)
class ProgressConfig(ReplayConfig):
    """Absolute learning progress: replay in proportion to it (Portelas et al., 2019, arXiv:1910.07224).

    It is the absolute change of the performance on a task since its last visit. A new task is compared with the known
    task whose encoding is nearest. Performance is the success rate, the return, or minus the query loss.
    """

    rate: float = 0.5
    """Weight of the last visit in the moving average of the progress on a task."""

    def __post_init__(self):
        super().__post_init__()
        checks.positive(self, "rate")
        checks.fraction(self, "rate")


def learning_progress(family: TaskFamily, meta: MetaLearner, config: ProgressConfig = ProgressConfig()) -> Sampler:
    """Builds the sampler by learning progress for a meta-learner: pass the result to `outer.with_sampler`."""
    plan, env = meta.info.plan, family.env
    if isinstance(env, FewShot):
        loss = scores.query_loss(meta.learner, env, plan.rounds)
        measure = lambda params, task: -loss(params, task)  # noqa: E731
    else:
        measure = scores.performance(env.spec, plan)

    def in_proportion(buffer: Buffer) -> Array:
        return normalised(jnp.where(buffer.full, buffer.score, 0.0))

    weigh = mixed(in_proportion, config.staleness)
    return replaying(
        family, meta.info.num_tasks, by_progress(family, measure, config.rate), weigh, config.size, config.share
    )


def by_progress(family: TaskFamily, measure, rate: float) -> Rating:
    """Rates tasks by the absolute change of a measure of performance, (params, outcome) -> scalar."""

    def first(buffer: Buffer, tasks: Task, now: Array) -> tuple[Array, Array, Array]:
        nearest = jnp.argmin(squared_distances(family, tasks, buffer), axis=1)
        score = jnp.where(buffer.full.any(), jnp.abs(now - buffer.value[nearest]), 0.0)
        return score, now, jnp.ones(now.shape, bool)

    def again(score: Array, before: Array, now: Array) -> tuple[Array, Array]:
        return (1.0 - rate) * score + rate * jnp.abs(now - before), now

    return Rating(measure, first, again)


def squared_distances(family: TaskFamily, tasks: Task, buffer: Buffer) -> Array:
    """Computes squared distances of encodings, from tasks [N, ...] to the rows of a buffer, [N, B]; infinite to empty
    rows."""
    here, there = (jax.vmap(family.encode)(some) for some in (tasks, buffer.tasks))
    squares = jnp.sum(here**2, 1)[:, None] + jnp.sum(there**2, 1) - 2.0 * here @ there.T
    return jnp.where(buffer.full, jnp.maximum(squares, 0.0), jnp.inf)
