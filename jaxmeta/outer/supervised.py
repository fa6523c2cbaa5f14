"""Supervised outer loops: the gradient of the query loss through the adaptation, and Reptile.

Nothing is collected: the data of a supervised task does not depend on the agent.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxmeta import devices
from jaxmeta.config import checks
from jaxmeta.core.learner import Learner, adaptation_metrics
from jaxmeta.outer.aggregates import Aggregate, masked, refuse_private
from jaxmeta.outer.descend import descend, optimiser
from jaxmeta.outer.meta_update import Improve
from jaxmeta.outer.regularise import RegularisationConfig
from jaxmeta.tasks.few_shot import FewShotTask
from jaxmeta.types import Array, Fast, Key, Metrics, Params, Rollout

ROWS = 64
"""Tasks that a CPU differentiates in parallel: adapted networks of the usual sizes then fit in cache."""


@dataclasses.dataclass(frozen=True)
class SupervisedConfig:
    """Adam on the query loss."""

    learning_rate: float = 1e-3
    """Adam's learning rate."""
    max_grad_norm: float | None = None
    """Clips the global norm of meta-gradients; None does not clip."""
    anneal_over: int | None = None
    """Meta-updates over which the learning rate is annealed linearly to zero; None keeps it."""
    max_task_gradient: float | None = None
    """Masks tasks whose meta-gradient norm exceeds this threshold or is non-finite; the metric `masked_tasks` is their
    share. None masks non-finite ones only."""
    truncation: int | None = None
    """Truncated backpropagation: the last rounds that meta-gradients go through; None takes all."""
    regularise: RegularisationConfig = RegularisationConfig()
    """Regularisation of the params."""

    def __post_init__(self):
        checks.finite(self)
        checks.positive(self, "learning_rate", "max_grad_norm", "max_task_gradient")
        checks.at_least_one(self, "anneal_over", "truncation")


def follow_query(
    learner: Learner,
    env: Any,
    rounds: int,
    config: SupervisedConfig = SupervisedConfig(),
    tx: optax.GradientTransformation | None = None,
    aggregate: Aggregate | None = None,
) -> Improve:
    """Takes gradient steps on the query loss, differentiated through the adaptation.

    Args:
      env: a `tasks.FewShot`.
      rounds: inner steps.
      tx: the optimiser; by default Adam as configured.
      aggregate: combines the tasks' gradients; by default `masked`, as configured.

    Raises:
      ValueError: if `aggregate` is given although the config masks long gradients.
    """
    if aggregate is not None and config.max_task_gradient is not None:
        mask = f"max_task_gradient is {config.max_task_gradient}"
        refuse_private(aggregate, f"{mask}; whether a client is masked is not noised (try private.clip instead)")
        raise ValueError(f"{mask}; it masks in outer.masked, but another aggregate is given, so it must be None")
    tx = tx or optimiser(
        config.learning_rate,
        config.anneal_over,
        max_grad_norm=config.max_grad_norm,
        regularise=config.regularise,
    )
    loss = query_loss(learner, env, rounds, config.truncation)
    return descend(loss, tx, aggregate or masked(config.max_task_gradient), piece=few_rows)


def few_rows(params: Params, tasks: Any) -> int | None:
    """Returns how many supervised tasks to differentiate in parallel."""
    return None if devices.cache_chunk(1) is None else ROWS


def query_loss(
    learner: Learner, env: Any, rounds: int, truncation: int | None = None
) -> Callable[[Params, FewShotTask, Key], tuple[Array, Metrics]]:
    """Builds the outer loss of one supervised task: the query loss after `rounds` inner steps on the support set.

    Args:
      env: a `tasks.FewShot`.
      truncation: see `adapted`.

    Returns:
      A pure function (params, task, key) -> (scalar, metrics).
    """

    def loss(params: Params, task: FewShotTask, key: Key) -> tuple[Array, Metrics]:
        experience = env.experience(task)
        fast = adapted(learner, params, lambda index: experience, key, rounds, truncation)
        prediction = answer(learner, env, params, fast, experience)
        after = env.loss(prediction, task.query.targets)
        metrics = {"loss": after} | scores(learner, env, params, experience, task, prediction, key)
        return after, metrics | adaptation_metrics(fast)

    return loss


def after_batches(
    learner: Learner, env: Any, rounds: int
) -> Callable[[Params, FewShotTask, Key], tuple[Params, Metrics]]:
    """Builds the `adapted` of `reptile` for supervised tasks: the params after inner steps on minibatches.

    The support and query sets of a training task are merged, and every round adapts to the next minibatch of the size
    of the support set. Other learned params, such as those of an update rule, are kept.
    """

    def end(params: Params, task: FewShotTask, key: Key) -> tuple[Params, Metrics]:
        examples = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), task.support, task.query)
        batches = (env.shots + env.queries) // env.shots

        def batch(index):
            begin = env.shots * (index % batches)
            support = jax.tree.map(lambda leaf: jax.lax.dynamic_slice_in_dim(leaf, begin, env.shots), examples)
            return env.experience(task.replace(support=support))

        fast = adapted(learner, params, batch, key, rounds)
        experience = env.experience(task)
        prediction = answer(learner, env, params, fast, experience)
        metrics = {"loss": env.loss(prediction, task.query.targets)} | adaptation_metrics(fast)
        metrics |= scores(learner, env, params, experience, task, prediction, key)
        return params.replace(policy=fast.policy), metrics

    return end


def adapted(
    learner: Learner,
    params: Params,
    experience: Callable[[Array], Rollout],
    key: Key,
    rounds: int,
    truncation: int | None = None,
) -> Fast:
    """Adapts, differentiably, to `experience(index)` in every round.

    Args:
      truncation: number of last rounds that are differentiated; earlier ones count as a constant displacement of the
        initial params. All by default.
    """

    def adapt(fast, index):
        return learner.adapt(params, fast, experience(index), jax.random.fold_in(key, index)), None

    begin = 0 if truncation is None else max(rounds - truncation, 0)
    fast = learner.start(params, key)
    if begin:
        moved = adapted(learner, jax.lax.stop_gradient(params), experience, key, begin)
        fast = jax.tree.map(_displaced, fast, moved)
    if rounds - begin == 1:
        return adapt(fast, jnp.int32(begin))[0]  # avoids the overhead of a loop
    return jax.lax.scan(adapt, fast, jnp.arange(begin, rounds))[0]


def _displaced(start: Array, moved: Array) -> Array:
    """Returns the value of `moved` with the derivative of `start`."""
    if not jnp.issubdtype(start.dtype, jnp.inexact):
        return moved
    return start + jax.lax.stop_gradient(moved - start)


def answer(learner: Learner, env: Any, params: Params, fast: Fast, experience: Rollout) -> Array:
    """Returns the predictions for the query set, [Q, outputs]."""
    carry = learner.reset(params, fast, jax.random.key(0))
    inputs = jax.tree.map(lambda leaf: leaf[0, 0], experience.inputs)
    return learner.act(params, fast, carry, inputs)[1].dist.reshape(-1, env.outputs)


def scores(
    learner: Learner, env: Any, params: Params, experience: Rollout, task: FewShotTask, after: Array, key: Key
) -> Metrics:
    """Returns metrics of the query set before and after the adaptation; `key` is the one for `learner.start`."""
    params = jax.lax.stop_gradient(params)
    before = answer(learner, env, params, learner.start(params, key), experience)
    first, last = (env.score(prediction, task.query.targets) for prediction in (before, after))
    return {"return/first": first, "return/last": last}
