from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmeta import tasks, testing

KEY = jax.random.key(0)
STAY, UP, RIGHT, DOWN, LEFT = range(5)
BLOCK = {(0, 0), (0, 1), (1, 0), (1, 1)}


def walk(actions, goal, env=tasks.GridNavigation()):
    """Returns the positions and rewards after each action."""
    task = tasks.GridTask(goal=jnp.array(goal, jnp.int32))
    state, obs = env.reset(KEY, task)
    np.testing.assert_array_equal(obs, [0.0, 0.0])
    _, steps = jax.lax.scan(lambda state, action: env.step(KEY, state, action, task), state, jnp.array(actions))
    assert not steps.terminated.any()
    return steps.obs.tolist(), steps.reward


def test_every_action_moves_as_named_and_borders_hold():
    places, _ = walk([UP, RIGHT, DOWN, LEFT, STAY, LEFT, DOWN], (4, 4))
    assert places == [[0, 1], [1, 1], [1, 0], [0, 0], [0, 0], [0, 0], [0, 0]]
    places, _ = walk([UP] * 6 + [RIGHT] * 6, (2, 2))
    assert places[5] == [0, 4] and places[-1] == [4, 4]


def test_the_goal_pays_at_every_step_on_it_and_ends_nothing():
    _, reward = walk([RIGHT, RIGHT, STAY, RIGHT, LEFT], (2, 0))
    np.testing.assert_allclose(reward, [-0.1, 1, 1, -0.1, 1])


def test_goals_are_uniform_over_all_cells_but_the_start_block():
    goals = jax.jit(jax.vmap(tasks.grid_navigation().sample))(jax.random.split(KEY, 21_000)).goal
    cells, counts = np.unique(goals, axis=0, return_counts=True)
    seen, listed = ({tuple(cell) for cell in np.asarray(some).tolist()} for some in (cells, tasks.all_goals().goal))
    assert seen == listed == {(x, y) for x in range(5) for y in range(5)} - BLOCK
    # the mean of chi-squared with 20 degrees of freedom is 20, its 99.9 % quantile 45.3
    assert ((counts - 1000) ** 2 / 1000).sum() < 45.3


@pytest.mark.parametrize(("size", "num_goals"), [(3, 5), (5, 21), (7, 45)])
def test_all_goals_are_as_many_as_cells_outside_the_start_block(size, num_goals):
    goal = tasks.all_goals(tasks.GridConfig(size=size)).goal
    assert goal.shape == (num_goals, 2) and len(np.unique(goal, axis=0)) == num_goals
    assert goal.min() == 0 and goal.max() == size - 1


def test_the_oracle_return_is_11_071():
    """The best is the shortest way and then to stay; the mean over the 21 goals is 16.1 - 1.1 x 96 / 21."""
    env, all_tasks = tasks.GridNavigation(), tasks.all_goals()

    def play(task):
        def one(state, _):
            x, y = task.goal - state.position
            return env.step(KEY, state, jnp.where(x > 0, RIGHT, jnp.where(y > 0, UP, STAY)), task)

        return jax.lax.scan(one, env.reset(KEY, task)[0], length=env.horizon)[1].reward.sum()

    returns = jax.jit(jax.vmap(play))(all_tasks)
    np.testing.assert_allclose(returns, 16.1 - 1.1 * all_tasks.goal.sum(-1), rtol=1e-5)
    np.testing.assert_allclose(returns.mean(), 11.071, atol=5e-4)


def test_a_grid_of_another_size_holds_the_contract():
    family = tasks.grid_navigation(tasks.GridConfig(size=3, horizon=6, num_episodes=2))
    testing.check_env(family, num_steps=4)
    assert (family.env.spec.horizon, family.episodes) == (6, 2)
