"""Planners reach the exact optimum in the environment of the student, and the student does not see what they see."""

from __future__ import annotations

import functools

import jax
import numpy as np
import pytest

import jaxmeta as jm
from jaxmeta import outer, references
from jaxmeta.references import experts


@functools.cache
def episodes_of(name: str):
    """Families, and the exact optimum of an episode on some of their tasks [N]."""
    if name == "navigation":
        family = jm.tasks.navigation(jm.tasks.NavigationConfig(horizon=8))
        return family, None
    if name == "point-robot":
        return jm.tasks.point_robot(jm.tasks.PointRobotConfig(horizon=5)), None
    if name == "maze":
        family = jm.tasks.maze(jm.tasks.MazeConfig(size=3, horizon=20, num_train=0))
        return family, lambda task: references.maze.oracle_return(task, 20)
    if name == "grid-navigation":
        family = jm.tasks.grid_navigation()
        return family, lambda task: 1.1 * (16 - np.abs(np.asarray(task.goal)).sum(-1)) - 1.5
    raise KeyError(name)


def demonstrated(family, tasks, count):
    expert = experts.planner(family)
    keys = jax.random.split(jax.random.key(1), count)

    def one(task, key):
        return jm.rollout(outer.acting(expert, task), (), (), family.env, task, key)

    return jax.jit(jax.vmap(one))(tasks, keys)


@pytest.mark.parametrize("name", ["navigation", "point-robot", "maze", "grid-navigation"])
def test_a_planner_is_optimal_and_its_experience_does_not_show_the_task(name):
    family, optimum = episodes_of(name)
    tasks = jax.vmap(family.sample)(jax.random.split(jax.random.key(0), 20))
    found = demonstrated(family, tasks, 20)
    returns = np.asarray(found.reward.sum(1).mean(-1))
    if optimum is None:
        start = np.asarray(found.inputs.obs[:, 0, 0])
        distance = references.point.shortest_distances(np.asarray(tasks.goal) - start, family.env.spec.horizon)
        expected = -(distance * np.asarray(found.valid[:, :, 0])).sum(-1)
    else:
        expected = np.asarray(optimum(tasks))
    np.testing.assert_allclose(returns, expected, atol=1e-4)
    assert found.inputs.obs.shape[3:] == family.env.spec.observation


def test_value_iteration_and_the_best_arm_are_labels():
    config = jm.tasks.TabularConfig(num_states=3, num_actions=2, horizon=4)
    family = jm.tasks.tabular(config)
    task = family.sample(jax.random.key(0))
    walk = jm.rollout(references.bandits.random(2), (), (), family.env, task, jax.random.key(1), streams=3, episodes=2)
    label = outer.expert_actions(experts.planner(family), task, walk)
    q = np.asarray(references.tabular.optimal_q(task.reward, task.transition, 4))
    state = np.asarray(walk.inputs.obs.argmax(-1))
    np.testing.assert_array_equal(label, q[np.arange(8)[:, None] % 4, state].argmax(-1))

    arms = jm.tasks.bandit(jm.tasks.BanditConfig(num_arms=4, num_pulls=3))
    task = arms.sample(jax.random.key(2))
    pulls = jm.rollout(references.bandits.random(4), (), (), arms.env, task, jax.random.key(3), episodes=3)
    assert (outer.expert_actions(experts.planner(arms), task, pulls) == task.probability.argmax()).all()


def test_an_expert_on_a_revealed_family_observes_what_the_student_does():
    family = jm.tasks.reveal(jm.tasks.grid_navigation())
    assert experts.planner(family).observe is None
    task = family.sample(jax.random.key(0))
    walk = jm.rollout(references.bandits.random(5), (), (), family.env, task, jax.random.key(1))
    plain = jm.tasks.grid_navigation()
    hidden = walk.replace(inputs=jax.tree.map(lambda leaf: leaf, walk.inputs))
    label = outer.expert_actions(experts.planner(family), task, hidden)
    cut = lambda obs: obs[..., :2]  # noqa: E731
    inputs = walk.inputs.replace(obs=cut(walk.inputs.obs), prev_next_obs=cut(walk.inputs.prev_next_obs))
    again = outer.expert_actions(experts.planner(plain), task, walk.replace(inputs=inputs, next_obs=cut(walk.next_obs)))
    np.testing.assert_array_equal(label, again)


def test_a_wanderer_does_not_react_to_the_task_and_reaches_the_whole_grid():
    config = jm.tasks.DarkRoomConfig(size=4, horizon=100, num_episodes=1, held_out=0)
    family = jm.tasks.dark_room(config)
    behaviour = experts.blind_behaviour(family)
    assert behaviour.observe is None

    @jax.jit
    def walk(task):
        return jm.rollout(behaviour.learner, (), (), family.env, task, jax.random.key(0), streams=50).next_obs

    one, other = (np.asarray(walk(family.sample(jax.random.key(seed)))) for seed in (0, 1))
    np.testing.assert_array_equal(one, other)
    cell = (one @ np.array([4.0, 1.0])).astype(int)
    visited = np.array([len(np.unique(cell[:, stream])) for stream in range(50)])
    # uniform actions visit 9 cells in the median and all in a few streams
    assert np.median(visited) > 10 and visited.max() == 16
    still = (cell[1:] == cell[:-1]).mean(0)
    assert still.min() < 0.2 and still.max() > 0.7  # contexts that search, and contexts that stay


def test_agents_to_compare_with_are_named():
    def names(family):
        return list(experts.comparisons(family))

    assert names(jm.tasks.bandit()) == ["knows the task", "UCB1", "Thompson sampling"]
    assert names(jm.tasks.tabular()) == ["knows the task", "posterior sampling"]
    assert names(jm.tasks.grid_navigation()) == ["knows the task", "Bayes-optimal"]
    assert names(jm.tasks.dark_room()) == ["knows the task", "Bayes-optimal", "exact posterior, sampled"]
    # the search for a path would take minutes, and a short room cannot be swept
    assert names(jm.tasks.grid_navigation(jm.tasks.GridConfig(size=7))) == ["knows the task"]
    assert names(jm.tasks.dark_room(jm.tasks.DarkRoomConfig(horizon=99))) == ["knows the task"]
    assert names(jm.tasks.gaussian_bandit()) == ["knows the task"]
    assert names(jm.tasks.pendulum()) == []
