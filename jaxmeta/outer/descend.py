"""Gradient descent on an aggregate of the tasks' gradients, and combinators of improvements."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxmeta.outer.aggregates import Aggregate, Loss, mean
from jaxmeta.outer.meta_update import Batch, Improve
from jaxmeta.outer.regularise import RegularisationConfig, regularised
from jaxmeta.types import Array, Metrics, Params


class Minibatches(NamedTuple):
    """Splits a batch into minibatches, one per gradient step."""

    deal: Callable[[Batch], Any]
    """batch -> the indices, or keys, of the minibatch of each step: leaves [steps, ...]."""
    take: Callable[[Batch, Any], Batch]
    """(batch, one entry of `deal`) -> the minibatch of that step."""


def whole(steps: int = 1) -> Minibatches:
    """Takes every step on the whole batch."""
    return Minibatches(deal=lambda batch: jnp.zeros(steps), take=lambda batch, _: batch)


def shuffled(epochs: int, parts: int) -> Minibatches:
    """Takes `parts` steps per epoch, on random minibatches of the tasks.

    Of every `parts` neighbouring tasks, each minibatch gets one. Tasks are i.i.d., so this mixes as well as a full
    shuffle, and it does not depend on how they are sharded over devices.
    """

    def deal(batch: Batch) -> Array:
        def members(epoch: Array) -> Array:
            draws = jax.vmap(lambda key: jax.random.uniform(jax.random.fold_in(key, epoch)))(batch.keys)
            deal = jnp.argsort(draws.reshape(-1, parts), axis=1)
            return (deal + parts * jnp.arange(deal.shape[0])[:, None]).T

        return jax.vmap(members)(jnp.arange(epochs)).reshape(epochs * parts, -1)

    return Minibatches(deal, take=lambda batch, members: jax.tree.map(lambda leaf: leaf[members], batch))


def descend(
    loss: Loss,
    tx: optax.GradientTransformation,
    aggregate: Aggregate = mean(),
    minibatches: Minibatches = whole(),
    piece: Callable[[Params, Any], int | None] = lambda params, data: None,
    *,
    bind: Callable[[Loss, Any], Loss] = lambda loss, opt_state: loss,
    average: bool = False,
) -> Improve:
    """Takes gradient steps on the aggregate of a per-task loss.

        improve = outer.descend(loss, optax.adam(1e-3), outer.masked())

    Args:
      loss: (params, data of one task, key) -> (scalar, metrics).
      tx: the optimiser.
      aggregate: combines the gradients of the tasks.
      minibatches: the minibatch of each step.
      piece: (params, data [n, ...]) -> tasks that one device differentiates in parallel; None takes all.
      bind: (loss, opt_state) -> loss, for a loss that depends on the optimiser state, such as on target networks.
      average: whether metrics are means over the steps; else they are those of the last step.
    """

    def step(params: Params, opt_state: Any, batch: Batch, updates: Array) -> tuple[Params, Any, Metrics]:
        def one(state: tuple[Params, Any], taken: Any) -> tuple[tuple[Params, Any], Metrics]:
            params, opt_state = state
            some = minibatches.take(batch, taken)
            found = aggregate(bind(loss, opt_state), params, some, piece(params, some.data))
            change, opt_state = tx.update(found.gradient, opt_state, params)
            metrics = found.metrics | {"grad_norm": optax.global_norm(found.gradient)}
            return (optax.apply_updates(params, change), opt_state), metrics

        steps = minibatches.deal(batch)
        if jax.tree.leaves(steps)[0].shape[0] == 1:  # avoids the overhead of a loop
            (params, opt_state), metrics = one((params, opt_state), jax.tree.map(lambda leaf: leaf[0], steps))
            return params, opt_state, metrics
        (params, opt_state), metrics = jax.lax.scan(one, (params, opt_state), steps)
        return params, opt_state, jax.tree.map(lambda leaf: leaf.mean(0) if average else leaf[-1], metrics)

    return Improve(tx.init, step)


def optimiser(
    learning_rate: float,
    anneal_over: int | None = None,
    steps: int = 1,
    first: int = 0,
    max_grad_norm: float | None = None,
    rule: Callable[[Any], optax.GradientTransformation] = optax.adam,
    regularise: RegularisationConfig = RegularisationConfig(),
) -> optax.GradientTransformation:
    """Builds the optimiser of an outer loop.

    Args:
      anneal_over: updates over which the learning rate is annealed linearly to zero; None keeps it constant. The
        optimiser state counts them, so skipped updates do not count.
      steps: gradient steps per update.
      first: number of updates before the first gradient step.
      max_grad_norm: clips the global norm of gradients; None does not clip.
      rule: makes the transformation from a learning rate or a schedule.
      regularise: regularisation of the params, after the step of `rule`.
    """
    rate: Any = learning_rate
    if anneal_over is not None:
        share = optax.linear_schedule(1.0, 0.0, anneal_over)
        rate = lambda count: learning_rate * share(first + count // steps)  # noqa: E731
    clip = () if max_grad_norm is None else (optax.clip_by_global_norm(max_grad_norm),)
    return regularised(optax.chain(*clip, rule(rate)), rate, regularise)


def after(warmup: int, improve: Improve) -> Improve:
    """Skips an improvement during the first `warmup` updates; its metrics are zero then."""

    def step(params: Params, opt_state: Any, batch: Batch, updates: Array) -> tuple[Params, Any, Metrics]:
        return step_if(updates >= warmup, improve, params, opt_state, batch, updates)

    return Improve(improve.init, step)


def step_if(
    condition: Array, improve: Improve, params: Params, opt_state: Any, batch: Batch, updates: Array
) -> tuple[Params, Any, Metrics]:
    """Improves if a condition, the same on all devices, is true; else the metrics are zero."""
    learn = lambda: improve.step(params, opt_state, batch, updates)  # noqa: E731
    idle = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(learn)[2])
    return jax.lax.cond(condition, learn, lambda: (params, opt_state, idle))


def by_part(**parts: tuple[Improve, Callable[[Batch], Batch]]) -> Improve:
    """Improves parts of the params sequentially, each by its own optimiser.

    Args:
      parts: by field of the params, the improvement of that field and a function from the batch to its batch.
    """

    def init(params: Any) -> dict[str, Any]:
        return {name: improve.init(getattr(params, name)) for name, (improve, _) in parts.items()}

    def step(params: Any, opt_state: dict[str, Any], batch: Batch, updates: Array) -> tuple[Any, Any, Metrics]:
        states, metrics = dict(opt_state), {}
        for name, (improve, view) in parts.items():
            part, states[name], told = improve.step(getattr(params, name), states[name], view(batch), updates)
            params, metrics = params.replace(**{name: part}), metrics | told
        return params, states, metrics

    found = [(name, improve.values) for name, (improve, _) in parts.items() if improve.values is not None]
    if not found:
        return Improve(init, step)
    name, of_part = found[0]
    return Improve(init, step, values=lambda params, experience: of_part(getattr(params, name), experience))
