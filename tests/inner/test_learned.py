"""Learned update rules: they begin as plain descent, and a recurrent one remembers, coordinate by coordinate."""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmeta import inner, nets, outer
from tests import tiny

FAMILY = tiny.waves()
ENV = FAMILY.env
NETWORK = nets.perceptron(1, 1, (5, 3))
POLICY, LOSS = inner.predictor(NETWORK, ENV.split), inner.support_loss(NETWORK, ENV.split, ENV.loss)
LSTM = nets.coordinatewise_lstm((4, 3))
RULES = {
    "kronecker": inner.kronecker(0.1),
    "block-diagonal": inner.block_diagonal(0.1, size=4),
    "recurrent": inner.recurrent(LSTM, inner.sgd(0.1)),
}


def meta_gradient(rule):
    learner = inner.descent(POLICY, LOSS, rule)
    key = jax.random.key(3)

    @jax.jit
    def begun():
        params, task = learner.init(jax.random.key(0)), FAMILY.sample(jax.random.key(1))
        # the same policy for all rules
        return params.replace(policy=NETWORK.init(jax.random.key(2))), task

    params, task = begun()
    fast = jax.jit(lambda params, task: outer.adapted(learner, params, lambda index: ENV.experience(task), key, 2))
    gradient, _ = jax.jit(jax.grad(outer.query_loss(learner, ENV, 2), has_aux=True))(params, task, key)
    return fast(params, task).policy, gradient


@pytest.fixture(scope="module")
def by_sgd():
    return meta_gradient(inner.sgd(0.1))


@pytest.mark.parametrize("name", RULES)
def test_a_rule_begins_as_maml_and_learns_otherwise(name, by_sgd):
    adapted, gradient = meta_gradient(RULES[name])
    chex.assert_trees_all_equal(adapted, by_sgd[0])
    # the LSTM sees the gradient, but its output is not connected at first
    chex.assert_trees_all_close(gradient.policy, by_sgd[1].policy, rtol=1e-5, atol=1e-6)
    flat_gradient = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(gradient.updater)])
    assert np.isfinite(flat_gradient).all() and np.abs(flat_gradient).max() > 1e-4


def test_a_preconditioner_mixes_within_its_layer_alone():
    gradient = {"kernel": jnp.arange(6.0).reshape(2, 3), "bias": jnp.array([1.0, -1.0, 2.0])}
    left, right = jnp.array([[1.0, 2.0], [0.0, 1.0]]), jnp.diag(jnp.array([1.0, 3.0, 1.0]))
    psi = {"kernel": (left, right), "bias": (jnp.eye(1), right)}
    tx = inner.kronecker(0.5).tx(psi)
    step, _ = tx.update(gradient, tx.init(gradient))
    np.testing.assert_allclose(step["kernel"], -0.5 * left @ gradient["kernel"] @ right)
    np.testing.assert_allclose(step["bias"], [-0.5, 1.5, -1.0])
    tx = inner.block_diagonal(0.5, size=2).tx({"kernel": jnp.ones((3, 2, 2)), "bias": jnp.tile(jnp.eye(2), (2, 1, 1))})
    step, _ = tx.update(gradient, tx.init(gradient))
    np.testing.assert_allclose(step["kernel"].ravel(), [-0.5, -0.5, -2.5, -2.5, -4.5, -4.5])
    np.testing.assert_allclose(step["bias"], [-0.5, 0.5, -1.0])


@pytest.mark.parametrize("name", RULES)
def test_a_rule_takes_params_of_any_shape(name):
    params = {"scalar": jnp.float32(2.0), "convolution": jnp.ones((2, 3, 4))}
    tx = RULES[name].tx(RULES[name].init(jax.random.key(0), params))
    step, _ = tx.update(params, tx.init(params), params)
    chex.assert_trees_all_close(step, jax.tree.map(lambda leaf: -0.1 * leaf, params), rtol=1e-6)


def test_a_recurrent_rule_resizes_the_nominal_step_and_adds_to_it():
    said = jnp.array([[0.5, -1.0], [-2.0, 3.0]])
    network = nets.Coordinatewise(lambda key: (), lambda size: (), lambda psi, state, gradient: (state, said))
    tx = inner.recurrent(network, inner.sgd(0.1), scale=0.2).tx(())
    gradient = jnp.array([1.0, -4.0])
    step, _ = tx.update(gradient, tx.init(gradient))
    np.testing.assert_allclose(step, [np.exp(0.5) * -0.1 - 0.2, np.exp(-2.0) * 0.4 + 0.6], rtol=1e-6)


def recurrent_steps(gradients):
    """Steps of a rule whose output is connected."""
    psi = jax.tree.map(lambda leaf: leaf + 0.3, LSTM.init(jax.random.key(0)))
    tx = inner.recurrent(LSTM, inner.sgd(0.1)).tx(psi)
    state, steps = tx.init(gradients[0]), []
    for gradient in gradients:
        step, state = tx.update(gradient, state)
        steps.append(step)
    return steps


def test_permuted_coordinates_give_permuted_steps():
    gradients, order = list(jax.random.normal(jax.random.key(0), (3, 6))), np.array([3, 0, 5, 1, 4, 2])
    straight, permuted = recurrent_steps(gradients), recurrent_steps([one[order] for one in gradients])
    np.testing.assert_allclose(np.stack(straight)[:, order], np.stack(permuted), rtol=1e-5, atol=1e-7)


def test_optimiser_state_persists_across_steps_and_is_reset_for_each_task():
    gradient = jnp.array([1.0, -0.5])
    first, second = recurrent_steps([gradient, gradient])
    assert np.abs(first - second).min() > 1e-4
    np.testing.assert_array_equal(first, recurrent_steps([gradient])[0])


@pytest.mark.parametrize("gradient", [0.0, 1e-30, -1e-5, 1e3])
def test_the_encoding_of_a_gradient_is_bounded_and_differentiable(gradient):
    from jaxmeta.nets.coordinatewise import encode_gradient

    value, tangent = jax.jvp(encode_gradient, (jnp.array([gradient]),), (jnp.ones(1),))
    assert np.isfinite(tangent).all() and np.abs(value).max() <= 1.0
