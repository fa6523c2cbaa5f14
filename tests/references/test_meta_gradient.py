"""Every named estimator against its own formula, at several policies, step sizes and numbers of steps.

An estimator sees θ' = U(θ, D) with a Jacobian of its own; its expectation is that of the product of these Jacobians and
the gradient of the return at the end. Here both are written out, in double precision and over ordered trials.
"""

from __future__ import annotations

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmeta import outer
from jaxmeta.references import meta_gradient

ALL = meta_gradient.small_mdp()
STATE, ACTION, REWARD = (np.asarray(leaf) for leaf in (ALL.state, ALL.action, ALL.reward))
TO_GO = REWARD[:, ::-1].cumsum(1)[:, ::-1]
POINTS = [(0, 2.0), (1, 0.5), (2, -3.0)]
DECAYS = {"ratio": 0.0, "loaded-dice": 0.5, "dice": 1.0}


def table(seed):
    return np.random.default_rng(seed).normal(size=(2, 2))


def gradients(theta):
    """Of log π of every step, with respect to the logits: gradients [n, T, 4] and Hessians [n, T, 4, 4]."""
    pi = np.exp(theta) / np.exp(theta).sum(1, keepdims=True)
    first, second = np.zeros((*ACTION.shape, 2, 2)), np.zeros((*ACTION.shape, 2, 2, 2, 2))
    for stream, time in np.ndindex(ACTION.shape):
        state = STATE[stream, time]
        first[stream, time, state] = np.eye(2)[ACTION[stream, time]] - pi[state]
        second[stream, time, state, :, state] = np.outer(pi[state], pi[state]) - np.diag(pi[state])
    return first.reshape(*ACTION.shape, 4), second.reshape(*ACTION.shape, 4, 4)


def chances(theta):
    log_pi = theta - np.log(np.exp(theta).sum(1, keepdims=True))
    return np.exp(log_pi[STATE, ACTION].sum(1))


def jacobians(name, theta, step_size):
    """Of the step on every stream, as an estimator sees it: [n, 4, 4]."""
    first, second = gradients(theta)
    if name == "first-order":
        return np.broadcast_to(np.eye(4), (len(ACTION), 4, 4))
    if name in DECAYS:
        past = np.zeros((len(ACTION), 4))
        for time in range(ACTION.shape[1]):
            now = past + first[:, time]
            outer_product = lambda one: np.einsum("ni,nj->nij", one, one)  # noqa: E731
            second[:, time] += outer_product(now) - outer_product(past)
            past = DECAYS[name] * now
    return np.eye(4) + step_size * np.einsum("ntij,nt->nij", second, TO_GO) / ACTION.shape[1]


def formula(name, theta, step_size, rounds):
    """What an estimator without sampling correction has for its expectation, [4]."""
    first, _ = gradients(theta)
    if rounds == 0:
        return np.einsum("n,nti,nt->i", chances(theta), first, TO_GO)
    seen, steps = jacobians(name, theta, step_size), np.einsum("nti,nt->ni", first, TO_GO) / ACTION.shape[1]
    after = [formula(name, theta + step_size * step.reshape(2, 2), step_size, rounds - 1) for step in steps]
    return np.einsum("n,nij,ni->j", chances(theta), seen, after)


def exact_return(theta, step_size, rounds, num_streams=1):
    """By a loop over rounds whose streams are told apart."""
    if rounds == 0:
        return chances(theta) @ REWARD.sum(1)
    first, _ = gradients(theta)
    steps, chance, total = np.einsum("nti,nt->ni", first, TO_GO) / ACTION.shape[1], chances(theta), 0.0
    for one in itertools.product(range(len(ACTION)), repeat=num_streams):
        after = theta + step_size * steps[list(one)].mean(0).reshape(2, 2)
        total += chance[list(one)].prod() * exact_return(after, step_size, rounds - 1, num_streams)
    return total


