from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmeta import tasks
from jaxmeta.tasks.four_rooms import CELLS, HALLWAYS, neighbours, transitions

KEY = jax.random.key(0)
UP, DOWN, LEFT, RIGHT = range(4)


def test_there_are_104_cells_and_four_hallways():
    assert CELLS.shape == (104, 2)
    # a hallway joins two rooms: without it there is no way between the cells on its two sides
    reached = neighbours()
    for cell in HALLWAYS:
        assert (reached[cell] != cell).sum() == 2
    # a move and its opposite lead back, unless a wall is in the way
    for cell in range(104):
        for move, back in ((UP, DOWN), (LEFT, RIGHT)):
            if reached[cell, move] != cell:
                assert reached[reached[cell, move], back] == cell


def test_the_transitions_by_hand():
    """Cell 0 is a corner, with 1 on its right and 10 below; around 1 are 0, 2 and 11."""
    code, sutton = transitions("code"), transitions("sutton")
    for table in (code, sutton):
        np.testing.assert_allclose(table.sum(-1), 1.0, atol=1e-12)
    assert code[0, UP, 0] == code[0, LEFT, 0] == 1.0  # a wall: no further step
    np.testing.assert_allclose(code[0, RIGHT, [1, 0, 2, 11]], [2 / 3, 1 / 9, 1 / 9, 1 / 9])
    np.testing.assert_allclose(sutton[0, RIGHT, [1, 10, 0]], [2 / 3, 1 / 9, 2 / 9])
    np.testing.assert_allclose(sutton[0, UP, [1, 10, 0]], [1 / 9, 1 / 9, 7 / 9])


@pytest.mark.parametrize("dynamics", ["code", "sutton"])
def test_steps_have_the_frequencies_of_the_transitions(dynamics):
    env, number = tasks.FourRooms(dynamics), 3000
    task = tasks.FourRoomsTask(jnp.int32(62))

    @jax.jit
    @functools.partial(jax.vmap, in_axes=(0, None, None))
    def step(key, cell, action):
        return env.step(key, tasks.FourRoomsState(cell), action, task)[0].cell

    expected = transitions(dynamics)
    for cell, action in ((0, RIGHT), (0, UP), (25, LEFT), (62, DOWN), (51, UP)):
        found = np.bincount(step(jax.random.split(KEY, number), jnp.int32(cell), jnp.int32(action)), minlength=104)
        probability = expected[cell, action]
        error = np.sqrt(probability * (1 - probability) / number)
        assert (np.abs(found / number - probability) <= 4 * error + 1e-9).all()


@pytest.mark.parametrize(("reward", "paid"), [("goal", (1.0, 0.0)), ("step", (0.0, -1.0))])
@pytest.mark.parametrize("goal_ends", [False, True])
def test_rewards_and_ends(reward, paid, goal_ends):
    env = tasks.four_rooms(tasks.FourRoomsConfig(reward=reward, goal_ends=goal_ends)).env
    assert env.spec.terminates == goal_ends and env.spec.success
    for goal, expected in ((0, paid[0]), (1, paid[1])):  # a move into a corner stays
        _, step = env.step(KEY, tasks.FourRoomsState(jnp.int32(0)), jnp.int32(UP), tasks.FourRoomsTask(jnp.int32(goal)))
        assert float(step.reward) == expected
        assert bool(step.success) == (goal == 0) and bool(step.terminated) == (goal_ends and goal == 0)


def test_goals_are_drawn_and_starts_are_any_other_cell():
    keys = jax.random.split(KEY, 2000)
    family = tasks.four_rooms()
    assert len(np.unique(jax.vmap(family.sample)(keys).goal)) == 104
    starts = jax.vmap(lambda key: family.env.reset(key, tasks.FourRoomsTask(jnp.int32(62)))[0].cell)(keys)
    assert set(np.unique(starts)) == set(range(104)) - {62}
    fixed = tasks.four_rooms(tasks.FourRoomsConfig(start=62))
    known = fixed.train_tasks
    assert known is not None and set(np.asarray(known.goal)) == set(range(104)) - {62}
    few = tasks.four_rooms(tasks.FourRoomsConfig(goals=(68, 80, 90, 103)))
    assert set(np.unique(jax.vmap(few.sample_test)(keys).goal)) == {68, 80, 90, 103}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"dynamics": "docstring"}, "tasks.dynamics is 'docstring'; it must be one of code, sutton"),
        ({"reward": "dense"}, "tasks.reward is 'dense'; it must be one of goal, step"),
        ({"start": 104}, "tasks.start is 104; cells are numbered from 0 to 103"),
        ({"goals": (1, 200)}, "cells are numbered from 0 to 103"),
        ({"goals": (1, 1)}, "every cell may occur once"),
        ({"horizon": 0}, "tasks.horizon is 0; an episode needs at least 1 step"),
    ],
)
def test_bad_fields_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        tasks.FourRoomsConfig(**fields)
