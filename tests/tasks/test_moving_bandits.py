from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from jaxmeta import tasks

KEY = jax.random.key(0)
ENV = tasks.moving_bandits().env


def test_the_goal_of_the_task_pays_within_its_radius_after_the_move():
    goals = jnp.array([[250.0, 200.0], [200.0, 100.0]])
    state = tasks.MovingBanditsState(jnp.array([200.0, 200.0]), goals)
    paid = []
    for action in (0, 1, 0, 2, 4, 4, 4):  # stay at a distance of exactly 50, right, stay, left, down three times
        state, step = ENV.step(KEY, state, jnp.int32(action), tasks.MovingBanditsTask(jnp.int32(0)))
        _, other = ENV.step(KEY, state, jnp.int32(0), tasks.MovingBanditsTask(jnp.int32(1)))
        assert bool(step.success) == bool(step.reward) and not step.terminated
        paid.append((float(step.reward), float(other.reward)))
    assert paid == [(0, 0), (1, 0), (1, 0), (0, 0), (0, 0), (0, 0), (0, 1)]
    np.testing.assert_array_equal(state.position, [200.0, 140.0])


def test_goals_are_drawn_anew_and_observed_but_not_which_pays():
    state, obs = ENV.reset(KEY, tasks.MovingBanditsTask(jnp.int32(0)))
    again, same = ENV.reset(KEY, tasks.MovingBanditsTask(jnp.int32(1)))
    np.testing.assert_array_equal(obs, same)
    np.testing.assert_allclose(obs * 400, [200, 200, *np.ravel(state.goals)], rtol=1e-6)
    other, _ = ENV.reset(jax.random.key(1), tasks.MovingBanditsTask(jnp.int32(0)))
    assert np.abs(other.goals - again.goals).min() > 0
    drawn = jax.vmap(lambda key: ENV.reset(key, tasks.MovingBanditsTask(jnp.int32(0)))[0].goals)(
        jax.random.split(KEY, 500)
    )
    assert drawn.min() >= 0 and drawn.max() <= 400 and abs(float(drawn.mean()) - 200) < 15
