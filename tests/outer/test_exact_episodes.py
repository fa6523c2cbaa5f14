"""The same as `test_exact`, for episodes of two steps that may end after one.

Arm 0 pays 1 and ends the episode, arm 1 pays 0.8 and goes on: to end early is worse, though it pays more per step. A
loss that divided each trial by its own number of steps would have the wrong sign here.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmeta import inner, outer, rl
from jaxmeta.types import Input, Output, Rollout, Trial
from tests.outer.test_exact import SPEC, learner

REWARD = (1.0, 0.8)
EPISODES = [(0,), (1, 0), (1, 1)]
HORIZON = 2


def probability_of(actions, theta):
    pays = 1 / (1 + np.exp(-float(theta)))
    return np.prod([pays if action == 0 else 1 - pays for action in actions])


def experience(actions, theta):
    """One episode of one stream by the policy θ, as the engine stores it: masked up to the horizon."""
    length = len(actions)
    padded = np.array([*actions, *[0] * (HORIZON - length)])
    valid = np.arange(HORIZON) < length
    reward = np.array([REWARD[action] for action in padded]) * valid
    column = lambda values: jnp.asarray(values, jnp.float32)[:, None]  # noqa: E731
    one = SPEC.example_input()
    inputs = jax.tree.map(lambda leaf: jnp.zeros((HORIZON, 1, *leaf.shape), leaf.dtype), Input(**vars(one)))
    return Rollout(
        inputs=inputs,
        action=jnp.asarray(padded)[:, None],
        next_obs=inputs.obs,
        reward=column(reward),
        valid=column(valid),
        done=column(np.arange(HORIZON) == length - 1),
        terminated=column(np.arange(HORIZON) == length - 1),
        output=Output(dist=jnp.tile(jnp.stack([theta, 0.0]), (HORIZON, 1, 1)), value=jnp.zeros((HORIZON, 1))),
        reset_key=jax.random.split(jax.random.key(0), 1),
        success=jnp.zeros((HORIZON, 1), bool),
        fault=jnp.zeros((HORIZON, 1), jnp.int8),
    )


def adapted(theta, actions, inner_lr):
    """The exact update: the mean over valid steps of ∇log π times the reward to go."""
    pays = 1 / (1 + np.exp(-theta))
    reward = [REWARD[action] for action in actions]
    gradients = [(1 - pays if action == 0 else -pays) * sum(reward[t:]) for t, action in enumerate(actions)]
    return theta + inner_lr * np.mean(gradients)


def exact_return(theta, inner_lr, rounds):
    if rounds == 0:
        return sum(probability_of(e, theta) * sum(REWARD[action] for action in e) for e in EPISODES)
    return sum(
        probability_of(e, theta) * exact_return(adapted(theta, e, inner_lr), inner_lr, rounds - 1) for e in EPISODES
    )


def all_trials(agent, params, rounds, stored=(), probability=1.0, fast=None):
    key = jax.random.key(0)
    fast = agent.start(params, key) if fast is None else fast
    for actions in EPISODES:
        now = (*stored, experience(actions, fast.policy))
        chance = probability * probability_of(actions, fast.policy)
        if len(now) <= rounds:
            yield from all_trials(agent, params, rounds, now, chance, agent.adapt(params, fast, now[-1], key))
        else:
            rollouts = jax.tree.map(lambda *leaves: jnp.stack(leaves), *now)
            yield chance, Trial(rounds=rollouts, start_key=key, adapt_keys=jax.random.split(key, rounds))


@pytest.mark.parametrize(("theta", "inner_lr", "rounds"), [(0.3, 1.0, 0), (0.3, 1.0, 1), (-0.6, 0.5, 1)])
def test_meta_gradient_is_exact_with_early_ends(theta, inner_lr, rounds):
    agent = learner(rl.log_prob, inner_lr)
    params = inner.GradientParams(policy=jnp.array(theta), updater=())
    loss = outer.meta_loss(agent, rl.ratio, rl.plain_returns(), sampling_correction=rounds > 0)
    gradient = jax.jit(jax.grad(lambda theta, trials: loss(params.replace(policy=theta), trials)))
    trials = list(all_trials(agent, params, rounds))
    assert sum(chance for chance, _ in trials) == pytest.approx(1.0, abs=1e-6)
    total = sum(
        chance * float(gradient(params.policy, jax.tree.map(lambda leaf: leaf[None], trial)))
        for chance, trial in trials
    )
    high, low = (exact_return(theta + sign * 1e-5, inner_lr, rounds) for sign in (1, -1))
    # the loss is per step of the horizon
    assert -HORIZON * total == pytest.approx((high - low) / 2e-5, abs=1e-5)


def test_ending_early_is_worse_here():
    assert exact_return(0.31, 1.0, 0) < exact_return(0.3, 1.0, 0)
