from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmeta import rl
from jaxmeta.rl.advantages import discounts
from jaxmeta.types import Input, Output, Rollout

REWARD = jnp.array([1.0, -2.0, 0.5, 3.0])
VALUE = jnp.array([0.3, 0.1, -0.4, 0.7, 0.2])


def test_discounted_return_is_the_geometric_sum():
    returns = rl.discounted_return(jnp.ones(5), jnp.full(5, 0.5), bootstrap=2.0)
    np.testing.assert_allclose(returns, [2.0] * 5)
    np.testing.assert_allclose(rl.discounted_return(REWARD, jnp.zeros(4)), REWARD)
    direct = sum(0.9**k * r for k, r in enumerate(np.asarray(REWARD))) + 0.9**4 * 7.0
    np.testing.assert_allclose(rl.discounted_return(REWARD, jnp.full(4, 0.9), 7.0)[0], direct, rtol=1e-6)


def test_advantage_with_unit_trace_is_return_minus_value():
    discount = jnp.array([0.9, 0.0, 0.9, 0.9])
    advantage = rl.generalized_advantage(REWARD, VALUE, discount, 1.0, jnp.ones(4))
    expected = rl.discounted_return(REWARD, discount, VALUE[-1]) - VALUE[:-1]
    np.testing.assert_allclose(advantage, expected, rtol=1e-6)


def test_advantage_with_zero_trace_is_the_residual():
    advantage = rl.generalized_advantage(REWARD, VALUE, jnp.full(4, 0.9), 0.0, jnp.ones(4))
    np.testing.assert_allclose(advantage, REWARD + 0.9 * VALUE[1:] - VALUE[:-1], rtol=1e-6)


def test_advantage_agrees_with_rlax_convention_by_direct_sum():
    delta = np.asarray(REWARD + 0.9 * VALUE[1:] - VALUE[:-1])
    direct = [sum((0.9 * 0.7) ** (k - t) * delta[k] for k in range(t, 4)) for t in range(4)]
    np.testing.assert_allclose(
        rl.generalized_advantage(REWARD, VALUE, jnp.full(4, 0.9), 0.7, jnp.ones(4)), direct, rtol=1e-5
    )


def test_invalid_steps_do_not_change_advantages_around_them():
    """Steps after an early end are as if they were not there."""
    gapped = lambda x, hole: jnp.concatenate([x[:2], jnp.full(3, hole), x[2:]])  # noqa: E731
    discount = jnp.array([0.9, 0.8, 0.9, 0.7])
    valid = gapped(jnp.ones(4), 0.0)
    dense = rl.generalized_advantage(REWARD, VALUE, discount, 0.7, jnp.ones(4))
    sparse = rl.generalized_advantage(gapped(REWARD, 5.0), gapped(VALUE, 9.0), gapped(discount, 0.3), 0.7, valid)
    np.testing.assert_allclose(sparse, gapped(dense, 0.0), rtol=1e-6)


def experience(reward, done, valid=None, obs=None):
    """Stored streams [T, E] from arrays; whatever is not given is blank."""
    reward = jnp.asarray(reward, jnp.float32)
    blank = jnp.zeros_like(reward)
    done = jnp.asarray(done, jnp.float32)
    prev_done = jnp.concatenate([blank[:1], done[:-1]])
    obs = blank[..., None] if obs is None else obs
    return Rollout(
        inputs=Input(
            obs=obs, prev_action=blank, prev_reward=blank, prev_done=prev_done, prev_next_obs=obs, first=blank
        ),
        action=blank,
        next_obs=obs,
        reward=reward,
        valid=jnp.ones_like(reward) if valid is None else jnp.asarray(valid, jnp.float32),
        done=done,
        terminated=blank,
        output=Output(dist=(), value=blank),
        reset_key=(),
        success=jnp.zeros_like(blank, bool),
        fault=jnp.zeros_like(blank, jnp.int8),
    )


@pytest.mark.parametrize("across", [False, True])
def test_discounting_stops_at_an_episode_end_unless_the_agent_remembers(across):
    stored = experience([[1.0], [1.0], [1.0], [1.0]], [[0], [1], [0], [1]])
    returns = rl.plain_returns(0.5, across_episodes=across)(stored).target[:, 0]
    np.testing.assert_allclose(returns, [1.875, 1.75, 1.5, 1.0] if across else [1.5, 1.0, 1.5, 1.0])
    assert discounts(stored, 0.5, across)[1, 0] == (0.5 if across else 0.0)


