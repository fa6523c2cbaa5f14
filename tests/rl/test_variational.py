from __future__ import annotations

import itertools

import distrax
import jax
import jax.numpy as jnp
import numpy as np
from jax.test_util import check_grads

from jaxmeta import rl

KEY = jax.random.key(0)


def gaussians(count, size=3, key=KEY):
    mean_key, var_key = jax.random.split(key)
    return jax.random.normal(mean_key, (count, size)), jax.random.normal(var_key, (count, size))


def as_distrax(mean, log_var):
    return distrax.MultivariateNormalDiag(mean, jnp.exp(0.5 * log_var))


def test_kl_is_that_of_distrax():
    mean, log_var = gaussians(6)
    kl = rl.gaussian_kl(mean[:3], log_var[:3], mean[3:], log_var[3:])
    expected = as_distrax(mean[:3], log_var[:3]).kl_divergence(as_distrax(mean[3:], log_var[3:]))
    np.testing.assert_allclose(kl, expected, rtol=1e-5)


def test_kl_of_a_scalar_in_closed_form():
    # KL(N(1, 4) || N(0, 1)) = (4 + 1 - 1 - log 4) / 2, and the deviation is 2, not 4
    kl = rl.gaussian_kl(jnp.ones(1), jnp.log(4.0 * jnp.ones(1)), jnp.zeros(1), jnp.zeros(1))
    np.testing.assert_allclose(kl, 2.0 - np.log(2.0), rtol=1e-6)


def test_the_chain_begins_at_the_standard_normal_and_goes_on_from_each_posterior():
    mean, log_var = gaussians(5)
    chain = [as_distrax(jnp.zeros(3), jnp.zeros(3)), *(as_distrax(*one) for one in zip(mean, log_var, strict=True))]
    expected = [after.kl_divergence(before) for before, after in itertools.pairwise(chain)]
    np.testing.assert_allclose(rl.chain_kl(mean, log_var), expected, rtol=1e-5)


def test_kl_of_an_unchanged_belief_is_zero():
    mean, log_var = gaussians(1)
    kl = rl.chain_kl(jnp.repeat(mean, 3, 0), jnp.repeat(log_var, 3, 0))
    np.testing.assert_array_equal(kl[1:], 0.0)
    np.testing.assert_array_equal(rl.chain_kl(jnp.zeros((2, 3)), jnp.zeros((2, 3))), 0.0)


def test_gradients_of_the_chain_are_those_of_differences():
    mean, log_var = gaussians(4, size=2)
    check_grads(lambda *chain: rl.chain_kl(*chain).sum(), (mean, log_var), order=1, modes=["rev"], rtol=2e-2)


def test_sums_equal_a_loop_that_skips_gaps():
    random = np.random.default_rng(0)
    valid = np.array([1.0, 1.0, 0.0, 1.0])
    likelihood, kl = random.normal(size=(5, 4)), random.random(5)
    total, divergence = 0.0, 0.0
    for posterior in range(5):
        if posterior and not valid[posterior - 1]:
            continue
        divergence += kl[posterior]
        total += sum(likelihood[posterior, step] for step in range(4) if valid[step])
    sums = rl.elbo_sums(*map(jnp.asarray, (likelihood, kl, valid)))
    np.testing.assert_allclose(sums, (total, divergence), rtol=1e-5)
