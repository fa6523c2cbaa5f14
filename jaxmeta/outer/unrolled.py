"""Training of learned optimisers on the losses along unrolled inner loops, by truncated backpropagation."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxmeta import devices
from jaxmeta.config import checks
from jaxmeta.core import guard
from jaxmeta.core.learner import Learner
from jaxmeta.outer.aggregates import mean_of_kept
from jaxmeta.outer.descend import optimiser
from jaxmeta.outer.meta_update import Batch, Improve
from jaxmeta.outer.regularise import RegularisationConfig
from jaxmeta.outer.supervised import answer, scores
from jaxmeta.tasks.few_shot import FewShotTask
from jaxmeta.types import Array, Fast, Key, Metrics, Params


@dataclasses.dataclass(frozen=True)
class UnrolledConfig:
    """Adam on the mean loss over truncated segments of the inner loop."""

    segment: int = 20
    """Truncation length in inner steps; a meta-update takes one Adam step per segment."""
    log_floor: float | None = None
    """If given, minimises log(loss + log_floor), so that late inner steps matter as much as early ones, whose losses
    are much higher."""
    learning_rate: float = 1e-3
    """Adam's learning rate."""
    max_grad_norm: float = 0.3
    """Clips the gradient norm of each task: outlier tasks would dominate the gradient."""
    anneal_over: int | None = None
    """Meta-updates over which the learning rate is annealed linearly to zero; None keeps it."""
    regularise: RegularisationConfig = RegularisationConfig()
    """Regularisation of the params."""

    def __post_init__(self):
        checks.finite(self)
        checks.positive(self, "log_floor", "learning_rate", "max_grad_norm")
        checks.at_least_one(self, "segment", "anneal_over")


def unrolled(learner: Learner, env: Any, rounds: int, config: UnrolledConfig = UnrolledConfig()) -> Improve:
    """Minimises the support loss after every inner step, averaged over each segment.

    Derivatives are truncated at the ends of segments; the params and the state of the update rule carry over.

    Args:
      env: a `tasks.FewShot`.
      rounds: inner steps; a multiple of the segment.
    """
    if rounds % config.segment:
        raise ValueError(f"segment is {config.segment}; it must divide rounds, which is {rounds}")
    segments = rounds // config.segment
    tx = optimiser(config.learning_rate, config.anneal_over, segments, regularise=config.regularise)
    clip = optax.clip_by_global_norm(config.max_grad_norm)

    def way(params: Params, fast: Fast, task: FewShotTask, key: Key) -> tuple[Array, Fast]:
        experience = env.experience(task.replace(query=task.support))

        def step(fast, key):
            fast = learner.adapt(params, fast, experience, key)
            return fast, env.loss(answer(learner, env, params, fast, experience), task.support.targets)

        fast, losses = jax.lax.scan(step, fast, jax.random.split(key, config.segment))
        if config.log_floor is not None:
            losses = jnp.log(losses + config.log_floor)
        return jnp.mean(losses), fast

    def of_one(params: Params, fast: Fast, task: FewShotTask, key: Key, weight: Array) -> tuple[Any, Array, Fast]:
        (loss, fast), gradient = jax.value_and_grad(way, has_aux=True)(params, fast, task, key)
        gradient, _ = clip.update(gradient, clip.init(params))
        return *guard.kept((loss, gradient), weight > 0), fast

    def step(params: Params, opt_state: Any, batch: Batch, updates: Array) -> tuple[Params, Any, Metrics]:
        def descend(state, index):
            params, opt_state, fast = state
            keys = jax.vmap(lambda key: jax.random.fold_in(key, index))(batch.keys)
            each, keep, fast = jax.vmap(of_one, (None, 0, 0, 0, 0))(params, fast, batch.data, keys, batch.weight)
            loss, gradient = mean_of_kept(each, keep)
            change, opt_state = tx.update(gradient, opt_state, params)
            metrics = {"loss": loss, "grad_norm": optax.global_norm(gradient)}
            return (optax.apply_updates(params, change), opt_state, fast), metrics

        def end(fast: Fast, task: FewShotTask, key: Key, weight: Array) -> tuple[Metrics, Array]:
            experience = env.experience(task)
            prediction = answer(learner, env, params, fast, experience)
            return guard.kept(scores(learner, env, params, experience, task, prediction, key), weight > 0)

        fast = jax.vmap(learner.start, (None, 0))(params, batch.keys)
        (params, opt_state, fast), metrics = jax.lax.scan(
            descend, (params, opt_state, fast), jnp.arange(1, segments + 1)
        )
        each, keep = jax.vmap(end)(fast, batch.data, batch.keys, batch.weight)
        nonfinite = devices.task_sum(jnp.sum((1.0 - keep) * (batch.weight > 0)))
        return (
            params,
            opt_state,
            jax.tree.map(jnp.mean, metrics) | mean_of_kept(each, keep) | {guard.NONFINITE + "gradient": nonfinite},
        )

    return Improve(tx.init, step)
