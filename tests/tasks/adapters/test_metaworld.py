"""Meta-World: goals, observations and success, the same trajectories for the same keys, its biased evaluation.

What needs the library runs in the environment that examples/metaworld_environment.sh makes.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxmeta as jm
from jaxmeta import testing
from jaxmeta.config import extras
from jaxmeta.tasks.adapters.metaworld import GOALS, MetaWorldConfig, MetaWorldTask, first_to_end, metaworld
from tests import tiny

needs_metaworld = pytest.mark.skipif(
    importlib.util.find_spec("metaworld") is None,
    reason="needs Meta-World; examples/metaworld_environment.sh makes an environment with it",
)
CLOSED_FORM = {
    100: lambda p: 1 - (1 - p) ** 4,
    400: lambda p: sum(math.comb(4, k) * p**k * (1 - p) ** (4 - k) * min(k, 3) / 3 for k in range(5)),
}
"""By the step of success, what the evaluation reports if a share p of the goals is always solved."""


@pytest.fixture(scope="module")
def reach():
    return metaworld(MetaWorldConfig(horizon=4))


def simulated(share, step, goals, rng):
    """Lengths and successes [goals, 6] where a share of the goals is always solved at a step, the others never."""
    solved = rng.permutation(goals) < share * goals
    lengths = np.where(solved, step, 500)[:, None].repeat(6, 1)
    return lengths, solved[:, None].repeat(6, 1).astype(np.float32)


@pytest.mark.parametrize(
    ("share", "early", "late"), [(0.10, 0.34, 0.16), (0.25, 0.71, 0.34), (0.35, 0.85, 0.46), (0.5, 0.92, 0.65)]
)
def test_the_biased_evaluation_reports_what_metaworld_does(share, early, late):
    rng = np.random.default_rng(0)
    # what Meta-World's own code reported on a stub, 50 groups of 4 goals: up to its sampling error
    for step, reported in ((100, early), (400, late)):
        lengths, successes = simulated(share, step, 40_000, rng)
        biased = first_to_end(lengths, successes)
        np.testing.assert_allclose(successes.mean(), share)
        np.testing.assert_allclose(biased, CLOSED_FORM[step](share), atol=0.01)
        np.testing.assert_allclose(biased, reported, atol=0.04)


def test_episodes_that_end_at_once_are_counted_in_the_order_of_goals():
    lengths, successes = np.full((4, 3), 500), np.zeros((4, 3))
    assert first_to_end(lengths, successes) == 0
    successes[3] = 1  # a success at the horizon ends with the failures of three goals before it
    assert first_to_end(lengths, successes) == 0
    successes[2] = 1
    np.testing.assert_allclose(first_to_end(lengths, successes), 1 / 3)
    lengths[3] = 499
    np.testing.assert_allclose(first_to_end(lengths, successes), 1 / 3)


@pytest.mark.parametrize("shape", [(5, 3), (4, 2)])
def test_the_biased_evaluation_needs_whole_groups_and_enough_episodes(shape):
    with pytest.raises(ValueError, match=r"lengths is \[., .\]; it must have a multiple of 4 goals and 3 episodes"):
        first_to_end(np.ones(shape), np.ones(shape))


def test_episodes_have_at_most_500_steps():
    with pytest.raises(ValueError, match="tasks.horizon is 501; episodes of Meta-World have at most 500 steps"):
        MetaWorldConfig(horizon=501)


@pytest.mark.skipif(importlib.util.find_spec("metaworld") is not None, reason="Meta-World is installed")
def test_without_metaworld_one_line_says_what_installs_it():
    with pytest.raises(extras.MissingExtraError, match=r'pip install "jaxmeta\[metaworld\]" installs it'):
        metaworld()


@needs_metaworld
def test_a_typo_suggests_a_near_miss():
    with pytest.raises(ValueError, match="tasks.env is 'raech-v3', .*; did you mean 'reach-v3'?"):
        metaworld(MetaWorldConfig(env="raech-v3"))


@needs_metaworld
def test_reach_holds_the_contract_of_environments(reach):
    testing.check_env(reach, num_steps=3)


@needs_metaworld
def test_held_out_goals_of_ml1_are_not_training_goals(reach):
    codes = np.asarray(jax.vmap(reach.encode)(MetaWorldTask(jnp.arange(2 * GOALS)))).tolist()
    train, test = ({tuple(code) for code in part} for part in (codes[:GOALS], codes[GOALS:]))
    assert len(train) == len(test) == GOALS and not train & test
    for sample, low in ((reach.sample, 0), (reach.sample_test, GOALS)):
        index = jax.vmap(sample)(jax.random.split(jax.random.key(0), 500)).index
        assert set(np.asarray(index).tolist()) == set(range(low, low + GOALS))


@needs_metaworld
def test_the_same_keys_give_the_same_trajectories_whatever_the_simulators_did_before(reach):
    def run(task, key):
        state, first = reach.env.reset(key, task)
        actions = jax.random.uniform(key, (4, 4), minval=-1, maxval=1)
        return first, jax.lax.scan(lambda state, action: reach.env.step(key, state, action, task), state, actions)[1]

    tasks, keys = MetaWorldTask(jnp.array([3, 70, 3, 11])), jax.random.split(jax.random.key(1), 4)
    batch = jax.jit(jax.vmap(run))
    once = jax.device_get(batch(tasks, keys))
    batch(jax.tree.map(lambda leaf: leaf[::-1], tasks), keys)
    chex.assert_trees_all_equal(once, jax.device_get(batch(tasks, keys)))
    chex.assert_trees_all_equal(once, jax.jit(lambda: jax.lax.map(lambda one: run(*one), (tasks, keys)))())


@needs_metaworld
def test_an_episode_is_that_of_metaworld_and_the_goal_is_hidden(reach):
    import metaworld as library

    benchmark = library.ML1("reach-v3", seed=0)
    own = benchmark.train_classes["reach-v3"]()
    own.set_task(benchmark.train_tasks[7])
    expected, _ = own.reset()
    task, key = MetaWorldTask(jnp.int32(7)), jax.random.key(0)
    state, obs = reach.env.reset(key, task)
    np.testing.assert_allclose(obs, expected, rtol=1e-6)
    for action in np.random.default_rng(0).uniform(-1, 1, (4, 4)).astype(np.float32):
        expected, reward, _, _, info = own.step(action.astype(np.float64))
        state, step = reach.env.step(key, state, jnp.asarray(action), task)
        np.testing.assert_allclose(step.obs, expected, rtol=1e-6)
        np.testing.assert_allclose(step.reward, reward, rtol=1e-6)
        assert step.success == bool(info["success"])
        np.testing.assert_array_equal(step.obs[36:], 0)


@needs_metaworld
@pytest.mark.parametrize("ends", [False, True])
def test_success_is_reported_and_may_end_an_episode(ends):
    """The hand moves straight to the goal, which the encoding holds."""
    family = metaworld(MetaWorldConfig(horizon=80, end_on_success=ends))
    env, task, key = family.env, MetaWorldTask(jnp.int32(0)), jax.random.key(0)
    goal = family.encode(task)[-3:]

    def step(carry, _):
        state, obs = carry
        state, outcome = env.step(key, state, jnp.append(jnp.clip(10 * (goal - obs[:3]), -1, 1), 0.0), task)
        return (state, outcome.obs), outcome

    steps = jax.jit(lambda: jax.lax.scan(step, env.reset(key, task), None, 80)[1])()
    assert steps.success.any() and not steps.success[0]
    np.testing.assert_array_equal(np.flatnonzero(steps.terminated), [np.argmax(steps.success)] if ends else [])
    assert (steps.reward[-1] == 0) == ends


@needs_metaworld
@pytest.mark.parametrize("name", ["rl2", "ppo", "maml"])
def test_algorithms_train_on_it(reach, name):
    meta = tiny.algo(name, reach)
    state = jm.train(meta, jm.init_state(meta, jax.random.key(0)), 3)
    assert int(state.step) == 3 and int(state.skipped) == 0


@needs_metaworld
@pytest.mark.slow
def test_an_algorithm_on_it_holds_the_contract(reach):
    testing.check_algo(tiny.algo("ppo", reach))


@needs_metaworld
@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "train", "test"), [("ML10", 10, 5), ("ML45", 45, 5), ("MT10", 10, 0), ("MT50", 50, 0)]
)
def test_a_benchmark_has_its_environments(name, train, test):
    family = metaworld(MetaWorldConfig(name, horizon=2))
    visible = name.startswith("MT")
    assert family.env.spec.observation == (39 + train * visible,)
    draw = lambda sample: set(np.asarray(jax.vmap(sample)(jax.random.split(jax.random.key(0), 4000)).index // GOALS))  # noqa: E731
    assert draw(family.sample) == set(range(train))
    assert draw(family.sample_test) == (set(range(train, train + test)) if test else set(range(train)))
    tasks = MetaWorldTask(jnp.arange(0, train + test) * GOALS)
    obs = np.asarray(jax.vmap(family.env.reset, (None, 0))(jax.random.key(0), tasks)[1])
    codes = np.asarray(jax.vmap(family.encode)(tasks))
    np.testing.assert_array_equal(codes[:, : train + test], np.eye(train + test))
    if visible:
        np.testing.assert_array_equal(obs[:, 39:], np.eye(train))
        assert np.abs(obs[:, 36:39]).sum(1).min() > 0
    else:
        np.testing.assert_array_equal(obs[:, 36:], 0)


@needs_metaworld
def test_versions_of_the_reward_differ():
    rewards = []
    for version in ("v1", "v2"):
        env = metaworld(dataclasses.replace(MetaWorldConfig(horizon=1), reward=version)).env
        state, _ = env.reset(jax.random.key(0), MetaWorldTask(jnp.int32(0)))
        rewards.append(float(env.step(jax.random.key(0), state, jnp.ones(4), MetaWorldTask(jnp.int32(0)))[1].reward))
    assert abs(rewards[0] - rewards[1]) > 1e-3
