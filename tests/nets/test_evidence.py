"""What is believed of a task: order, portions, nothing, and what must leave no trace."""

from __future__ import annotations

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmeta import nets

SIZE, LATENT = 4, 3
PRODUCT = nets.product_encoder(SIZE, LATENT, (8,))
RECURRENT = nets.recurrent_encoder(SIZE, LATENT, 8)
BOTH = pytest.mark.parametrize("encoder", [PRODUCT, RECURRENT], ids=["product", "recurrent"])
ROWS = jax.random.normal(jax.random.key(1), (6, SIZE))
ALL = jnp.ones(6)


@functools.cache
def params_of(encoder):
    return encoder.init(jax.random.key(0))


@functools.partial(jax.jit, static_argnums=0)
def infer(encoder, rows, valid, params=None):
    params = params_of(encoder) if params is None else params
    return encoder.belief(params, encoder.add(params, encoder.start(), rows, valid))


@BOTH
def test_without_experience_the_belief_is_exactly_the_prior(encoder):
    params = params_of(encoder)
    for evidence in (encoder.start(), encoder.add(params, encoder.start(), ROWS, 0 * ALL)):
        belief = encoder.belief(params, evidence)
        np.testing.assert_array_equal(belief.mean, np.zeros(LATENT))
        np.testing.assert_array_equal(belief.variance, np.ones(LATENT))
        assert belief.kl_from_prior() == 0.0


def test_the_product_is_that_of_its_gaussian_factors():
    params = params_of(PRODUCT)
    alone = [infer(PRODUCT, row[None], jnp.ones(1), params) for row in ROWS]
    precision = sum(1 / factor.variance for factor in alone)
    mean = sum(factor.mean / factor.variance for factor in alone) / precision
    together = infer(PRODUCT, ROWS, ALL, params)
    np.testing.assert_allclose(together.variance, 1 / precision, rtol=1e-5)
    np.testing.assert_allclose(together.mean, mean, rtol=1e-4, atol=1e-6)


def test_the_encoder_outputs_a_variance_and_not_a_standard_deviation():
    """With no hidden layer and a zero kernel, a factor is the bias: softplus(b) is its variance."""
    encoder = nets.product_encoder(SIZE, 1, ())
    params = jax.tree.map(lambda leaf: jnp.zeros_like(leaf), params_of(encoder))
    params["params"]["Dense_0"]["bias"] = jnp.array([0.7, 2.0])
    belief = infer(encoder, ROWS[:1], jnp.ones(1), params)
    np.testing.assert_allclose(belief.mean, [0.7], rtol=1e-6)
    np.testing.assert_allclose(belief.variance, [np.log1p(np.exp(2.0))], rtol=1e-6)


def test_a_factor_is_never_certain():
    """softplus(-200) is zero in float32: its precision would be infinite."""
    encoder = nets.product_encoder(SIZE, 1, ())
    params = jax.tree.map(lambda leaf: jnp.zeros_like(leaf), params_of(encoder))
    params["params"]["Dense_0"]["bias"] = jnp.array([0.7, -200.0])
    belief = infer(encoder, ROWS[:2], jnp.ones(2), params)
    np.testing.assert_allclose((belief.mean, belief.variance), ([0.7], [0.5e-7]), rtol=1e-5)


def test_samples_have_the_standard_deviation_of_the_belief():
    belief = nets.Belief(mean=jnp.array([1.0, -2.0]), variance=jnp.array([4.0, 0.25]))
    draws = jax.vmap(belief.sample)(jax.random.split(jax.random.key(0), 20_000))
    np.testing.assert_allclose(draws.mean(0), [1.0, -2.0], atol=0.06)
    np.testing.assert_allclose(draws.std(0), [2.0, 0.5], rtol=0.03)


def test_divergence_from_the_prior_is_that_of_distrax_summed_over_dimensions():
    import distrax

    belief = nets.Belief(mean=jnp.array([[1.0, -2.0], [0.0, 0.3]]), variance=jnp.array([[4.0, 0.25], [1.0, 0.5]]))
    expected = distrax.Normal(belief.mean, jnp.sqrt(belief.variance)).kl_divergence(distrax.Normal(0.0, 1.0)).sum(-1)
    np.testing.assert_allclose(belief.kl_from_prior(), expected, rtol=1e-5)


def test_the_order_of_a_product_does_not_matter_and_that_of_a_recurrent_encoder_does():
    shuffled = ROWS[jnp.array([3, 0, 5, 1, 4, 2])]
    chex.assert_trees_all_close(infer(PRODUCT, shuffled, ALL), infer(PRODUCT, ROWS, ALL), rtol=1e-5, atol=1e-6)
    one, other = infer(RECURRENT, ROWS, ALL), infer(RECURRENT, shuffled, ALL)
    assert np.abs(one.mean - other.mean).max() > 1e-3
    assert RECURRENT.ordered and not PRODUCT.ordered


@BOTH
def test_updating_in_two_steps_equals_updating_at_once(encoder):
    params = params_of(encoder)
    halves = encoder.add(params, encoder.start(), ROWS[:2], ALL[:2])
    halves = encoder.add(params, halves, ROWS[2:], ALL[2:])
    chex.assert_trees_all_close(halves, encoder.add(params, encoder.start(), ROWS, ALL), rtol=1e-5, atol=1e-6)


def test_duplicated_evidence_doubles_the_precision_and_keeps_the_mean():
    once, twice = infer(PRODUCT, ROWS, ALL), infer(PRODUCT, jnp.tile(ROWS, (2, 1)), jnp.ones(12))
    np.testing.assert_allclose(twice.variance, once.variance / 2, rtol=1e-5)
    np.testing.assert_allclose(twice.mean, once.mean, rtol=1e-4, atol=1e-6)


@BOTH
def test_invalid_steps_do_not_change_the_belief(encoder):
    valid = jnp.array([1.0, 0.0, 1.0, 1.0, 0.0, 0.0])
    expected = infer(encoder, ROWS[jnp.array([0, 2, 3])], jnp.ones(3))
    chex.assert_trees_all_close(infer(encoder, ROWS, valid), expected, rtol=1e-5, atol=1e-6)
    wild = jnp.where(valid[:, None] > 0, ROWS, 1e6)
    chex.assert_trees_all_equal(infer(encoder, wild, valid), infer(encoder, ROWS, valid))


@BOTH
@pytest.mark.parametrize("valid", [0.0, 1.0])
def test_gradients_are_finite_with_and_without_experience(encoder, valid):
    def loss(params):
        belief = infer(encoder, ROWS, valid * ALL, params)
        return belief.kl_from_prior() + jnp.sum(belief.sample(jax.random.key(0)) ** 2)

    gradient = jax.tree.leaves(jax.jit(jax.grad(loss))(params_of(encoder)))
    assert all(np.isfinite(leaf).all() for leaf in gradient)
    # the prior is nobody's: without experience there is nothing to learn from
    assert (max(np.abs(leaf).max() for leaf in gradient) > 0) == bool(valid)


def test_no_evidence_has_a_latent_of_size_zero():
    encoder = nets.no_evidence()
    belief = infer(encoder, ROWS, ALL)
    assert belief.sample(jax.random.key(0)).shape == (encoder.size,) == (0,)
    assert belief.kl_from_prior() == 0.0
