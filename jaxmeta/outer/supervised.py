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

from jaxmeta import checks
from jaxmeta.core import guard, parallel
from jaxmeta.core.learner import Learner, MetaLearner
from jaxmeta.outer.reptile import ReptileConfig
from jaxmeta.outer.schedule import remaining_share
from jaxmeta.tasks.base import TaskFamily
from jaxmeta.tasks.few_shot import FewShotTask
from jaxmeta.types import Array, Fast, Key, Metrics, Params, Plan, Rollout, TrainState

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

    def tx(self) -> optax.GradientTransformation:
        """Returns the optimiser, but for the annealing."""
        clip = optax.identity() if self.max_grad_norm is None else optax.clip_by_global_norm(self.max_grad_norm)
        return optax.chain(clip, optax.adam(self.learning_rate))


def supervised(
    learner: Learner,
    family: TaskFamily,
    plan: Plan,
    num_tasks: int,
    config: SupervisedConfig = SupervisedConfig(),
    num_devices: int | None = None,
) -> MetaLearner:
    """Builds an outer loop that follows the gradient of the query's loss, through the adaptation, with Adam.

    Args:
      family: its environment is a `tasks.FewShot`.
      plan: its rounds are the steps of the inner loop.
      num_devices: devices to use; by default as many as divide `num_tasks`.
    """
    direction = jax.grad(query_loss(learner, family.env, plan.rounds, config.truncation), has_aux=True)
    tx = config.tx()
    improve = _descend(family, num_tasks, direction, tx, config.anneal_over, config.max_task_gradient)
    return off_data(learner, plan, num_tasks, tx.init, improve, num_devices)


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
        return after, metrics | (learner.report(fast) if learner.report else {})

    return loss


def supervised_reptile(
    learner: Learner,
    family: TaskFamily,
    plan: Plan,
    num_tasks: int,
    config: ReptileConfig = ReptileConfig(),
    num_devices: int | None = None,
) -> MetaLearner:
    """Builds Reptile's outer loop: θ moves towards the mean of the adapted params.

    In meta-training a task's support and query are one set of examples, of which every round sees a batch of the
    support's size, one batch after the other.

    Args:
      family: its environment is a `tasks.FewShot`.
      plan: its rounds are the steps of the inner loop.
      num_devices: devices to use; by default as many as divide `num_tasks`.
    """
    env: Any = family.env

    def displacement(params: Params, task: FewShotTask, key: Key) -> tuple[Params, Metrics]:
        examples = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), task.support, task.query)
        batches = (env.shots + env.queries) // env.shots

        def batch(index):
            begin = env.shots * (index % batches)
            support = jax.tree.map(lambda leaf: jax.lax.dynamic_slice_in_dim(leaf, begin, env.shots), examples)
            return env.experience(task.replace(support=support))

        fast = adapted(learner, params, batch, key, plan.rounds)
        experience = env.experience(task)
        prediction = answer(learner, env, params, fast, experience)
        back = jax.tree.map(jnp.subtract, params.policy, fast.policy)
        metrics = {"loss": env.loss(prediction, task.query.targets)}
        # what else is learned, such as an update rule, stays
        still = jax.tree.map(jnp.zeros_like, params)
        metrics |= learner.report(fast) if learner.report else {}
        return still.replace(policy=back), metrics | scores(learner, env, params, experience, task, prediction, key)

    tx = optax.sgd(config.step_size)
    improve = _descend(family, num_tasks, displacement, tx, config.anneal_over)
    return off_data(learner, plan, num_tasks, tx.init, improve, num_devices)


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


def off_data(
    learner: Learner,
    plan: Plan,
    num_tasks: int,
    init_opt: Callable[[Params], Any],
    improve: Callable[[Params, Any, Any, Array], tuple[Params, Any, Metrics]],
    num_devices: int | None = None,
) -> MetaLearner:
    """Builds a meta-learner that draws tasks for every update and collects nothing.

    Args:
      init_opt: makes the optimiser state from params.
      improve: (params, opt_state, keys, step) -> (params, opt_state, metrics). It sees the keys of one device's tasks,
        a pair of [n]: to draw them, and for all else; it must reduce over devices, as `parallel.mean_over_tasks`.
      num_devices: devices to use; by default as many as divide `num_tasks`.
    """
    if num_tasks < 1:
        raise ValueError(f"num_tasks is {num_tasks}; an update needs at least 1 task")
    num_devices = num_devices or parallel.num_devices_for(num_tasks)

    def init(key: Key) -> TrainState:
        params_key, key = jax.random.split(key)
        params = learner.init(params_key)
        return TrainState(params=params, opt_state=init_opt(params), key=key, step=jnp.zeros((), jnp.int32))

    def local_update(shared, per_task):
        params, opt_state, step = shared
        return improve(params, opt_state, per_task, step)

    def update(state: TrainState) -> tuple[TrainState, Metrics]:
        # one split for all: on a CPU it takes as long as a layer of the network, however many keys it makes
        keys = jax.random.split(state.key, 2 * num_tasks + 1)
        params, opt_state, metrics = parallel.over_tasks(local_update, num_tasks, num_devices)(
            (state.params, state.opt_state, state.step), (keys[:num_tasks], keys[num_tasks:-1])
        )
        metrics["env_steps"] = jnp.float32(num_tasks * (plan.rounds + 1))
        return TrainState(params=params, opt_state=opt_state, key=keys[-1], step=state.step + 1), metrics

    return MetaLearner(learner, plan, init, update, num_devices, collects=(num_tasks, plan))


def _descend(
    family: TaskFamily,
    num_tasks: int,
    direction: Callable[[Params, FewShotTask, Key], tuple[Params, Metrics]],
    tx: optax.GradientTransformation,
    anneal_over: int | None,
    max_task_gradient: float | None = None,
) -> Callable[[Params, Any, Any, Array], tuple[Params, Any, Metrics]]:
    """Builds the improvement that goes down the mean of what single tasks say, a tree like the params for each.

    A task that says something that is not finite, or longer than `max_task_gradient`, is left out and counted.
    """

    def improve(params: Params, opt_state: Any, per_task: Any, step: Array) -> tuple[Params, Any, Metrics]:
        def of_one(keys: tuple[Key, Key]) -> tuple[Any, tuple[Array, Array]]:
            task_key, key = keys
            gradient, metrics = direction(params, family.sample(task_key), key)
            short = True if max_task_gradient is None else optax.global_norm(gradient) <= max_task_gradient
            return guard.kept((gradient, metrics), short)

        chunk = None if parallel.cache_chunk(1) is None else ROWS
        (gradient, metrics), masked, faulty = guard.mean_over_kept(of_one, per_task, num_tasks, chunk)
        metrics |= {"grad_norm": optax.global_norm(gradient), "faulty_tasks": faulty}
        if max_task_gradient is not None:
            metrics["masked_tasks"] = masked
        change, opt_state = tx.update(gradient, opt_state, params)
        change = jax.tree.map(lambda leaf: leaf * remaining_share(step, anneal_over), change)
        return optax.apply_updates(params, change), opt_state, metrics

    return improve
