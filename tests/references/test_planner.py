"""Planning with the true dynamics, and the closed form of adapting a linear model."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxmeta as jm
from jaxmeta import nets, rl, tasks
from jaxmeta.references import linear_adaptation, planner

KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def family():
    return tasks.double_integrator(tasks.DoubleIntegratorConfig(horizon=8))


def test_the_oracle_is_near_the_optimum_of_the_double_integrator(family):
    cem = rl.cem(family.env.spec.action, 4, 200, 10, iterations=10)
    drawn = jax.vmap(family.sample)(jax.random.split(KEY, 2))
    report = jm.evaluate(planner.oracle(family.env, cem), (), planner.with_state(family), drawn, KEY, jm.Plan())
    # standing still returns -0.008
    assert float(report.returns.min()) > -0.0005


def test_simulated_returns_are_those_of_the_environment_up_to_the_end_of_the_episode(family):
    task, state = family.sample(KEY), jnp.array([1.0, 0.0])
    actions = jnp.array([[-1.0, 1.0, 0.0], [0.0, 0.0, 0.0]])[..., None]
    found = planner.simulated_returns(family.env, state, task, actions, KEY, 3)
    np.testing.assert_allclose(found, [0.0, -0.003], rtol=1e-5)
    np.testing.assert_allclose(
        planner.simulated_returns(family.env, state, task, actions, KEY, 2)[1], -0.002, rtol=1e-5
    )


def test_simulated_returns_end_with_the_episode():
    still = tasks.navigation(tasks.NavigationConfig(horizon=5))
    task = still.sample(KEY)
    near = still.env.reset(KEY, task)[0].replace(position=task.goal + jnp.array([0.05, 0.0]))
    stay = planner.simulated_returns(still.env, near, task, jnp.zeros((1, 4, 2)), KEY, 4)
    leave = jnp.array([[-0.05, 0.0], [0.1, 0.0], [0.1, 0.0], [0.1, 0.0]])[None]
    arrived = planner.simulated_returns(still.env, near, task, leave, KEY, 4)
    # the first step reaches the goal, and later ones, which would leave it, no longer count
    np.testing.assert_allclose(arrived, 0.0, atol=1e-6)
    assert float(stay[0]) < -0.15


def test_a_plan_longer_than_an_episode_is_refused(family):
    with pytest.raises(ValueError, match="horizon is 9; a plan must not be longer than an episode, 8 steps"):
        planner.oracle(family.env, rl.cem(family.env.spec.action, 9))


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("step", [0.3, 1.5])
def test_the_closed_form_is_one_gradient_step_of_a_model_of_dynamics(sign, step):
    past, future = (linear_adaptation.transitions(key, sign, 50) for key in jax.random.split(KEY))
    squares = [float(jnp.square(actions).mean()) for actions, _ in (past, future)]
    model = nets.Dynamics(
        1,
        1,
        init=lambda key: jnp.zeros(()),
        apply=lambda theta, x: nets.Prediction(theta * x, jnp.zeros_like(x)),
        penalty=lambda theta: jnp.zeros(()),
        probabilistic=False,
    )

    def loss(theta, data):
        # the likelihood has half of the squared error
        return 2.0 * nets.dynamics_loss(model, theta, *data, jnp.ones(50))

    theta = model.init(KEY) - step * jax.grad(loss)(model.init(KEY), past)
    np.testing.assert_allclose(theta, linear_adaptation.adapted_coefficient(step, sign, squares[0]), rtol=1e-5)
    np.testing.assert_allclose(loss(theta, future), linear_adaptation.adapted_loss(step, *squares), rtol=1e-4)
    np.testing.assert_allclose(loss(0.0, future), linear_adaptation.unadapted_loss(squares[1]), rtol=1e-5)
    exact = linear_adaptation.best_step(squares[0])
    np.testing.assert_allclose(linear_adaptation.adapted_loss(exact, *squares), 0.0, atol=1e-12)
