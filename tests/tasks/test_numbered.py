"""Numbered tasks, the task ID in the observation, and finite sets of several families."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmeta import outer, tasks, testing
from jaxmeta.tasks.adapters import metaworld
from jaxmeta.tasks.brax import viewer
from tests import tiny

KEY = jax.random.key(0)
GOALS = tasks.PointTask(goal=jnp.array([[0.5, 0.0], [-0.5, 0.0], [0.0, 0.5]]))


def three() -> tasks.TaskFamily:
    return tasks.numbered(tiny.family(), GOALS)


def test_a_numbered_family_is_exactly_its_tasks():
    family = three()
    testing.check_env(family)
    np.testing.assert_array_equal(jax.vmap(family.encode)(family.train_tasks), np.eye(3))
    for sample in (family.sample, family.sample_test):
        drawn = jax.vmap(sample)(jax.random.split(KEY, 64))
        assert set(np.unique(drawn.index)) == {0, 1, 2}
        np.testing.assert_array_equal(drawn.task.goal, GOALS.goal[drawn.index])


def test_an_environment_pays_for_the_goal_of_the_numbered_task():
    family, original = three(), tiny.family()
    task = jax.tree.map(lambda leaf: leaf[1], family.train_tasks)
    state, _ = family.env.reset(KEY, task)
    action = jnp.array([0.1, 0.0])
    reward = family.env.step(KEY, state, action, task)[1].reward
    assert reward == original.env.step(KEY, state, action, task.task)[1].reward
    assert reward != original.env.step(KEY, state, action, GOALS.replace(goal=GOALS.goal[0]))[1].reward


def test_the_task_id_is_the_end_of_the_observation():
    family = tasks.with_task_id(three())
    testing.check_env(family)
    assert family.env.spec.observation == (2 + 3,)
    _, obs = family.env.reset(KEY, jax.tree.map(lambda leaf: leaf[2], family.train_tasks))
    np.testing.assert_array_equal(obs[2:], [0, 0, 1])
    assert tasks.with_task_id(family) is family
    shown = tasks.reveal(three())
    assert tasks.with_task_id(shown) is shown


def test_an_encoding_that_the_family_reveals_stays_in_the_observation():
    family = tasks.with_task_id(tasks.reveal(tasks.finite(tiny.family(), 3, 1, KEY)))
    task = jax.tree.map(lambda leaf: leaf[1], family.train_tasks)
    _, obs = family.env.reset(KEY, task)
    np.testing.assert_array_equal(obs[2:], np.concatenate([task.task.goal, [0, 1, 0]]))


def test_a_dict_observation_gets_the_task_id_as_a_part():
    family = tasks.with_task_id(tasks.reveal(tasks.classic_control()))
    assert set(family.env.spec.observation) == {"obs", "actions", "task", "task_id"}
    _, obs = family.env.reset(KEY, jax.tree.map(lambda leaf: leaf[1], family.train_tasks))
    np.testing.assert_array_equal(obs["task_id"], [0, 1])


def test_dense_rewards_are_those_of_the_original_task():
    family = tasks.sparse_point_robot()
    shown = tasks.with_task_id(tasks.finite(family, 2, 1, KEY))
    task = jax.tree.map(lambda leaf: leaf[0], shown.train_tasks)
    obs = jnp.array([0.3, 0.4])
    assert shown.dense_reward(jnp.concatenate([obs, shown.encode(task)]), task) == family.dense_reward(obs, task.task)


def test_a_numbered_brax_body_can_be_shown():
    cheetah = tasks.half_cheetah_dir(tasks.HalfCheetahDirConfig(horizon=2))
    assert viewer.unwrap(tasks.with_task_id(cheetah).env) is cheetah.env


def test_several_finite_families_have_the_union_of_their_tasks():
    cars = tasks.finite(tasks.mountain_car(), 3, 1, KEY)
    poles = tasks.finite(tasks.cart_pole(), 2, 1, KEY)
    both = tasks.several(cars, poles)
    known = both.train_tasks
    np.testing.assert_array_equal(known.kind, [0, 0, 0, 1, 1])
    np.testing.assert_array_equal(known.parts[0].gravity, cars.train_tasks.gravity[jnp.array([0, 1, 2, 0, 0])])
    np.testing.assert_array_equal(known.parts[1].length, poles.train_tasks.length[jnp.array([0, 0, 0, 0, 1])])
    rows = np.asarray(jax.vmap(tasks.flatten_task)(known))
    drawn = np.asarray(jax.vmap(lambda key: tasks.flatten_task(both.sample(key)))(jax.random.split(KEY, 64)))
    assert {row.tobytes() for row in drawn} == {row.tobytes() for row in rows}
    assert tasks.several(cars, tasks.cart_pole()).train_tasks is None


def test_tasks_of_one_kind_have_one_id():
    cars = tasks.finite(tasks.mountain_car(), 3, 1, KEY)
    poles = tasks.finite(tasks.cart_pole(), 2, 1, KEY)
    family = tasks.with_task_id(tasks.several(cars, poles))
    np.testing.assert_array_equal(family.train_tasks.index, [0, 0, 0, 1, 1])
    np.testing.assert_array_equal(family.train_tasks.task.kind, family.train_tasks.index)
    _, obs = family.env.reset(KEY, jax.tree.map(lambda leaf: leaf[4], family.train_tasks))
    np.testing.assert_array_equal(obs["task_id"], [0, 1])
    testing.check_env(family)
    own = tasks.numbered(tasks.several(cars, poles), kinds=np.arange(5))
    np.testing.assert_array_equal(jax.vmap(own.encode)(own.train_tasks), np.eye(5))


def test_goals_of_visible_environments_of_metaworld_are_of_one_kind():
    index = jnp.arange(2 * metaworld.GOALS)
    np.testing.assert_array_equal(tasks.kinds_of(metaworld.VisibleTask(index)), np.repeat([0, 1], metaworld.GOALS))
    np.testing.assert_array_equal(tasks.kinds_of(metaworld.MetaWorldTask(index)), index)


def test_kinds_are_renumbered_without_gaps():
    task = tasks.SeveralTask(jnp.array([5, 2, 5, 9]), ())
    np.testing.assert_array_equal(tasks.kinds_of(task), [1, 0, 1, 2])


def test_every_kind_is_visited_with_a_task_drawn_among_its_own():
    goals = tasks.PointTask(goal=jnp.arange(5.0)[:, None] * jnp.ones(2))
    family = tasks.numbered(tiny.family(), goals, kinds=[1, 0, 1, 1, 0])
    sampler = outer.every(family, visits=3)
    testing.check_sampler(sampler, family, num_tasks=6)
    draw = jax.jit(jax.vmap(lambda key: sampler.sample(sampler.init(KEY), (), jax.random.split(key, 6))[1]))
    found = draw(jax.random.split(KEY, 200))
    np.testing.assert_array_equal(found.slot, np.tile([0, 0, 0, 1, 1, 1], (200, 1)))
    np.testing.assert_array_equal(found.tasks.index, found.slot)
    goal = np.asarray(found.tasks.task.goal)[..., 0]
    assert set(goal[:, :3].ravel()) == {1.0, 4.0} and set(goal[:, 3:].ravel()) == {0.0, 2.0, 3.0}
    # uniformly, and independently of each other: up to 4 standard errors
    np.testing.assert_allclose([np.mean(goal[:, 3:] == one) for one in (0, 2, 3)], 1 / 3, atol=0.08)
    np.testing.assert_allclose(np.mean(goal[:, 0] == goal[:, 1]), 1 / 2, atol=0.15)


def test_classic_control_with_standard_physics_has_one_task_of_each_kind():
    np.testing.assert_array_equal(tasks.classic_control().train_tasks.kind, [0, 1])
    assert tasks.classic_control(tasks.ClassicControlConfig(vary=True)).train_tasks is None


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: tasks.numbered(tiny.family()), r"tasks.train_tasks is None: .* finite set \(try jm.finite"),
        (lambda: tasks.with_task_id(tiny.family()), "tasks.train_tasks is None"),
        (lambda: tasks.numbered(tiny.family(), tasks.PointTask(goal=jnp.zeros((0, 2)))), r"first axes of \[0\]"),
        (lambda: tasks.numbered(tiny.family(), GOALS, [0, 1]), r"kinds is of shape \(2,\); 3 tasks need one of \(3,\)"),
        (lambda: tasks.numbered(tiny.family(), GOALS, [0, 2, 2]), r"kinds are \[0, 2\]; they must be all the integers"),
        (lambda: outer.every(tiny.family()), "outer.every needs a family with a finite set of training tasks"),
    ],
)
def test_a_family_without_a_finite_set_is_refused_in_one_line(build, message):
    with pytest.raises(ValueError, match=message) as found:
        build()
    assert "\n" not in str(found.value)


def test_every_task_is_visited_in_order_and_its_return_is_logged():
    family = three()
    sampler = outer.every(family, visits=2)
    testing.check_sampler(sampler, family, num_tasks=6)
    keys = jax.random.split(KEY, 6)
    state, draw = sampler.sample(sampler.init(KEY), (), keys)
    np.testing.assert_array_equal(draw.slot, [0, 0, 1, 1, 2, 2])
    np.testing.assert_array_equal(draw.tasks.index, draw.slot)
    state, _ = sampler.update(state, draw, jnp.array([1.0, 3.0, -4.0, -4.0, 5.0, 7.0]), jnp.ones(6, bool))
    # of the first task one visit is not finite, of the second none is
    finite = jnp.array([True, False, False, False, True, True])
    _, metrics = sampler.update(state, draw, jnp.where(finite, 2.0, jnp.nan), finite)
    each = [float(metrics[f"return/task_{index}"]) for index in range(3)]
    assert each == [2.0, -4.0, 2.0] and metrics["return/worst"] == -4.0
    with pytest.raises(ValueError, match="num_tasks is 5; 2 visits of 3 tasks need 6"):
        sampler.sample(state, (), keys[:5])


def test_returns_of_many_tasks_are_not_logged_one_by_one():
    family = tasks.numbered(tiny.family(), tasks.PointTask(goal=jnp.zeros((51, 2))))
    sampler = outer.every(family)
    state, draw = sampler.sample(sampler.init(KEY), (), jax.random.split(KEY, 51))
    _, metrics = sampler.update(state, draw, jnp.arange(51.0), jnp.ones(51, bool))
    assert metrics == {"return/worst": 0.0}