def finite_differences(theta, step_size, rounds, num_streams=1):
    def move(index, size):
        return exact_return(theta + size * np.eye(4)[index].reshape(2, 2), step_size, rounds, num_streams)

    return np.array([(move(index, 1e-5) - move(index, -1e-5)) / 2e-5 for index in range(4)])


@functools.cache
def measured(name, rounds, num_streams=1):
    """Compiles the expectation of the real estimator, once for all policies and step sizes."""
    by = outer.META_GRADIENTS[name]
    return jax.jit(
        lambda theta, step_size: meta_gradient.expected_gradient(theta, step_size, ALL, by, num_streams, rounds)
    )


ONE_STEP = [(name, 1) for name in outer.META_GRADIENTS]
TWO_STEPS = [pytest.param(name, 2, marks=pytest.mark.slow) for name in outer.META_GRADIENTS if name != "e-maml"]


@pytest.mark.parametrize(("name", "rounds"), [*ONE_STEP, *TWO_STEPS, ("e-maml", 2)])
def test_each_estimator_has_its_own_expectation(name, rounds):
    biases = []
    for seed, step_size in POINTS:
        theta = table(seed)
        got = np.ravel(measured(name, rounds)(jnp.asarray(theta, jnp.float32), step_size))
        exact = finite_differences(theta, step_size, rounds)
        expected = exact if name == "e-maml" else formula(name, theta, step_size, rounds)
        np.testing.assert_allclose(got, expected, atol=1e-5)
        biases.append(np.abs(expected - exact).max())
    # what the formula says is a bias, and not noise of this test
    assert max(biases) > 1e-3 or name == "e-maml"


def test_exact_gradient_agrees_with_finite_differences():
    for num_streams, rounds, (seed, step_size) in ((1, 2, POINTS[0]), (2, 1, POINTS[1])):
        theta = table(seed)
        exact = meta_gradient.exact_gradient(jnp.asarray(theta, jnp.float32), step_size, ALL, num_streams, rounds)
        np.testing.assert_allclose(
            np.ravel(exact), finite_differences(theta, step_size, rounds, num_streams), atol=1e-5
        )


def test_correction_is_unbiased_on_several_streams():
    theta = table(1)
    got = measured("e-maml", 1, 2)(jnp.asarray(theta, jnp.float32), 2.0)
    np.testing.assert_allclose(np.ravel(got), finite_differences(theta, 2.0, 1, 2), atol=1e-5)


def test_deviation_is_that_of_sampled_trials():
    """Of two streams, by the spread of gradients whose rounds are drawn and whose last streams differ."""
    theta, by = jnp.asarray(table(1), jnp.float32), outer.META_GRADIENTS["ratio"]
    exact = meta_gradient.exact_gradient(theta, 2.0, ALL, 2)
    quality = meta_gradient.quality(theta, 2.0, ALL, by, num_streams=2)
    gradient, chance, last = meta_gradient._every_trial(theta, 2.0, ALL, by, 2, 1)
    random = np.random.default_rng(0)
    ways = random.choice(len(chance), 20_000, p=np.asarray(chance, float) / float(chance.sum()))
    after = np.asarray(last, float) / np.asarray(last, float).sum(1, keepdims=True)
    streams = (random.uniform(size=(len(ways), 2, 1)) > after.cumsum(1)[ways, None, :-1]).sum(-1)
    draws = np.asarray(gradient)[ways[:, None], streams].mean(1)
    spread = np.sqrt(np.var(draws, 0).sum()) / np.linalg.norm(exact)
    np.testing.assert_allclose(quality.deviation, spread, rtol=0.02)
    assert float(chance.sum()) == pytest.approx(1.0, abs=1e-5)


def test_rounds_are_multisets_with_their_number_of_orders():
    outcomes, orders = meta_gradient.rounds_of(8, 4)
    assert outcomes.shape == (330, 4) and float(orders.sum()) == 8**4
