"""Training of an update rule: its gradient is that of the loss along the way, cut at the borders of segments."""

from __future__ import annotations

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxmeta as jm
from jaxmeta import inner, nets, outer
from tests import tiny

FAMILY = tiny.waves()
NETWORK = nets.perceptron(1, 1, (3,), "tanh")
ENV = FAMILY.env
PLAN, NUM_TASKS = jm.Plan(rounds=4), 2


def learner():
    policy, loss = inner.predictor(NETWORK, ENV.split), inner.support_loss(NETWORK, ENV.split, ENV.loss)
    return inner.from_scratch(inner.descent(policy, loss, inner.per_parameter(0.1)), NETWORK.init)


def error(theta, examples):
    return jnp.mean((NETWORK.apply(theta, examples.inputs) - examples.targets) ** 2)


def unrolled(config, family=FAMILY):
    agent, source = learner(), outer.examples(PLAN)
    improve = outer.unrolled(agent, ENV, PLAN.rounds, config)
    return outer.meta_update(agent, PLAN, outer.uniform(family), source, improve, outer.Info(NUM_TASKS, PLAN))


def by_hand(rates, keys, config):
    """One update of the step sizes, a loop over segments, tasks and steps; the losses of the segments too."""
    drawn, thetas = [FAMILY.sample(key).support for key in keys[0]], [NETWORK.init(key) for key in keys[2]]
    tx = optax.adam(config.learning_rate)
    state, losses = tx.init(rates), []

    @jax.jit
    @functools.partial(jax.value_and_grad, has_aux=True)
    def way(rates, theta, support):
        total = []
        for _ in range(config.segment):
            gradient = jax.grad(error)(theta, support)
            theta = jax.tree.map(lambda leaf, rate, grad: leaf - rate * grad, theta, rates, gradient)
            total.append(error(theta, support))
        total = jnp.stack(total)
        return jnp.mean(total if config.log_floor is None else jnp.log(total + config.log_floor)), theta

    for _ in range(PLAN.rounds // config.segment):
        gradients = []
        for index, support in enumerate(drawn):
            (loss, thetas[index]), gradient = way(rates, thetas[index], support)
            length = optax.global_norm(gradient)
            shorter = min(1.0, config.max_grad_norm / float(length))
            gradients.append(jax.tree.map(lambda leaf, shorter=shorter: shorter * leaf, gradient))
            losses.append(float(loss))
        mean = jax.tree.map(lambda *leaves: sum(leaves) / len(leaves), *gradients)
        change, state = tx.update(mean, state, rates)
        rates = optax.apply_updates(rates, change)
    return rates, losses


@pytest.mark.parametrize(("segment", "log_floor"), [(4, None), (2, None), (2, 0.1)])
def test_an_update_is_that_of_a_loop(segment, log_floor):
    config = outer.UnrolledConfig(segment=segment, log_floor=log_floor, learning_rate=1e-2, max_grad_norm=0.05)
    meta = unrolled(config)
    start = meta.init(jax.random.key(0))
    after, metrics = jax.jit(meta.update)(start)
    rates, losses = by_hand(start.params.updater, tiny.keys_of(start, NUM_TASKS), config)
    chex.assert_trees_all_close(after.params.updater, rates, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(metrics["loss"], np.mean(losses), rtol=1e-5)
    assert metrics["nonfinite_tasks"] == 0.0


def test_a_function_that_diverges_is_left_out_and_counted():
    config = outer.UnrolledConfig(segment=2, learning_rate=1e-2)
    start = unrolled(config).init(jax.random.key(0))
    draws, _, others = tiny.keys_of(start, NUM_TASKS)
    after, metrics = jax.jit(unrolled(config, tiny.spoiled(FAMILY, draws[0], jnp.inf)).update)(start)
    # by hand from the finite one alone
    rates, losses = by_hand(start.params.updater, (draws[1:], None, others[1:]), config)
    chex.assert_trees_all_close(after.params.updater, rates, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(metrics["loss"], np.mean(losses), rtol=1e-5)
    assert metrics["nonfinite_tasks"] == 1.0
