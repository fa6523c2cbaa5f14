from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxmeta as jm
from jaxmeta import tasks
from jaxmeta.references import dark_room

KEY = jax.random.key(0)


def cells(goal):
    return {tuple(cell) for cell in np.asarray(goal).tolist()}


def test_the_default_holds_out_the_20_goals_of_dpt():
    goals = tasks.dark_room_goals().goal
    family = tasks.dark_room()
    train, test = goals[:80], goals[80:]
    assert len(cells(goals)) == 100 and cells(family.train_tasks.goal) == cells(train)
    # computed by NumPy as in DPT's code: a permutation of the numbers 10 x + y by RandomState(0)
    np.testing.assert_array_equal(goals[:, 0] * 10 + goals[:, 1], np.random.RandomState(0).permutation(100))
    draws = {
        name: jax.jit(jax.vmap(getattr(family, name)))(jax.random.split(KEY, 2000)) for name in family._fields[1:3]
    }
    assert cells(draws["sample"].goal) == cells(train) and cells(draws["sample_test"].goal) == cells(test)


def test_without_held_out_goals_all_cells_are_drawn_for_both():
    family = tasks.dark_room(tasks.DarkRoomConfig(size=3, held_out=0))
    for sample in (family.sample, family.sample_test):
        assert len(cells(jax.vmap(sample)(jax.random.split(KEY, 200)).goal)) == 9


def test_the_goal_pays_one_at_every_step_on_it_and_all_else_nothing():
    family = tasks.dark_room()
    task, state = tasks.GridTask(goal=jnp.array([0, 0])), None
    state, _ = family.env.reset(KEY, task)
    rewards = []
    for action in (0, 2, 4, 4):  # stay, right, left, left into the border
        state, step = family.env.step(KEY, state, jnp.int32(action), task)
        rewards.append(float(step.reward))
        assert bool(step.success) == bool(step.reward) and not step.terminated
    assert rewards == [1.0, 0.0, 1.0, 1.0]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"held_out": 100}, "tasks.held_out is 100; it must be at least 0, and leave one of 100 cells"),
        ({"held_out": -1}, "tasks.held_out is -1; it must be at least 0"),
        ({"size": 0}, "tasks.size is 0; a room needs at least 1 cell"),
    ],
)
def test_bad_sizes_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        tasks.DarkRoomConfig(**fields)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_rl2_finds_goals_and_comes_back_to_them():
    config = tasks.DarkRoomConfig(held_out=0)
    family = tasks.dark_room(config)
    ppo = jm.outer.ActorCriticConfig(learning_rate=2e-3, epochs=4, minibatches=4, entropy_weight=0.1, anneal_over=800)
    rl2 = jm.RL2Config(num_tasks=256, hidden=64, trace=0.95, separate_value=False, ppo=ppo)
    meta = jm.rl2(family, rl2)
    state = jm.train(meta, jm.init_state(meta, KEY), 800, chunk=20)
    goals = jax.tree.map(lambda leaf: jnp.tile(leaf, (8, 1)), tasks.dark_room_goals(config))
    report = jm.evaluate(meta.learner, state.params, family, goals, jax.random.key(2), meta.plan)
    first, second = np.asarray(report.returns)[:, 0, 0].mean(0)
    best_first, best_second = dark_room.bayes_optimal_returns()
    # actions are sampled: the standard error of a mean of 800 returns is about 1
    assert 0.8 * best_first < first < best_first + 3.0
    assert 0.9 * best_second <= second <= best_second