def test_standardize_ignores_invalid_steps():
    values = jnp.array([[1.0, 3.0], [100.0, 5.0]])
    valid = jnp.array([[1.0, 1.0], [0.0, 1.0]])
    scaled = np.asarray(rl.standardize(values, valid))
    assert scaled[1, 0] == 0.0
    np.testing.assert_allclose(scaled[valid > 0].mean(), 0.0, atol=1e-6)
    np.testing.assert_allclose(scaled[valid > 0].std(), 1.0, rtol=1e-5)


def test_standardize_of_a_constant_is_zero():
    np.testing.assert_array_equal(rl.standardize(jnp.full((3, 2), 4.0), jnp.ones((3, 2))), jnp.zeros((3, 2)))


def test_linear_baseline_recovers_returns_that_are_linear_in_its_features():
    key = jax.random.key(0)
    obs = jax.random.normal(key, (50, 8, 3))
    stored = experience(jnp.zeros((50, 8)), jnp.zeros((50, 8)), obs=obs)
    time = jnp.arange(50)[:, None] / 100
    returns = 2.0 * obs[..., 0] - obs[..., 2] ** 2 + 3.0 * time**2 + 1.0
    np.testing.assert_allclose(rl.fit_linear_baseline(stored, returns), returns, atol=2e-2)


def test_linear_baseline_is_finite_without_rewards_and_with_constant_observations():
    stored = experience(jnp.zeros((20, 4)), jnp.zeros((20, 4)))
    estimate = rl.linear_baseline()(stored)
    np.testing.assert_allclose(estimate.advantage, 0.0, atol=1e-6)


def _collinear(name):
    """Observations [T, E, D] on which the normal equations cannot be solved in float32 with the smallest ridge."""
    key, time = jax.random.key(0), jnp.arange(10_000)[:, None, None] / 10_000
    pixels = jax.random.uniform(key, (50, 20, 30))
    return {
        "constant pixels": jnp.where(jnp.arange(30) % 3 == 0, 0.5, pixels),
        "smooth pixels": jnp.sin(jnp.linspace(0, 3, 300) + jax.random.normal(key, (50, 20, 1))),
        "10,000 steps": jnp.broadcast_to(jax.random.uniform(key, (27,)) + 0 * time, (10_000, 2, 27)),
    }[name]


@pytest.mark.parametrize("name", ["constant pixels", "smooth pixels", "10,000 steps"])
def test_linear_baseline_predicts_from_collinear_observations(name):
    obs = _collinear(name)
    length, streams, _ = obs.shape
    stored = experience(jnp.zeros((length, streams)), jnp.zeros((length, streams)), obs=obs)
    returns = 10.0 * obs[..., 1] + jnp.exp(-jnp.linspace(0, 5, length))[:, None]
    residual = jax.jit(rl.fit_linear_baseline)(stored, returns) - returns
    assert jnp.mean(jnp.square(residual)) < 0.02 * jnp.var(returns)


def test_linear_baseline_of_one_task_does_not_depend_on_a_collinear_neighbour():
    rough = jax.random.normal(jax.random.key(1), (50, 20, 30))
    both = jnp.stack([rough, _collinear("constant pixels")])
    blank = jnp.zeros((50, 20))
    fit = jax.jit(jax.vmap(lambda obs: rl.fit_linear_baseline(experience(blank, blank, obs=obs), obs[..., 0])))
    np.testing.assert_array_equal(fit(both)[0], fit(jnp.stack([rough, rough]))[0])


def test_linear_baseline_refuses_pictures():
    stored = experience(jnp.zeros((2, 1)), jnp.zeros((2, 1)), obs=jnp.zeros((2, 1, 64, 64, 3), jnp.uint8))
    with pytest.raises(ValueError, match="12288 numbers it would need 2.3 GiB per task and round .try baseline none"):
        rl.fit_linear_baseline(stored, jnp.zeros((2, 1)))


def test_linear_baseline_reads_every_part_of_an_observation():
    key = jax.random.key(0)
    parts = {"pixels": jax.random.randint(key, (50, 8, 2, 2), 0, 256).astype(jnp.uint8), "code": jnp.ones((50, 8), int)}
    stored = experience(jnp.zeros((50, 8)), jnp.zeros((50, 8)), obs=parts)
    returns = parts["pixels"][..., 1, 0] / 255.0 - 2.0 * parts["pixels"][..., 0, 1] / 255.0
    np.testing.assert_allclose(rl.fit_linear_baseline(stored, returns), returns, atol=2e-2)
