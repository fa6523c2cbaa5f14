"""Checks of single parts: update rules, aggregates and samplers."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxmeta import devices, inner, nets, outer
from jaxmeta.core.checkpoint import keys_as_data
from jaxmeta.core.contracts import require, same_form
from jaxmeta.core.rollout import collect
from jaxmeta.devices import Execution
from jaxmeta.tasks.base import TaskFamily
from jaxmeta.testing.comparing import all_close, traced_alike
from jaxmeta.types import (
    Key,
    Metrics,
    Params,
    Plan,
    Task,
)


def check_updater(updater: inner.Updater, params: Params | None = None, key: Key | None = None) -> None:
    """Checks an inner update rule.

    Its transformation must keep the structure of its state and the form of the params, and the meta-gradient through
    two of its steps must be finite, also where the gradient of the inner loss is zero.

    Args:
      params: the adapted params; by default a kernel and a bias named like those of the last layer of `jaxmeta.nets`.
    """
    key = jax.random.key(0) if key is None else key
    if params is None:
        kernel = jnp.linspace(-1.0, 1.0, 6).reshape(3, 2)
        params = {"params": {"_ActionHead_0": {"Dense_0": {"kernel": kernel, "bias": jnp.ones(2)}}}}
    psi = updater.init(key, params)
    state = jax.eval_shape(lambda psi: updater.tx(psi).init(params), psi)
    updates, next_state = jax.eval_shape(lambda psi, state: updater.tx(psi).update(params, state, params), psi, state)
    same_form("the updates of updater.tx", updates, "the params", params)
    same_form("the state after updater.tx.update", next_state, "the state after updater.tx.init", state)

    def after_two_steps(learned: tuple[Params, Params], target: Params) -> jax.Array:
        theta, psi = learned
        tx = updater.tx(psi)
        state = tx.init(theta)
        for _ in range(2):
            gradient = jax.tree.map(lambda leaf, end: leaf - end, theta, target)
            updates, state = tx.update(gradient, state, theta)
            theta = jax.tree.map(jnp.add, theta, updates)
        return sum((jnp.sum(jnp.square(leaf + 1.0)) for leaf in jax.tree.leaves(theta)), jnp.zeros(()))

    traced_alike("updater.tx", after_two_steps, (params, psi), params)
    meta_gradient = jax.jit(jax.grad(after_two_steps))
    for where, target in (("", jax.tree.map(jnp.zeros_like, params)), (" where the inner gradient is zero", params)):
        for path, leaf in jax.tree.leaves_with_path(meta_gradient((params, psi), target)):
            name = ("the params", "ψ")[path[0].idx] + jax.tree_util.keystr(path[1:])
            require(bool(jnp.isfinite(leaf).all()), f"the meta-gradient of {name} is not finite{where}")


def check_aggregate(aggregate: outer.Aggregate, key: Key | None = None, tolerance: float = 1e-5) -> None:
    """Checks an aggregate, which combines the gradients of several tasks.

    The gradient must have the structure and shapes of the params, and metrics must be scalars. A task of weight zero
    must have no effect. The number of devices, and the number of tasks that one device differentiates in parallel, must
    make no difference beyond rounding. To compare several devices on a CPU, call `jm.use_cpu_cores(2)` before JAX is
    initialised; with one device the check warns.

    Args:
      tolerance: largest difference, relative and absolute.
    """
    key = jax.random.key(0) if key is None else key
    params = {"kernel": jnp.linspace(-1.0, 1.0, 6).reshape(3, 2), "bias": jnp.ones(2)}
    data = {"kernel": jnp.arange(24.0).reshape(4, 3, 2) / 10.0, "bias": jnp.arange(8.0).reshape(4, 2)}

    def loss(params: Params, data: Params, key: Key) -> tuple[jax.Array, Metrics]:
        terms = jax.tree.map(lambda leaf, end: jnp.sum(jnp.square(leaf - end)), params, data)
        return terms["kernel"] + terms["bias"], {"bias": terms["bias"]}

    @functools.cache
    def program(piece: int | None) -> Callable[..., Any]:
        def on_device(params: Params, batch: outer.Batch) -> tuple[Any, jax.Array]:
            found = aggregate(loss, params, batch, piece)
            return found[:3], found.weight

        return jax.jit(lambda *all: devices.over_tasks(on_device, *all))

    def run(data: Params, weight: jax.Array, piece: int | None = None, num_devices: int | None = 1) -> outer.Gradient:
        batch = outer.Batch(data, jax.random.split(key, 4)[: len(weight)], weight)
        with jax.set_mesh(Execution(num_devices).mesh(len(weight))):
            shared, weight = program(piece)(params, batch)
        value, gradient, metrics = shared
        return outer.Gradient(value, gradient, metrics, weight)

    ones, some = jnp.ones(4), jnp.array([1.0, 2.0, 0.0, 1.0])
    found = run(data, ones)
    same_form("the gradient of the aggregate", found.gradient, "the params", params)
    require(found.loss.shape == (), f"the loss of the aggregate has shape {list(found.loss.shape)}; it is a scalar")
    require(found.weight.shape == (4,), f"the weight of 4 tasks has shape {list(found.weight.shape)}; it must be [4]")
    for name, value in found.metrics.items():
        require(value.shape == (), f"metric {name!r} has shape {list(value.shape)}; metrics are scalars")
    found = run(data, some)
    require(float(found.weight[2]) == 0.0, "a task with weight 0 has a weight in the aggregate")
    other = jax.tree.map(lambda leaf: leaf.at[2].multiply(-3.0), data)
    what = "the gradient with another task of weight 0"
    all_close(what, run(other, some).gradient, found.gradient, "the gradient", tolerance)
    rest = jnp.array([0, 1, 3])
    without = run(jax.tree.map(lambda leaf: leaf[rest], data), some[rest])
    what = "the gradient with a task of weight 0"
    all_close(what, found.gradient, without.gradient, "that without this task", tolerance)
    all_close("the aggregate in pieces of 2", run(data, some, piece=2), found, "that of 4 in parallel", tolerance)
    if Execution().mesh(4).size > 1:
        spread = run(data, some, num_devices=None)
        all_close("the aggregate on several devices", spread, found, "that on one", tolerance)
    else:
        warnings.warn("check_aggregate: there is one device, so several were not compared with it", stacklevel=2)


def check_sampler(sampler: outer.Sampler, family: TaskFamily, num_tasks: int = 4, key: Key | None = None) -> None:
    """Checks the draws and the state of a sampler.

    A draw must hold tasks with the structure of the family's, and a slot and a weight for each. Drawing and scoring
    must keep the structure of the sampler's state, which must stay finite after a non-finite task. The check scores
    trials of a memoryless policy.

    Args:
      num_tasks: tasks of an update.
    """
    key = jax.random.key(0) if key is None else key
    init_key, policy_key, trial_key = jax.random.split(key, 3)
    spec, plan = family.env.spec, Plan()
    learner = inner.memory(nets.actor_critic(spec, (4,)))
    params, state, keys = learner.init(policy_key), sampler.init(init_key), jax.random.split(key, num_tasks)
    traced_alike("sampler.sample", sampler.sample, state, params, keys)
    drawn_state, draw = jax.jit(sampler.sample)(state, params, keys)
    same_form("the state after sampler.sample", drawn_state, "the state after sampler.init", state)
    task = jax.eval_shape(family.sample, key)
    expected = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((num_tasks, *leaf.shape), leaf.dtype), task)
    same_form("draw.tasks", draw.tasks, f"a batch of {num_tasks} tasks of the family", expected)
    for name, dtype in (("slot", jnp.int32), ("weight", jnp.float32)):
        right = jax.ShapeDtypeStruct((num_tasks,), dtype)
        same_form(f"draw.{name}", getattr(draw, name), f"one for each of {num_tasks} tasks", right)
    weights = np.asarray(draw.weight)
    require(bool((np.isfinite(weights) & (weights >= 0)).all()), "draw.weight has negative or non-finite weights")

    def score(task: Task, key: Key) -> Any:
        return sampler.score(params, collect(learner, params, family.env, task, key, plan))

    scores = jax.jit(jax.vmap(score))(draw.tasks, jax.random.split(trial_key, num_tasks))
    for leaf in jax.tree.leaves(scores):
        shape = list(leaf.shape[1:])
        require(not shape, f"sampler.score gives a score of shape {shape}; the score of a task is a scalar")
    finite = jnp.arange(num_tasks) > 0
    spoiled = jax.tree.map(lambda leaf: jnp.where(finite, leaf, jnp.nan), scores)
    next_state, metrics = jax.jit(sampler.update)(drawn_state, draw, spoiled, finite)
    same_form("the state after sampler.update", next_state, "the state after sampler.sample", drawn_state)
    for path, leaf in jax.tree.leaves_with_path(keys_as_data(next_state)):
        where = jax.tree_util.keystr(path)
        require(
            bool(jnp.isfinite(leaf).all()), f"the sampler's state{where} is not finite after a task that was not finite"
        )
    for name, value in metrics.items():
        require(value.shape == (), f"metric {name!r} has shape {list(value.shape)}; metrics are scalars")
