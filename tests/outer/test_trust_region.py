from __future__ import annotations

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import jaxmeta as jm
from jaxmeta.core.rollout import collect, replay_last
from jaxmeta.outer.trust_region import (
    TrustRegionConfig,
    TrustRegionCriticConfig,
    conjugate_gradient,
    curvature,
    line_search,
    natural_step,
)
from jaxmeta.rl import masked_mean
from tests import tiny


@pytest.fixture(scope="module")
def quadratic():
    """A linear loss gᵀx and a divergence ½ xᵀHx with eigenvalues between 0.5 and 4."""
    random = np.random.default_rng(0)
    rotation, _ = np.linalg.qr(random.normal(size=(6, 6)))
    hessian = jnp.array(rotation @ np.diag(np.linspace(0.5, 4.0, 6)) @ rotation.T, jnp.float32)
    return jnp.array(random.normal(size=6), jnp.float32), hessian


def test_conjugate_gradient_solves_in_as_many_steps_as_dimensions(quadratic):
    gradient, hessian = quadratic
    solution, _ = conjugate_gradient(lambda v: hessian @ v, gradient, 6)
    np.testing.assert_allclose(solution, jnp.linalg.solve(hessian, gradient), rtol=1e-4, atol=1e-5)
    for iterations in (2, 6):
        solution, image = conjugate_gradient(lambda v: hessian @ v, gradient, iterations)
        np.testing.assert_allclose(image, hessian @ solution, rtol=1e-4, atol=1e-5)


def test_conjugate_gradient_stays_at_the_solution(quadratic):
    gradient, hessian = quadratic
    assert np.isfinite(conjugate_gradient(lambda v: hessian @ v, gradient, 50)[0]).all()
    np.testing.assert_array_equal(conjugate_gradient(lambda v: hessian @ v, jnp.zeros(6), 5)[0], jnp.zeros(6))


def test_step_is_the_natural_gradient_of_length_max_kl(quadratic):
    gradient, hessian = quadratic
    step = natural_step(gradient, lambda v: hessian @ v, max_kl=0.01, iterations=6)
    natural = jnp.linalg.solve(hessian, gradient)
    np.testing.assert_allclose(step, -natural * jnp.sqrt(0.02 / (gradient @ natural)), rtol=1e-3)
    np.testing.assert_allclose(0.5 * step @ hessian @ step, 0.01, rtol=1e-4)


def test_line_search_takes_the_full_step_where_the_model_is_exact(quadratic):
    gradient, hessian = quadratic
    config = TrustRegionConfig(max_kl=0.01)
    # a hair inside the bound, so that rounding does not decide
    step = natural_step(gradient, lambda v: hessian @ v, max_kl=0.00999, iterations=6)
    evaluate = lambda x: (gradient @ x, 0.5 * x @ hessian @ x)  # noqa: E731
    end, metrics = line_search(evaluate, jnp.zeros(6), step, jnp.zeros(()), config)
    np.testing.assert_allclose(end, step, rtol=1e-6)
    assert metrics["step"] == 1.0


def test_line_search_shortens_until_the_divergence_fits():
    config = TrustRegionConfig(max_kl=0.01, backtrack=0.5)
    evaluate = lambda x: (-x[0], 0.01 * x[0] ** 2 / 0.3**2)  # noqa: E731
    end, metrics = line_search(evaluate, jnp.zeros(1), jnp.ones(1), jnp.zeros(()), config)
    assert end[0] == 0.25 and metrics["step"] == 0.25


@pytest.mark.parametrize("loss", [1.0, float("nan")])
def test_line_search_stays_if_nothing_improves(loss):
    config = TrustRegionConfig()
    evaluate = lambda x: (jnp.float32(loss), jnp.float32(0.0))  # noqa: E731
    end, metrics = line_search(evaluate, jnp.ones(2), jnp.ones(2), jnp.zeros(()), config)
    np.testing.assert_array_equal(end, jnp.ones(2))
    assert metrics["step"] == 0.0 and np.isfinite(metrics["loss/after"])


@pytest.mark.parametrize("name", ["maml", "rl2"])
def test_curvature_is_the_hessian_of_the_divergence(name):
    """JᵀFJ against a Hessian-vector product of the mean KL divergence itself, adaptation included."""
    meta, family = tiny.algo(name), tiny.family()
    agent, params = meta.learner, meta.learner.init(jax.random.key(0))
    tasks = jax.vmap(family.sample)(jax.random.split(jax.random.key(1), 2))
    keys = jax.random.split(jax.random.key(2), 2)
    trials = jax.jit(jax.vmap(lambda task, key: collect(agent, params, family.env, task, key, meta.plan)))(tasks, keys)
    flat, unravel = ravel_pytree(params)

    def divergence(flat):
        def one(trial):
            output, here = replay_last(agent, unravel(flat), trial), replay_last(agent, params, trial)
            return masked_mean(agent.head(here).kl_divergence(agent.head(output)), trial.rounds.valid[-1])

        return jnp.mean(jax.vmap(one)(trials))

    vector = jax.random.normal(jax.random.key(3), flat.shape)
    expected = jax.jit(lambda v: jax.jvp(jax.grad(divergence), (flat,), (v,))[1])(vector)
    np.testing.assert_allclose(
        jax.jit(curvature(agent, params, trials, jnp.ones(2)))(vector), expected, rtol=2e-3, atol=2e-4
    )


def test_values_are_fitted_without_moving_the_policy():
    """Fitting the values more changes the values only, and brings them nearer to the returns."""

    def build(value_steps):
        trpo = TrustRegionCriticConfig(damping=0.1, value_steps=value_steps, value_learning_rate=1e-2)
        config = jm.RL2Config(num_tasks=8, hidden=8, episodes=2, outer_loop="trpo", trpo=trpo)
        return jm.rl2(tiny.family(), config)

    few, many = build(1), build(40)
    # both in one program: two would be rounded apart where they are compiled apart
    (one, metrics), (other, more) = jax.jit(lambda state: (few.update(state), many.update(state)))(
        few.init(jax.random.key(0))
    )
    chex.assert_trees_all_equal(one.params["policy"], other.params["policy"])
    assert metrics["step"] > 0 and metrics["kl"] <= TrustRegionConfig().max_kl
    assert more["loss/value"] < 0.8 * metrics["loss/value"]
