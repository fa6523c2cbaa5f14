"""Update rules on a policy of three numbers: what each moves, and what meta-gradients see of it."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxmeta import inner
from jaxmeta.core.learner import adaptation_metrics

PARAMS = {"body": jnp.array([1.0, -2.0]), "ActionHead": jnp.array([0.5])}
RULES = {
    "sgd": inner.sgd(0.1),
    "per-parameter": inner.per_parameter(0.1),
    "shrinking": inner.chain(inner.per_parameter(0.1), inner.fixed(optax.scale_by_schedule(lambda count: 0.5**count))),
    "adam": inner.adam(0.1),
}


def loss(params):
    return sum(jnp.sum(leaf**3) for leaf in jax.tree.leaves(params))


def adapted(updater, params, psi=None, steps=1):
    psi = updater.init(jax.random.key(0), params) if psi is None else psi
    tx = updater.tx(psi)
    state = tx.init(params)
    for _ in range(steps):
        change, state = tx.update(jax.grad(loss)(params), state, params)
        params = optax.apply_updates(params, change)
    return params


def test_learned_step_sizes_begin_as_gradient_descent():
    one, other = (adapted(RULES[name], PARAMS) for name in ("sgd", "per-parameter"))
    for name in PARAMS:
        np.testing.assert_array_equal(one[name], other[name])


def test_gradient_of_a_step_size_is_minus_both_gradients():
    """Of the loss after one step: ∂/∂α L(θ - α ⊙ g) = -g ⊙ ∇L(θ'), as Meta-SGD has it."""
    updater = RULES["per-parameter"]
    psi = updater.init(jax.random.key(0), PARAMS)
    gradient = jax.grad(lambda psi: loss(adapted(updater, PARAMS, psi)))(psi)
    here, there = jax.grad(loss)(PARAMS), jax.grad(loss)(adapted(updater, PARAMS))
    for name in PARAMS:
        np.testing.assert_allclose(gradient[name], -here[name] * there[name], rtol=1e-6)


def test_chained_updaters_are_applied_in_order():
    once = adapted(RULES["sgd"], PARAMS)
    gradient = jax.grad(loss)(once)
    twice = adapted(RULES["shrinking"], PARAMS, steps=2)
    for name in PARAMS:
        np.testing.assert_allclose(twice[name], once[name] - 0.05 * gradient[name], rtol=1e-6)


@pytest.mark.parametrize("name", RULES)
def test_only_the_named_part_adapts(name):
    part = adapted(inner.adapt_only(RULES[name], "head"), PARAMS, steps=2)
    whole = adapted(RULES[name], PARAMS, steps=2)
    np.testing.assert_array_equal(part["body"], PARAMS["body"])
    np.testing.assert_array_equal(part["ActionHead"], whole["ActionHead"])
    assert np.abs(whole["body"] - PARAMS["body"]).min() > 0.1


def test_a_part_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match=r"no param has 'tail' or 'tip' in its path; there are ActionHead"):
        adapted(inner.adapt_only(RULES["sgd"], "tail", "tip"), PARAMS)


@pytest.mark.parametrize("name", RULES)
def test_first_order_treats_the_inner_gradient_as_a_constant(name):
    updater = inner.first_order(RULES[name])
    psi = updater.init(jax.random.key(0), PARAMS)
    gradient = jax.grad(lambda params: loss(adapted(updater, params, psi)))(PARAMS)
    there = jax.grad(loss)(adapted(updater, PARAMS, psi))
    for name in PARAMS:
        np.testing.assert_allclose(gradient[name], there[name], rtol=1e-6)


def test_bounded_clips_and_counts_long_steps_only():
    updater = inner.bounded(RULES["sgd"], 1.5)
    tx = updater.tx(updater.init(jax.random.key(0), PARAMS))
    state = tx.init(PARAMS)
    gradient = {"body": jnp.array([30.0, 0.0]), "ActionHead": jnp.array([40.0])}
    step, state = tx.update(gradient, state, PARAMS)
    np.testing.assert_allclose(step["body"], [-0.9, 0.0], rtol=1e-6)
    np.testing.assert_allclose(step["ActionHead"], [-1.2], rtol=1e-6)
    short = jax.tree.map(lambda leaf: leaf / 100.0, gradient)
    step, state = tx.update(short, state, PARAMS)
    np.testing.assert_allclose(step["ActionHead"], [-0.04], rtol=1e-6)
    assert adaptation_metrics(state) == {"bounded_steps": 0.5}
    assert adaptation_metrics(RULES["sgd"].tx(()).init(PARAMS)) == {}


@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_meta_gradients_through_a_bound_are_finite_where_the_gradient_is_zero(name):
    """Where optax's own clipping by the global norm, or Adam as it comes, are NaN."""
    updater = inner.bounded(RULES[name], 1.0)
    still = jax.tree.map(jnp.zeros_like, PARAMS)
    gradient = jax.grad(lambda params: loss(adapted(updater, params)) + jnp.sum(params["body"]))(still)
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    np.testing.assert_allclose(gradient["body"], 1.0)
