"""Meta-gradients by enumeration: every trial of a two-armed bandit, weighed by its probability.

The policy has one parameter: it pulls the paying arm with probability σ(θ). The gradient of the real `meta_loss`,
averaged over all trials, is compared with the exact derivative of the return after adaptation.
"""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmeta import inner, outer, rl
from jaxmeta.nets import Network, head_for
from jaxmeta.types import Discrete, Input, Output, Rollout, Spec, Trial

SPEC = Spec(observation=(1,), action=Discrete(2), horizon=1)
REWARD = (1.0, 0.0)


def network():
    def apply(theta, carry, inputs):
        return carry, Output(dist=jnp.stack([theta, jnp.zeros_like(theta)]), value=jnp.zeros(()))

    return Network(init=lambda key: jnp.array(0.3), apply=apply, initial_state=lambda: (), head=head_for(SPEC.action))


def learner(inner_objective, inner_lr, first_order=False):
    updater = inner.sgd(inner_lr)
    updater = inner.first_order(updater) if first_order else updater
    return inner.gradient(inner.policy(network()), inner_objective, updater, rl.plain_returns())


def experience(action, theta):
    """One pull of one stream, by the policy θ."""
    one = SPEC.example_input()
    inputs = jax.tree.map(lambda leaf: leaf[None, None], Input(**vars(one)))
    return Rollout(
        inputs=inputs,
        action=jnp.full((1, 1), action),
        next_obs=inputs.obs,
        reward=jnp.full((1, 1), REWARD[action]),
        valid=jnp.ones((1, 1)),
        done=jnp.ones((1, 1)),
        terminated=jnp.ones((1, 1)),
        output=Output(dist=jnp.stack([theta, 0.0])[None, None], value=jnp.zeros((1, 1))),
        reset_key=jax.random.split(jax.random.key(0), 1),
        success=jnp.zeros((1, 1), bool),
        fault=jnp.zeros((1, 1), jnp.int8),
    )


def all_trials(agent, params, rounds):
    """Yields every trial and its probability; a trial is one pull, adapt, one pull, ..., as the engine stores it."""
    key = jax.random.key(0)
    for actions in itertools.product((0, 1), repeat=rounds + 1):
        fast, probability, stored = agent.start(params, key), 1.0, []
        for index, action in enumerate(actions):
            stored.append(experience(action, fast.policy))
            pays = jax.nn.sigmoid(fast.policy)
            probability *= float(pays if action == 0 else 1 - pays)
            if index < rounds:
                fast = agent.adapt(params, fast, stored[-1], key)
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *stored)
        yield probability, Trial(rounds=stacked, start_key=key, adapt_keys=jax.random.split(key, rounds))


def expected(derivative, theta, agent, rounds, **options):
    """Averages a derivative of `meta_loss` over all trials; the sign is that of the return."""
    params = inner.GradientParams(policy=jnp.array(theta), updater=())
    objective = options.pop("objective", rl.ratio)
    loss = outer.meta_loss(agent, objective, rl.plain_returns(), **options)

    def of_theta(value, trials):
        return loss(params.replace(policy=value), trials)

    compute = jax.jit(derivative(of_theta))
    total = 0.0
    for probability, trial in all_trials(agent, params, rounds):
        total -= probability * float(compute(params.policy, jax.tree.map(lambda leaf: leaf[None], trial)))
    return total


def exact_return(theta, inner_lr, rounds):
    """The expected reward of the pull after `rounds` adaptations, by enumeration of the pulls before."""
    pays = 1 / (1 + np.exp(-theta))
    if rounds == 0:
        return pays
    after_paying = exact_return(theta + inner_lr * (1 - pays), inner_lr, rounds - 1)
    return pays * after_paying + (1 - pays) * exact_return(theta, inner_lr, rounds - 1)


def exact_gradient(theta, inner_lr, rounds, epsilon=1e-5):
    high, low = (exact_return(theta + sign * epsilon, inner_lr, rounds) for sign in (1, -1))
    return (high - low) / (2 * epsilon)


@pytest.mark.smoke
@pytest.mark.parametrize(
    ("inner_objective", "options", "first_order", "value"),
    [
        pytest.param(rl.log_prob, {"sampling_correction": True}, False, 0.223716, id="e-maml"),
        pytest.param(rl.log_prob, {}, False, 0.199420, id="log-prob"),
        pytest.param(rl.ratio, {}, False, 0.222285, id="lvc"),
        pytest.param(rl.dice, {}, False, 0.222285, id="dice"),
        pytest.param(rl.log_prob, {}, True, 0.230284, id="first-order"),
        pytest.param(rl.log_prob, {"sampling_correction": True, "objective": rl.dice}, False, 0.223716, id="dice-full"),
    ],
)
def test_each_estimator_has_its_own_expected_gradient(inner_objective, options, first_order, value):
    agent = learner(inner_objective, 1.0, first_order)
    assert expected(jax.grad, 0.3, agent, rounds=1, **options) == pytest.approx(value, abs=1e-5)


def test_fixture_is_the_exact_gradient():
    assert exact_return(0.3, 1.0, 1) == pytest.approx(0.631535, abs=1e-6)
    assert exact_gradient(0.3, 1.0, 1) == pytest.approx(0.223716, abs=1e-6)


@pytest.mark.parametrize("rounds", [1, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize(("theta", "inner_lr"), [(0.3, 1.0), (-0.7, 0.4), (1.1, 2.0)])
def test_sampling_correction_is_unbiased(theta, inner_lr, rounds):
    agent = learner(rl.log_prob, inner_lr)
    gradient = expected(jax.grad, theta, agent, rounds, sampling_correction=True)
    assert gradient == pytest.approx(exact_gradient(theta, inner_lr, rounds), abs=1e-5)


def test_a_constant_baseline_leaves_the_correction_unbiased():
    agent = learner(rl.log_prob, 0.4)
    gradient = expected(jax.grad, -0.7, agent, rounds=1, sampling_correction=1.0, return_baseline=0.6)
    assert gradient == pytest.approx(exact_gradient(-0.7, 0.4, 1), abs=1e-5)


@pytest.mark.parametrize(
    ("objective", "value"), [(rl.ratio, -0.036396), (rl.dice, -0.036396), (rl.log_prob, -0.140427)]
)
def test_expected_hessian_of_the_objectives(objective, value):
    agent = learner(rl.ratio, 1.0)
    assert expected(jax.hessian, 0.3, agent, rounds=0, objective=objective) == pytest.approx(value, abs=1e-5)


def test_a_zero_step_gives_the_plain_policy_gradient():
    agent = learner(rl.ratio, 0.0)
    pays = 1 / (1 + np.exp(-0.3))
    assert expected(jax.grad, 0.3, agent, rounds=1) == pytest.approx(pays * (1 - pays), abs=1e-6)
