"""Supervised outer loops: the exact gradient of the query's loss through the adaptation, and Reptile.

Nothing is collected: what an agent sees of a supervised task does not depend on what it does.
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
from jaxmeta.outer.aggregates import masked
from jaxmeta.outer.descend import descend, optimiser
from jaxmeta.outer.meta_update import Improve
from jaxmeta.tasks.few_shot import FewShotTask
from jaxmeta.types import Array, Fast, Key, Metrics, Params, Rollout

ROWS = 64
"""Tasks that a CPU differentiates side by side: what adapted networks of the usual sizes touch stays in cache."""


@dataclasses.dataclass(frozen=True)
class SupervisedConfig:
    """Adam on the loss of the query."""

    learning_rate: float = 1e-3
    """Adam's step size."""
    max_grad_norm: float | None = None
    """Meta-gradients longer than this are scaled down to it; None does not."""
    anneal_over: int | None = None
    """Meta-updates over which the step size falls linearly to zero; None keeps it."""
    max_task_gradient: float | None = None
    """Tasks whose own meta-gradient is longer than this, or not finite, are left out of an update; `masked_tasks` in
    the log is their share. None leaves out what is not finite alone."""
    truncation: int | None = None
    """Rounds at the end that meta-gradients go through; None takes all."""

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
) -> Improve:
    """Follows the gradient of the query's loss, through the adaptation.

    Args:
      env: a `tasks.FewShot`.
      rounds: steps of the inner loop.
      tx: what to do with the gradient; by default Adam as `config` says.
    """
    tx = tx or optimiser(config.learning_rate, config.anneal_over, max_grad_norm=config.max_grad_norm)
    loss = query_loss(learner, env, rounds, config.truncation)
    return descend(loss, tx, masked(config.max_task_gradient), piece=few_rows)


def few_rows(params: Params, tasks: Any) -> int | None:
    """Returns how many supervised tasks to differentiate in parallel."""
    return None if devices.cache_chunk(1) is None else ROWS


def query_loss(
    learner: Learner, env: Any, rounds: int, truncation: int | None = None
) -> Callable[[Params, FewShotTask, Key], tuple[Array, Metrics]]:
    """Builds the outer loss of one supervised task: that of the query after `rounds` steps on the support.

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
    """Builds what `reptile` moves towards on supervised tasks: where descent on batches of all examples ends.

    In meta-training a task's support and query are one set of examples, of which every round receives a batch of the
    support's size, one batch after the other. What else than the policy is learned, such as an update rule, stays.
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
    """Adapts, differentiably, to `experience(index)`, with the index of every round.

    Args:
      truncation: rounds at the end that meta-gradients go through; those before count as a constant displacement of
        where the task starts from. All by default.
    """

    def adapt(fast, index):
        return learner.adapt(params, fast, experience(index), jax.random.fold_in(key, index)), None

    begin = 0 if truncation is None else max(rounds - truncation, 0)
    fast = learner.start(params, key)
    if begin:
        moved = adapted(learner, jax.lax.stop_gradient(params), experience, key, begin)
        fast = jax.tree.map(_displaced, fast, moved)
    if rounds - begin == 1:
        return adapt(fast, jnp.int32(begin))[0]  # a loop of one turn costs more than the turn
    return jax.lax.scan(adapt, fast, jnp.arange(begin, rounds))[0]


def _displaced(start: Array, moved: Array) -> Array:
    """Returns `moved`, with the derivative of `start`."""
    if not jnp.issubdtype(start.dtype, jnp.inexact):
        return moved
    return start + jax.lax.stop_gradient(moved - start)


def answer(learner: Learner, env: Any, params: Params, fast: Fast, experience: Rollout) -> Array:
    """Returns the predictions for the query, [Q, outputs]."""
    carry = learner.reset(params, fast, jax.random.key(0))
    inputs = jax.tree.map(lambda leaf: leaf[0, 0], experience.inputs)
    return learner.act(params, fast, carry, inputs)[1].dist.reshape(-1, env.outputs)


def scores(
    learner: Learner, env: Any, params: Params, experience: Rollout, task: FewShotTask, after: Array, key: Key
) -> Metrics:
    """Returns what the query pays before and after the adaptation, as metrics; `key` is that of `learner.start`."""
    params = jax.lax.stop_gradient(params)
    before = answer(learner, env, params, learner.start(params, key), experience)
    first, last = (env.score(prediction, task.query.targets) for prediction in (before, after))
    return {"return/first": first, "return/last": last}
