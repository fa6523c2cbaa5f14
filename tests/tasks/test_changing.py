"""Tasks that change in mid-episode, the double integrator, and rewards that planners know."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmeta import tasks, testing

KEY = jax.random.key(0)


def episode(env, task, actions):
    """The steps of one episode, [T, ...]."""

    def one(state, action):
        return env.step(KEY, state, action, task)

    return jax.lax.scan(one, env.reset(KEY, task)[0], jnp.asarray(actions)[:, None])[1]


def test_the_optimum_of_the_double_integrator_is_zero_and_standing_still_costs_a_thousandth_per_step():
    family = tasks.double_integrator()
    task = family.sample(KEY)
    best = episode(family.env, task, [-1.0, 1.0] + [0.0] * 28)
    np.testing.assert_array_equal(best.reward, 0.0)
    np.testing.assert_allclose(episode(family.env, task, [0.0] * 30).reward.sum(), -0.03, rtol=1e-6)


def test_a_changing_task_is_the_first_before_the_change_and_the_second_after_it():
    family = tasks.double_integrator(tasks.DoubleIntegratorConfig(gain=(0.5, 1.5)))
    change = lambda key, task: task.replace(gain=-task.gain)  # noqa: E731
    changed = tasks.changing(family, change, between=(0.2, 0.4))
    drawn = jax.vmap(changed.sample)(jax.random.split(KEY, 200))
    assert set(np.asarray(drawn.time).tolist()) == set(range(6, 13))
    np.testing.assert_array_equal(drawn.before.gain, -drawn.after.gain)
    task = jax.tree.map(lambda leaf: leaf[0], drawn)
    velocity = episode(changed.env, task, [1.0] * 15).obs[:, 1]
    gain = np.diff(np.concatenate([[0.0], velocity]))
    expected = np.where(np.arange(15) < int(task.time), task.before.gain, task.after.gain)
    np.testing.assert_allclose(gain, expected, rtol=1e-5)
    np.testing.assert_allclose(changed.encode(task)[-1], task.time / 30, rtol=1e-6)


def test_a_changing_family_holds_the_contract_with_its_planning_reward():
    family = tasks.changing(tasks.pendulum(tasks.PendulumConfig(horizon=6, reverse=True)))
    assert family.planning_reward is not None
    testing.check_env(family, num_steps=6)


def test_check_env_says_that_planners_would_get_another_reward():
    family = tasks.double_integrator(tasks.DoubleIntegratorConfig(horizon=4))
    before = family._replace(planning_reward=lambda obs, action, next_obs: -0.001 * obs[0] ** 2)
    with pytest.raises(testing.ContractError, match="family.planning_reward differs from the reward of env.step by"):
        testing.check_env(before)
    vector = family._replace(planning_reward=lambda obs, action, next_obs: next_obs)
    with pytest.raises(testing.ContractError, match=r"planning_reward returns float32\[2\]; it must return a float32"):
        testing.check_env(vector)


@pytest.mark.parametrize(
    "config",
    [
        tasks.CartPoleSwingUpConfig(horizon=6, reward="angle", repeat=2),
        tasks.CartPoleSwingUpConfig(horizon=6, length=(0.5, 0.5)),
    ],
)
def test_planners_know_the_reward_of_the_swing_up_unless_it_depends_on_a_hidden_length(config):
    testing.check_env(tasks.cart_pole_swing_up(config))
    assert tasks.cart_pole_swing_up(config).planning_reward is not None
    assert tasks.cart_pole_swing_up().planning_reward is None


def test_a_plan_gains_nothing_from_an_impossible_angle():
    reward = tasks.cart_pole_swing_up(tasks.CartPoleSwingUpConfig(reward="angle")).planning_reward
    upright, impossible = (jnp.array([0.0, 0.0, cos, 0.0, 0.0]) for cos in (-1.0, -2.3))
    np.testing.assert_allclose([reward(obs, jnp.zeros(1), obs) for obs in (upright, impossible)], 1.0, rtol=1e-6)
    assert float(reward(upright, jnp.zeros(1), jnp.array([0.0, 0.0, 0.6, 0.8, 0.0]))) == pytest.approx(0.2)


def test_repeated_actions_are_as_many_short_steps():
    short, long = (tasks.CartPoleSwingUp(repeat=repeat) for repeat in (1, 3))
    task = tasks.CartPoleSwingUpTask()
    several, one = episode(short, task, [0.7] * 3), episode(long, task, [0.7])
    np.testing.assert_allclose(several.obs[-1], one.obs[0], rtol=1e-6)


def test_revealed_tasks_keep_the_planning_reward():
    family = tasks.reveal(tasks.pendulum(tasks.PendulumConfig(horizon=6)))
    testing.check_env(family, num_steps=3)
    assert family.planning_reward is not None


def test_reversed_motors_are_half_of_the_tasks_and_encoded_by_sign():
    family = tasks.pendulum(tasks.PendulumConfig(gain=(0.7, 1.2), reverse=True))
    drawn = jax.vmap(family.sample)(jax.random.split(KEY, 1000))
    size = np.abs(drawn.gain)
    assert size.min() >= 0.7 and size.max() <= 1.2
    assert abs(np.mean(np.asarray(drawn.gain) < 0) - 0.5) < 0.06
    np.testing.assert_allclose(jax.vmap(family.encode)(drawn)[:, -1], drawn.gain / 1.2, rtol=1e-5)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: tasks.changing(tasks.pendulum(), between=(0.5, 0.4)), r"between is \(0.5, 0.4\); it must be LOW HIGH"),
        (lambda: tasks.changing(tasks.sparse_point_robot()), "the family has a dense reward"),
        (lambda: tasks.PendulumConfig(gain=(-1.0, 1.0), reverse=True), r"tasks.gain is \(-1.0, 1.0\); with reverse"),
        (lambda: tasks.CartPoleSwingUpConfig(repeat=0), "tasks.repeat is 0; an action is applied at least once"),
        (lambda: tasks.CartPoleSwingUpConfig(reward="pole"), "reward is 'pole'; it must be one of tip, angle"),
    ],
)
def test_bad_input(build, message):
    with pytest.raises(ValueError, match=message):
        build()
