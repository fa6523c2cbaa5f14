from __future__ import annotations

import distrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmeta import nets

GAUSSIAN = nets.Gaussian(loc=jnp.array([0.3, -0.8]), log_scale=jnp.array([-0.5, 0.2]))
OTHER = nets.Gaussian(loc=jnp.array([-0.2, 0.1]), log_scale=jnp.array([0.1, -0.4]))


def by_distrax(gaussian, scale):
    """The same distribution out of distrax's parts: tanh, then times `scale`."""
    normal = distrax.Normal(gaussian.loc, jnp.exp(gaussian.log_scale))
    press = distrax.Chain([distrax.ScalarAffine(0.0, scale), distrax.Tanh()])
    return distrax.Independent(distrax.Transformed(normal, press), 1)


@pytest.mark.parametrize("scale", [1.0, 0.1])
def test_the_density_is_that_of_distrax(scale):
    dist = nets.SquashedGaussian(GAUSSIAN, scale)
    action = scale * jnp.tanh(jax.random.normal(jax.random.key(0), (50, 2)))
    np.testing.assert_allclose(
        dist.log_prob(action), by_distrax(GAUSSIAN, scale).log_prob(action), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("scale", [1.0, 0.1])
def test_density_integrates_to_one_over_the_box(scale):
    dist = nets.SquashedGaussian(nets.Gaussian(jnp.array([0.4]), jnp.array([-0.3])), scale)
    middle = scale * (np.arange(20_000) + 0.5 - 10_000) / 10_000
    mass = np.mean(np.exp(dist.log_prob(middle[:, None]))) * 2 * scale
    np.testing.assert_allclose(mass, 1.0, atol=1e-4)


def test_sample_and_log_prob_returns_the_density_of_the_sample():
    dist = nets.SquashedGaussian(GAUSSIAN, 0.1)
    key = jax.random.key(3)
    action, log_prob = dist.sample_and_log_prob(key)
    np.testing.assert_array_equal(action, dist.sample(seed=key))
    np.testing.assert_allclose(log_prob, dist.log_prob(action), rtol=1e-4)


def test_samples_follow_the_density():
    """The mass below the actions of a normal's quantiles is that of the quantiles."""
    dist = nets.SquashedGaussian(jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (20_000, 2)), GAUSSIAN), 0.1)
    action, log_prob = dist.sample_and_log_prob(jax.random.key(0))
    assert action.shape == (20_000, 2) and log_prob.shape == (20_000,)
    for quantile, mass in ((-1.0, 0.158655), (0.0, 0.5), (1.0, 0.841345)):
        bound = 0.1 * np.tanh(GAUSSIAN.loc + quantile * np.exp(GAUSSIAN.log_scale))
        np.testing.assert_allclose(np.mean(action < bound, axis=0), mass, atol=0.015)


@pytest.mark.parametrize("loc", [40.0, -40.0, 9.0])
def test_densities_and_their_gradients_are_finite_at_the_edge(loc):
    gaussian = nets.Gaussian(jnp.array([loc]), jnp.array([0.0]))
    key = jax.random.key(0)

    def log_prob(gaussian):
        return nets.SquashedGaussian(gaussian, 0.1).sample_and_log_prob(key)[1]

    action, _ = nets.SquashedGaussian(gaussian, 0.1).sample_and_log_prob(key)
    np.testing.assert_allclose(jnp.abs(action), 0.1, rtol=1e-5)
    # log(1 - tanh²u) is log 4 - 2|u| out there: no density is lost to rounding
    before = loc + jax.random.normal(key, (1,))
    expected = -0.5 * (before - loc) ** 2 - 0.5 * np.log(2 * np.pi) - (np.log(4.0) - 2 * np.abs(before)) - np.log(0.1)
    np.testing.assert_allclose(log_prob(gaussian), expected[0], rtol=1e-4)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(jax.grad(log_prob)(gaussian)))
    assert np.isfinite(nets.SquashedGaussian(gaussian, 0.1).log_prob(jnp.sign(action) * 0.1))


def test_divergence_is_the_mean_difference_of_log_densities():
    dist, other = nets.SquashedGaussian(GAUSSIAN, 0.5), nets.SquashedGaussian(OTHER, 0.5)
    keys = jax.random.split(jax.random.key(0), 20_000)

    def difference(key):
        action, log_prob = dist.sample_and_log_prob(key)
        return log_prob - other.log_prob(action)

    sampled = jax.vmap(difference)(keys)
    np.testing.assert_allclose(dist.kl_divergence(other), sampled.mean(), atol=4 * float(sampled.std()) / 141)
    assert dist.kl_divergence(dist) == 0.0


def test_the_mode_is_the_squashed_mean_and_lies_in_the_box():
    dist = nets.SquashedGaussian(nets.Gaussian(jnp.array([0.3, 50.0]), jnp.zeros(2)), 0.1)
    np.testing.assert_allclose(dist.mode(), [0.1 * np.tanh(0.3), 0.1], rtol=1e-6)


def test_entropy_raises_as_it_has_no_closed_form():
    with pytest.raises(NotImplementedError, match="average -log_prob over samples"):
        nets.SquashedGaussian(GAUSSIAN, 1.0).entropy()
