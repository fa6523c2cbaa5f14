"""Training of an update rule: how low it brings functions, all along the way, by truncated backpropagation."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxmeta import checks
from jaxmeta.core import guard, parallel
from jaxmeta.core.learner import Learner, MetaLearner
from jaxmeta.outer.schedule import remaining_share
from jaxmeta.outer.supervised import answer, off_data, scores
from jaxmeta.tasks.base import TaskFamily
from jaxmeta.tasks.few_shot import FewShotTask
from jaxmeta.types import Array, Fast, Key, Metrics, Params, Plan


@dataclasses.dataclass(frozen=True)
class UnrolledConfig:
    """Adam on the mean loss over segments of the way."""

    segment: int = 20
    """Steps that a derivative goes through; a meta-update takes one step of Adam for each segment."""
    log_floor: float | None = None
    """If given, log(loss + log_floor) is what is lowered: the end of the way then counts like its begin, where losses
    are much higher."""
    learning_rate: float = 1e-3
    """Adam's step size."""
    max_grad_norm: float = 0.3
    """Gradients of single tasks longer than this are scaled down to it: steep ways of a few would drown the others."""
    anneal_over: int | None = None
    """Meta-updates over which the step size falls linearly to zero; None keeps it."""

    def __post_init__(self):
        checks.finite(self)
        checks.positive(self, "log_floor", "learning_rate", "max_grad_norm")
        checks.at_least_one(self, "segment", "anneal_over")


def unrolled(
    learner: Learner,
    family: TaskFamily,
    plan: Plan,
    num_tasks: int,
    config: UnrolledConfig = UnrolledConfig(),
    num_devices: int | None = None,
) -> MetaLearner:
    """Builds an outer loop that lowers the loss of the support after every step, summed over the way.

    At the borders of segments the derivative is cut; the params and the state of the update rule go on.

    Args:
      family: its environment is a `tasks.FewShot`.
      plan: its rounds are the steps of the inner loop; segments divide them.
      num_devices: devices to use; by default as many as divide `num_tasks`.
    """
    if plan.rounds % config.segment:
        raise ValueError(f"segment is {config.segment}; it must divide the rounds, which are {plan.rounds}")
    env: Any = family.env
    tx, clip = optax.adam(config.learning_rate), optax.clip_by_global_norm(config.max_grad_norm)

    def way(params: Params, fast: Fast, task: FewShotTask, key: Key) -> tuple[Array, Fast]:
        experience = env.experience(task.replace(query=task.support))

        def step(fast, key):
            fast = learner.adapt(params, fast, experience, key)
            return fast, env.loss(answer(learner, env, params, fast, experience), task.support.targets)

        fast, losses = jax.lax.scan(step, fast, jax.random.split(key, config.segment))
        if config.log_floor is not None:
            losses = jnp.log(losses + config.log_floor)
        return jnp.mean(losses), fast

    def over_segment(params: Params, seen: tuple[Fast, FewShotTask, Key]) -> tuple[Array, Params, Fast]:
        """Returns loss and gradient over the tasks of all devices, and where those of this one have come to."""

        def slope(one: tuple[Fast, FewShotTask, Key]) -> tuple[Any, Fast]:
            (loss, fast), gradient = jax.value_and_grad(way, has_aux=True)(params, *one)
            gradient, _ = clip.update(gradient, clip.init(params))
            return guard.kept((loss, gradient)), fast

        if parallel.has_fixed_order():
            # a mean in a fixed order keeps nothing of single tasks: they go the same way again
            fast = parallel.chunked_vmap(lambda one: way(params, *one)[1], seen)
            said, _, _ = guard.mean_over_kept(lambda one: slope(one)[0], seen, num_tasks)
        else:
            each, fast = jax.vmap(slope)(seen)
            said, shares = parallel.task_mean(jax.tree.map(lambda leaf: jnp.mean(leaf, axis=0), each))
            said, _, _ = guard.over_kept(said, shares, num_tasks)
        return *said, fast

    def improve(params: Params, opt_state: Any, per_task: Any, step: Array) -> tuple[Params, Any, Metrics]:
        task_keys, keys = per_task
        tasks = jax.vmap(family.sample)(task_keys)

        def descend(state, index):
            params, opt_state, fast = state
            keys_now = jax.vmap(lambda key: jax.random.fold_in(key, index))(keys)
            loss, gradient, fast = over_segment(params, (fast, tasks, keys_now))
            change, opt_state = tx.update(gradient, opt_state, params)
            change = jax.tree.map(lambda leaf: leaf * remaining_share(step, config.anneal_over), change)
            metrics = {"loss": loss, "grad_norm": optax.global_norm(gradient)}
            return (optax.apply_updates(params, change), opt_state, fast), metrics

        def end(one: tuple[Fast, FewShotTask, Key]) -> tuple[Metrics, tuple[Array, Array]]:
            fast, task, key = one
            experience = env.experience(task)
            prediction = answer(learner, env, params, fast, experience)
            return guard.kept(scores(learner, env, params, experience, task, prediction, key))

        fast = jax.vmap(learner.start, (None, 0))(params, keys)
        segments = jnp.arange(1, plan.rounds // config.segment + 1)
        (params, opt_state, fast), metrics = jax.lax.scan(descend, (params, opt_state, fast), segments)
        measured, _, faulty = guard.mean_over_kept(end, (fast, tasks, keys), num_tasks)
        return params, opt_state, jax.tree.map(jnp.mean, metrics) | measured | {"faulty_tasks": faulty}

    return off_data(learner, plan, num_tasks, tx.init, improve, num_devices)
