"""Regularisation against closed forms, and its place in the optimisers of the outer loops."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxmeta as jm
from jaxmeta import outer
from jaxmeta.outer import RegularisationConfig, elastic_net, weight_decay
from jaxmeta.outer.regularise import regularised
from tests import tiny

PARAMS = {"Dense_0": {"kernel": jnp.array([[1.0, -0.02], [0.3, 0.0]]), "bias": jnp.array([0.02, -2.0])}}


def minimised(tx, gradient, params, steps):
    """Returns the params after some steps and, per step, the number of exact zeros."""

    def step(state, _):
        params, opt_state = state
        updates, opt_state = tx.update(gradient(params), opt_state, params)
        params = optax.apply_updates(params, updates)
        return (params, opt_state), sum(jnp.sum(leaf == 0.0) for leaf in jax.tree.leaves(params))

    run = jax.jit(lambda params: jax.lax.scan(step, (params, tx.init(params)), None, steps))
    (params, _), zeros = run(params)
    return jax.device_get(params), np.asarray(zeros)


def quadratic():
    """Least squares with orthonormal columns; its elastic net is soft(b, l1) / (1 + l2), b = Xᵀ y."""
    rng = np.random.default_rng(0)
    columns = jnp.asarray(np.linalg.qr(rng.normal(size=(50, 10)))[0], jnp.float32)
    target = columns @ jnp.array([2.0, -1.0, 0.5, 0.05, *[0.0] * 6])
    return lambda w: columns.T @ (columns @ w - target), np.asarray(columns.T @ target)


@pytest.mark.parametrize(("l1", "l2"), [(0.2, 0.0), (0.0, 0.5), (0.2, 0.5)])
def test_elastic_net_in_closed_form(l1, l2):
    gradient, b = quadratic()
    tx = optax.chain(optax.sgd(0.5), elastic_net(l1, l2, 0.5))
    found, zeros = minimised(tx, gradient, jnp.ones(10), 100)
    closed = np.sign(b) * np.maximum(np.abs(b) - l1, 0.0) / (1.0 + l2)
    np.testing.assert_allclose(found, closed, atol=1e-6)
    if l1:
        assert zeros[-1] == 7 and (found[3:] == 0.0).all()


def test_proximal_zeros_are_exact_after_the_update_is_applied():
    """Also where the update is large, so that adding the difference to the param would round."""
    params = jax.random.normal(jax.random.key(1), (100_000,))
    updates = 0.1 * jax.random.normal(jax.random.key(2), params.shape)
    tx = elastic_net(10.0, 0.0, 1.0)
    apply = jax.jit(lambda params: optax.apply_updates(params, tx.update(updates, tx.init(params), params)[0]))
    np.testing.assert_array_equal(apply(params), np.zeros(params.shape))


def test_l1_in_the_loss_never_reaches_zero_under_adam_while_the_proximal_step_does():
    gradient, _ = quadratic()
    penalised = lambda w: gradient(w) + 0.2 * jnp.sign(w)  # noqa: E731
    _, zeros = minimised(optax.adam(1e-2), penalised, jnp.ones(10), 2000)
    assert (zeros == 0).all()
    _, zeros = minimised(optax.chain(optax.adam(1e-2), elastic_net(0.2, 0.0, 1e-2)), gradient, jnp.ones(10), 2000)
    assert zeros[-1] >= 6


def test_weight_decay_is_that_of_adamw():
    gradient = lambda params: jax.tree.map(jnp.cos, params)  # noqa: E731
    for rate in (1e-2, optax.linear_schedule(1e-2, 0.0, 5)):
        ours, _ = minimised(optax.chain(optax.adam(rate), weight_decay(0.3, rate)), gradient, PARAMS, 4)
        theirs, _ = minimised(optax.adamw(rate, weight_decay=0.3), gradient, PARAMS, 4)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7), ours, theirs)


@pytest.mark.parametrize("on", [("KERNEL",), lambda path: path.endswith("/kernel")], ids=["names", "predicate"])
def test_only_named_params_are_regularised(on):
    gradient = lambda params: jax.tree.map(jnp.zeros_like, params)  # noqa: E731
    for tx in (elastic_net(0.5, 0.0, 0.1, on=on), weight_decay(0.5, 0.1, on=on)):
        found, _ = minimised(optax.chain(optax.sgd(0.1), tx), gradient, PARAMS, 1)
        np.testing.assert_array_equal(found["Dense_0"]["bias"], PARAMS["Dense_0"]["bias"])
        assert (found["Dense_0"]["kernel"][:, 0] < PARAMS["Dense_0"]["kernel"][:, 0]).all()
    with pytest.raises(ValueError, match="^no param has 'tail' in its path; there are Dense_0/bias, Dense_0/kernel$"):
        elastic_net(0.5, 0.0, 0.1, on=("tail",)).init(PARAMS)


def test_the_optimiser_follows_the_annealed_learning_rate():
    """With a gradient of zero, params shrink by l1 times the sum of the learning rates: 2 steps at .1 and 2 at .05."""
    config = RegularisationConfig(l1=0.5, on=("kernel",))
    tx = outer.optimiser(0.1, anneal_over=2, steps=2, rule=optax.sgd, regularise=config)
    gradient = lambda params: jax.tree.map(jnp.zeros_like, params)  # noqa: E731
    found, _ = minimised(tx, gradient, PARAMS, 6)
    np.testing.assert_allclose(found["Dense_0"]["kernel"], [[0.85, 0.0], [0.15, 0.0]], atol=1e-6)
    np.testing.assert_array_equal(found["Dense_0"]["bias"], PARAMS["Dense_0"]["bias"])


def test_the_optimiser_applies_all_of_them():
    """Gradient step, then decay, then the proximal step."""
    config = RegularisationConfig(l1=0.1, l2=0.5, weight_decay=0.2)
    tx = outer.optimiser(0.1, rule=optax.sgd, regularise=config)
    found, _ = minimised(tx, lambda w: jnp.full(2, 0.5), jnp.array([1.0, 0.05]), 1)
    np.testing.assert_allclose(found, [(1.0 - 0.05 - 0.02 - 0.01) / 1.05, 0.0], rtol=1e-6)


def test_the_default_is_the_optimiser_alone():
    plain, default = optax.chain(optax.adam(1e-2)), outer.optimiser(1e-2)
    assert jax.tree.structure(plain.init(PARAMS)) == jax.tree.structure(default.init(PARAMS))
    config = RegularisationConfig(on=("kernel",))
    assert jax.tree.structure(outer.optimiser(1e-2, regularise=config).init(PARAMS)) == jax.tree.structure(
        default.init(PARAMS)
    )


def test_regularisation_can_be_limited_to_a_part():
    """That of a value function leaves the policy as it is, whatever the names."""
    params = {"policy": PARAMS, "value": PARAMS}
    gradient = lambda params: jax.tree.map(jnp.zeros_like, params)  # noqa: E731
    for on in ((), ("kernel",)):
        config = RegularisationConfig(l1=0.5, weight_decay=0.5, on=on)
        found, _ = minimised(regularised(optax.sgd(0.1), 0.1, config, within="value/"), gradient, params, 1)
        jax.tree.map(np.testing.assert_array_equal, found["policy"], PARAMS)
        assert (found["value"]["Dense_0"]["kernel"][:, 0] < PARAMS["Dense_0"]["kernel"][:, 0]).all()
        assert (found["value"]["Dense_0"]["bias"] == PARAMS["Dense_0"]["bias"]).all() == bool(on)


ON_NOTHING = RegularisationConfig(l1=0.1, on=("tail",))


def with_regularisation(name):
    """Builds the agents of every outer loop with a regularisation of params that do not exist."""
    loop = lambda config: dataclasses.replace(config, regularise=ON_NOTHING)  # noqa: E731
    match name:
        case "supervised":
            return tiny.supervised("maml", outer=loop(tiny.SUPERVISED["maml"].outer))
        case "few-shot-reptile":
            return tiny.supervised("reptile", outer=loop(tiny.SUPERVISED["reptile"].outer))
        case "unrolled":
            on = jm.tasks.quadratic()
            return tiny.supervised("learned-optimizer", on, outer=loop(tiny.SUPERVISED["learned-optimizer"].outer))
        case "reptile":
            config = tiny.ALGOS["reptile"]
            return jm.reptile(tiny.family(), dataclasses.replace(config, outer=loop(config.outer)))
        case "variational":
            config = tiny.ALGOS["varibad"]
            return jm.varibad(tiny.family(), dataclasses.replace(config, vae=loop(config.vae)))
        case "values":
            trpo = dataclasses.replace(tiny.TRPO_WITH_VALUES, value_regularise=ON_NOTHING)
            return jm.rl2(tiny.family(), dataclasses.replace(tiny.VARIANTS["rl2-trpo"][1], trpo=trpo))


@pytest.mark.parametrize("name", ["supervised", "few-shot-reptile", "unrolled", "reptile", "variational", "values"])
def test_every_optimiser_is_regularised(name):
    """Nothing is compiled: an optimiser with regularisation refuses names that no param has when it is initialised."""
    meta = with_regularisation(name)
    with pytest.raises(ValueError, match="^no param .* its path; there are "):
        jax.eval_shape(meta.init, jax.random.key(0))


def test_negative_weights_are_refused():
    for name in ("l1", "l2", "weight_decay"):
        with pytest.raises(ValueError, match=f"^{name} is -0.5; it must not be negative$"):
            dataclasses.replace(RegularisationConfig(), **{name: -0.5})


def test_proximal_policy_optimisation_makes_params_zero():
    """A strong L1 penalty on the kernels zeroes them in one update, while biases move."""
    from jaxmeta import inner, nets, rl
    from jaxmeta.types import Plan

    family, plan = tiny.family(), Plan(streams=2)
    policy = inner.policy(nets.actor_critic(family.env.spec, (4,)))
    config = outer.PolicyGradientConfig(epochs=1, regularise=RegularisationConfig(l1=1e6, on=("kernel",)))
    improve = outer.policy_gradient(policy, rl.plain_returns(), config)
    source = outer.fresh(policy, family, plan)
    meta = outer.meta_update(policy, plan, outer.uniform(family), source, improve, outer.Info(2, plan, spread=2))
    before = jax.jit(meta.init)(jax.random.key(0))
    after, _ = jax.jit(meta.update)(before)
    for path, leaf in jax.tree.leaves_with_path(after.params):
        assert ("kernel" in jax.tree_util.keystr(path)) == bool((leaf == 0.0).all()), path
