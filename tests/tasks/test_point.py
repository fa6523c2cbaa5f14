from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxmeta as jm
from jaxmeta import tasks
from jaxmeta.tasks.navigation import PointState

KEY = jax.random.key(0)
GOAL = tasks.PointTask(goal=jnp.array([0.6, 0.8]))


def test_point_robot_moves_at_most_a_tenth_and_stays_in_play_at_the_goal():
    env = tasks.PointRobot()
    state = PointState(jnp.array([0.45, 0.85]))
    for action, position, reward in (
        ([5.0, 0.0], [0.55, 0.85], -np.hypot(0.05, 0.05)),
        ([0.05, -0.05], [0.6, 0.8], 0.0),
        ([-0.02, -1.0], [0.58, 0.7], -np.hypot(0.02, 0.1)),
    ):
        state, step = env.step(KEY, state, jnp.array(action), GOAL)
        np.testing.assert_allclose(step.obs, position, rtol=1e-6)
        np.testing.assert_allclose(step.reward, reward, rtol=1e-5, atol=1e-6)
        assert not step.terminated
    assert env.spec.horizon == 20 and not env.spec.terminates


def test_point_robot_draws_goals_and_starts_from_the_square():
    family = tasks.point_robot()
    keys = jax.random.split(KEY, 5000)
    goals = np.asarray(jax.vmap(family.sample)(keys).goal)
    starts = np.asarray(jax.vmap(lambda key: family.env.reset(key, GOAL)[1])(keys))
    for points in (goals, starts):
        assert np.abs(points).max() <= 1.0
        np.testing.assert_allclose(points.mean(0), 0.0, atol=0.04)
        np.testing.assert_allclose(np.cov(points.T), np.eye(2) / 3, atol=0.02)


def test_sparse_point_robot_draws_goals_from_the_half_circle_and_starts_at_its_centre():
    family = tasks.sparse_point_robot()
    goals = np.asarray(jax.vmap(family.sample)(jax.random.split(KEY, 5000)).goal)
    np.testing.assert_allclose(np.linalg.norm(goals, axis=-1), 1.0, rtol=1e-6)
    angle = np.arctan2(goals[:, 1], goals[:, 0])
    np.testing.assert_allclose(np.quantile(angle, [0.0, 0.25, 0.5, 0.75, 1.0]), np.pi * np.arange(5) / 4, atol=0.06)
    np.testing.assert_array_equal(family.env.reset(KEY, GOAL)[1], [0, 0])


@pytest.mark.parametrize(("distance", "paid"), [(0.0, 1.0), (0.05, 0.95), (0.199, 0.801), (0.201, 0.0), (1.0, 0.0)])
def test_sparse_point_robot_pays_near_the_goal_and_has_a_dense_reward_to_train_on(distance, paid):
    env = tasks.SparsePointRobot()
    start = GOAL.goal - jnp.array([0.6, 0.8]) * distance
    _, step = env.step(KEY, PointState(start), jnp.zeros(2), GOAL)
    np.testing.assert_allclose(step.reward, paid, rtol=1e-5)
    np.testing.assert_allclose(env.dense_reward(step.obs, GOAL), -distance, rtol=1e-5, atol=1e-6)
    assert not step.terminated


def test_only_the_sparse_robot_has_another_reward_to_train_on():
    assert tasks.point_robot().dense_reward is None and tasks.sparse_point_robot().dense_reward is not None


def test_an_oracle_trains_on_the_other_reward_too():
    sparse, dense = (tasks.reveal(family) for family in (tasks.sparse_point_robot(), tasks.point_robot()))
    obs = jnp.concatenate([jnp.array([0.5, 0.2]), GOAL.goal])
    expected = tasks.SparsePointRobot().dense_reward(obs[:2], GOAL)
    np.testing.assert_array_equal(sparse.dense_reward(obs, GOAL), expected)
    assert dense.dense_reward is None


@pytest.mark.parametrize("family", [tasks.point_robot(), tasks.sparse_point_robot()])
def test_point_robots_have_the_task_sets_of_pearl(family):
    sets = jm.finite(family, num_train=80, num_test=20, key=KEY)
    drawn = np.asarray(jax.vmap(sets.sample)(jax.random.split(KEY, 2000)).goal)
    assert len(np.unique(drawn, axis=0)) == 80
    assert family.encode(GOAL).tolist() == GOAL.goal.tolist()
