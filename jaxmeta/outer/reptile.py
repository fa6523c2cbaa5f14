"""Reptile's outer loop: there is no meta-gradient, only the places where the adaptations ended."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxmeta import checks
from jaxmeta.core import guard
from jaxmeta.core.learner import Learner, MetaLearner
from jaxmeta.core.rollout import replay_fast
from jaxmeta.outer.loss import gradient_chunk
from jaxmeta.outer.on_policy import on_policy
from jaxmeta.outer.schedule import remaining_share
from jaxmeta.tasks.base import TaskFamily
from jaxmeta.types import Array, Fast, Key, Metrics, Params, Plan, Trial


@dataclasses.dataclass(frozen=True)
class ReptileConfig:
    """Steps towards the adapted params (Nichol et al., 2018, arXiv:1803.02999)."""

    step_size: float = 0.1
    """ε: how far to go towards the mean of the adapted params."""
    anneal_over: int | None = None
    """Meta-updates over which ε falls linearly to zero; None keeps it."""

    def __post_init__(self):
        checks.finite(self)
        checks.positive(self, "step_size")
        checks.at_least_one(self, "anneal_over")


def towards_adapted(
    learner: Learner,
    family: TaskFamily,
    plan: Plan,
    num_tasks: int,
    adapted: Callable[[Params, Fast], Params],
    config: ReptileConfig = ReptileConfig(),
    num_devices: int | None = None,
) -> MetaLearner:
    """Builds Reptile's outer loop: params move by ε towards the mean of those that tasks were adapted to.

    The agent also adapts to the last round of a trial, which the other outer loops measure on. A task that it adapts to
    by a step that is not finite is left out, as one that had a fault is; `masked_tasks` in the log is their share.

    Args:
      adapted: (params, fast) -> the params that a new task would have to begin with to be where `fast` is.
      num_devices: by default as many as divide `num_tasks`.
    """

    def way_of(params: Params, trial: Trial, key: Key) -> Any:
        fast, last = jax.tree.map(lambda leaf: leaf[-1], (replay_fast(learner, params, trial), trial.rounds))
        fast = learner.adapt(params, fast, last, key)
        way = jax.tree.map(jnp.subtract, adapted(params, fast), params)
        return guard.kept((way, learner.report(fast) if learner.report else {}), jnp.any(trial.rounds.valid > 0))

    def improve(params: Params, opt_state: Any, trials: Trial, keys: Key, step: Array) -> tuple[Params, Any, Metrics]:
        (way, told), masked, _ = guard.mean_over_kept(
            lambda one: way_of(params, *one), (trials, keys), num_tasks, gradient_chunk(learner, trials)
        )
        size = config.step_size * remaining_share(step, config.anneal_over)
        params = jax.tree.map(lambda leaf, towards: leaf + size * towards, params, way)
        return params, opt_state, told | {"distance": optax.global_norm(way), "masked_tasks": masked}

    return on_policy(learner, family, plan, num_tasks, lambda params: (), improve, num_devices)
