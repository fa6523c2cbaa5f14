"""DiCE in its forms, on streams of three steps of which one ended early."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmeta import rl

RANDOM = np.random.default_rng(0)
FEATURES, AT = jnp.asarray(RANDOM.normal(size=(3, 2, 4)), jnp.float32), jnp.asarray(RANDOM.normal(size=4), jnp.float32)
VALID = jnp.array([[1.0, 1.0], [1.0, 1.0], [1.0, 0.0]])
REWARD = jnp.asarray(RANDOM.normal(size=(3, 2)), jnp.float32) * VALID


def of_params(objective, advantage):
    """An objective as a function of four params, at the behaviour policy."""

    def loss(theta):
        log_prob = jnp.tanh(FEATURES) @ jnp.sin(theta)
        return objective(log_prob, jax.lax.stop_gradient(log_prob), advantage, VALID)

    return loss


def boxed_rewards(log_prob, behaviour_log_prob, reward, valid):
    """DiCE as its paper has it: every reward times the magic box of the actions up to it."""
    past = jnp.cumsum(log_prob * valid, 0)
    return -rl.masked_mean(jnp.exp(past - jax.lax.stop_gradient(past)) * reward, valid)


@pytest.mark.parametrize("derivative", [jax.grad, jax.hessian])
def test_dice_on_returns_is_the_sum_of_boxed_rewards(derivative):
    to_go = jnp.cumsum(REWARD[::-1], 0)[::-1]
    ours, papers = of_params(rl.dice, to_go), of_params(boxed_rewards, REWARD)
    np.testing.assert_allclose(derivative(ours)(AT), derivative(papers)(AT), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("derivative", [lambda loss: loss, jax.grad, jax.hessian])
def test_loaded_dice_that_forgets_at_once_is_the_ratio(derivative):
    loaded, ratio = (of_params(objective, REWARD) for objective in (rl.loaded_dice(0.0), rl.ratio))
    np.testing.assert_allclose(derivative(loaded)(AT), derivative(ratio)(AT), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("decay", [0.0, 0.5, 1.0])
def test_forgetting_changes_the_second_derivative_alone(decay):
    loaded, ratio = (of_params(objective, REWARD) for objective in (rl.loaded_dice(decay), rl.ratio))
    np.testing.assert_allclose(loaded(AT), ratio(AT), rtol=1e-6)
    np.testing.assert_allclose(jax.grad(loaded)(AT), jax.grad(ratio)(AT), rtol=1e-4, atol=1e-6)
    far = np.abs(jax.hessian(loaded)(AT) - jax.hessian(ratio)(AT)).max() > 1e-3
    assert far == (decay > 0)
