"""Models of dynamics: bounds of the variance, likelihood, ensembles, recurrence, and their normalisation."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmeta import nets, rl
from jaxmeta.types import Continuous, Discrete, MultiDiscrete, Spec

KEY = jax.random.key(0)
X = jax.random.normal(jax.random.key(1), (7, 3))


def changed(params, name, value):
    """The params of a model with one of its arrays replaced."""
    return {"params": params["params"] | {name: value}}


def test_the_log_variance_stays_within_its_learned_bounds():
    model = nets.gaussian_dynamics(3, 2, (4,))
    params = model.init(KEY)
    for bias, low, high in ((50.0, 0.49, 0.5), (-50.0, -10.0, -9.9), (0.0, -10.0, 0.5)):
        extreme = changed(params, "log_var", params["params"]["log_var"] | {"bias": jnp.full(2, bias)})
        found = np.asarray(model.apply(extreme, X).log_var)
        # softplus adds its value at the distance of the bounds, exp(-10.5), to a bound
        assert (found >= low - 1e-4).all() and (found <= high + 1e-4).all()
    wider = changed(changed(params, "max_log_var", jnp.full(2, 3.0)), "min_log_var", jnp.full(2, -1.0))
    np.testing.assert_allclose(model.penalty(params), 0.01 * 2 * 10.5, rtol=1e-6)
    np.testing.assert_allclose(model.penalty(wider), 0.01 * 2 * 4.0, rtol=1e-6)


def test_the_loss_is_the_weighted_gaussian_likelihood_and_the_penalty():
    model = nets.gaussian_dynamics(3, 2, (4,))
    params, y = model.init(KEY), jax.random.normal(jax.random.key(2), (7, 2))
    weight = jnp.array([1.0, 0.0, 3.0, 1.0, 0.0, 2.0, 1.0])
    mean, log_var = (np.asarray(leaf) for leaf in jax.tree.leaves(model.apply(params, X)))
    density = -0.5 * (np.square(np.asarray(y) - mean) / np.exp(log_var) + log_var)
    expected = -(density.sum(1) * weight).sum() / 8.0 + 0.21
    np.testing.assert_allclose(nets.dynamics_loss(model, params, X, y, weight), expected, rtol=1e-5)


def test_a_deterministic_model_has_unit_variance_and_no_penalty():
    model = nets.gaussian_dynamics(3, 2, (4,), probabilistic=False)
    params = model.init(KEY)
    assert not model.probabilistic and float(model.penalty(params)) == 0.0
    np.testing.assert_array_equal(model.apply(params, X).log_var, 0.0)


def test_members_of_an_ensemble_are_single_models_with_params_of_their_own():
    single = nets.gaussian_dynamics(3, 2, (4,))
    many = nets.ensemble(single, 3)
    params = many.init(KEY)
    inputs = jnp.stack([X, 2 * X, -X])
    together = many.apply(params, inputs)
    for index in range(3):
        own = jax.tree.map(lambda leaf, index=index: leaf[index], params)
        np.testing.assert_allclose(together.mean[index], single.apply(own, inputs[index]).mean, rtol=1e-5, atol=1e-7)
    kernel = params["params"]["MLP_0"]["Dense_0"]["kernel"]
    assert float(jnp.abs(kernel[0] - kernel[1]).max()) > 0.1
    # the loss of an ensemble is the sum of the members' losses
    y, weight = jnp.zeros((3, 7, 2)), jnp.ones((3, 7))
    each = [
        nets.dynamics_loss(single, jax.tree.map(lambda leaf, i=i: leaf[i], params), inputs[i], y[i], weight[i])
        for i in range(3)
    ]
    np.testing.assert_allclose(nets.dynamics_loss(many, params, inputs, y, weight), sum(each), rtol=1e-5)


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_a_recurrent_model_reacts_to_past_transitions(cell):
    model = nets.recurrent_dynamics(3, 2, state=5, hidden=(4,), cell=cell)
    params, start = model.init(KEY), model.initial_state()
    seen = model.observe(params, start, X[0], jnp.array([1.0, -1.0]))
    other = model.observe(params, start, X[0], jnp.array([-1.0, -1.0]))
    predictions = [model.apply(params, state, X).mean for state in (start, seen, other)]
    assert all(prediction.shape == (7, 2) for prediction in predictions)
    assert float(jnp.abs(predictions[1] - predictions[2]).max()) > 1e-4
    assert jax.tree.structure(seen) == jax.tree.structure(start)


@pytest.mark.parametrize(("action", "size"), [(Continuous(2), 2), (Discrete(3), 3), (MultiDiscrete((2, 3)), 5)])
def test_inputs_hold_observations_and_actions_as_vectors(action, size):
    spec = Spec((4,), action, 5)
    assert nets.dynamics_sizes(spec, True) == (4 + size, 5)
    obs, taken = (
        jnp.ones((6, 2, 4)),
        jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (6, 2, *leaf.shape)), action.example()),
    )
    inputs = nets.dynamics_inputs(spec, obs, taken)
    assert inputs.shape == (6, 2, 4 + size)
    outputs = nets.dynamics_outputs(obs, obs + 0.5, jnp.full((6, 2), 3.0))
    np.testing.assert_allclose(outputs[0, 0], [0.5] * 4 + [3.0])


def test_normalised_outputs_are_recovered_and_statistics_get_no_gradient():
    inputs, outputs = 5.0 + 3.0 * X, jnp.concatenate([X, 0.1 * X - 2.0], 1)
    blank = rl.dynamics_statistics(3, 6)
    statistics = rl.merged(blank, rl.statistics_of((inputs, outputs), jnp.ones(7), blank))
    normal = rl.standardised(statistics, (inputs, outputs))
    for leaf in normal:
        np.testing.assert_allclose(leaf.mean(0), 0.0, atol=1e-4)
        np.testing.assert_allclose(leaf.std(0), 1.0, atol=1e-3)
    np.testing.assert_allclose(rl.normalised_inputs(statistics, inputs), normal[0])
    np.testing.assert_allclose(rl.original_outputs(statistics, normal[1]), outputs, rtol=1e-4, atol=1e-6)

    def through(statistics):
        seen = rl.normalised_inputs(statistics, inputs)
        return jnp.sum(rl.original_outputs(statistics, jnp.concatenate([seen, seen], 1)))

    for leaf in jax.tree.leaves(jax.grad(through)(statistics)):
        np.testing.assert_array_equal(leaf, 0.0)


def test_a_change_of_the_normaliser_does_not_leak_into_the_inner_gradient():
    model = nets.gaussian_dynamics(3, 3, (4,), probabilistic=False)
    params, blank = model.init(KEY), rl.dynamics_statistics(3, 3)

    def adapted(shift):
        """The loss after an inner step, with statistics that an outer loop moved by `shift`."""
        statistics = rl.merged(blank, rl.statistics_of((X + shift, X), jnp.ones(7), blank))
        x, y = rl.standardised(statistics, (X, X))
        inner = lambda params: nets.dynamics_loss(model, params, x, y, jnp.ones(7))  # noqa: E731
        stepped = jax.tree.map(lambda leaf, slope: leaf - 0.1 * slope, params, jax.grad(inner)(params))
        return inner(stepped)

    assert float(jax.grad(adapted)(0.3)) == 0.0
    assert float(adapted(0.3)) != float(adapted(0.0))


def test_imagined_observations_stay_within_reach_of_the_data():
    blank = rl.dynamics_statistics(3, 2)
    inputs = jnp.concatenate([10.0 + X[:, :2], X[:, 2:]], 1)
    statistics = rl.merged(blank, rl.statistics_of((inputs, X[:, :2]), jnp.ones(7), blank))
    far = rl.within_reach(statistics, jnp.array([[1e9, -1e9], [10.0, 10.0]]))
    bound = rl.CLIP * jnp.sqrt(statistics.variance[0][:2])
    np.testing.assert_allclose(far[0], statistics.mean[0][:2] + bound * jnp.array([1.0, -1.0]), rtol=1e-4)
    np.testing.assert_allclose(far[1], 10.0)


def test_bad_input():
    with pytest.raises(ValueError, match="a model of the dynamics needs one float32 vector"):
        nets.dynamics_sizes(Spec({"a": (2,)}, Continuous(1), 3), False)
