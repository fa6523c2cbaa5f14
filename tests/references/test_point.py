from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmeta import tasks
from jaxmeta.references import point

KEY = jax.random.key(0)
NUM = 256


def returns(family, policy):
    """The returns of a policy that is told key, position and goal, on NUM tasks; with their starts and goals."""

    def episode(key):
        task_key, reset_key, key = jax.random.split(key, 3)
        task = family.sample(task_key)
        start, position = family.env.reset(reset_key, task)

        def one(state, key):
            state, step = family.env.step(key, state, policy(key, state.position, task.goal), task)
            return state, step.reward

        _, reward = jax.lax.scan(one, start, jax.random.split(key, family.env.spec.horizon))
        return reward.sum(), position, task.goal

    return map(np.asarray, jax.jit(jax.vmap(episode))(jax.random.split(KEY, NUM)))


def straight(key, position, goal):
    return goal - position


def wander(key, position, goal):
    return jax.random.uniform(key, (2,), minval=-0.1, maxval=0.1)


def scaled(key, position, goal):
    """Walks along the straight line, at most 0.1 m in the longer coordinate."""
    offset = goal - position
    return offset * jnp.minimum(1.0, 0.1 / jnp.abs(offset).max())


def test_the_greedy_policy_has_the_oracle_return():
    paid, start, goal = returns(tasks.point_robot(), straight)
    np.testing.assert_allclose(paid, point.oracle_return(goal - start), rtol=1e-5, atol=1e-5)
    paid, _, goal = returns(tasks.sparse_point_robot(), straight)
    # where d_t = 0.2 for some t, rounding decides whether the step is paid
    edge = (np.abs(point.shortest_distances(goal) - 0.2) < 1e-5).any(-1)
    np.testing.assert_allclose(paid[~edge], point.sparse_oracle_return(goal)[~edge], rtol=1e-5)
    assert edge.sum() < 3


@pytest.mark.parametrize("policy", [wander, scaled])
def test_no_policy_exceeds_the_oracle_return(policy):
    paid, start, goal = returns(tasks.point_robot(), policy)
    assert (paid <= point.oracle_return(goal - start) + 1e-4).all()
    paid, _, goal = returns(tasks.sparse_point_robot(), policy)
    assert (paid <= point.sparse_oracle_return(goal) + 1e-4).all()


def test_expected_returns_have_their_known_values():
    np.testing.assert_allclose(point.expected_sparse_return(), 13.382, atol=1e-3)
    np.testing.assert_allclose(point.expected_sparse_return(horizon=100), 93.382, atol=1e-3)
    np.testing.assert_allclose(point.expected_return(), -5.18747, atol=1e-5)


def test_expected_returns_are_means_over_the_task_distribution():
    offset = np.diff(np.random.default_rng(0).uniform(-1, 1, (50_000, 2, 2)), axis=1)[:, 0]
    sample = point.oracle_return(offset)
    assert abs(sample.mean() - point.expected_return()) < 4 * sample.std() / np.sqrt(len(sample))
    angle = np.linspace(0, np.pi, 100)  # PEARL's own goals
    pearl = point.sparse_oracle_return(np.stack([np.cos(angle), np.sin(angle)], -1))
    np.testing.assert_allclose(pearl.mean(), point.expected_sparse_return(), atol=0.05)


@pytest.mark.parametrize("horizon", [1, 7, 30])
def test_return_for_a_goal_on_an_axis_by_hand(horizon):
    steps = np.arange(1, horizon + 1)
    np.testing.assert_allclose(
        point.oracle_return(np.array([0.55, 0.0]), horizon), -np.maximum(0.55 - 0.1 * steps, 0).sum()
    )


def test_an_episode_without_steps_is_refused():
    with pytest.raises(ValueError, match="horizon is 0; it must be at least 1"):
        point.expected_return(horizon=0)
