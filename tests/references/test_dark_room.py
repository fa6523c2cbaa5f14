from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxmeta as jm
from jaxmeta.references import dark_room, grid


def test_the_returns_of_dpts_room():
    # 100 steps, less the way to goals 9 cells away on average; one more at the goal that is the start is impossible
    assert dark_room.oracle_return() == pytest.approx(91.99, abs=1e-9)
    # at step t = 1, ..., 100 the goal is found with probability 1/100, and pays for 101 - t steps
    np.testing.assert_allclose(dark_room.bayes_optimal_returns(episodes=3), [50.50, 91.99, 91.99], atol=1e-9)


@pytest.mark.parametrize(("size", "horizon", "episodes"), [(2, 4, 2), (2, 6, 1), (3, 9, 1)])
def test_the_sweep_is_as_good_as_the_best_path(size, horizon, episodes):
    best = grid.bayes_optimal_returns(dark_room.room(size, horizon), episodes)
    returns = dark_room.bayes_optimal_returns(size, horizon, episodes)
    assert returns.sum() == pytest.approx(best.sum(), abs=1e-9)


def test_a_sweep_visits_every_cell_and_can_be_walked():
    path = dark_room.sweep(size=5, horizon=30, episodes=1)[0]
    assert len(np.unique(path[:25], axis=0)) == 25
    assert np.abs(np.diff(np.concatenate([[(0, 0)], path]), axis=0)).sum(-1).max() <= 1
    with pytest.raises(ValueError, match="horizon is 24; a sweep of 25 cells needs at least 25 steps"):
        dark_room.sweep(size=5, horizon=24)


def test_what_the_learners_are_paid_is_what_was_computed():
    config = jm.tasks.DarkRoomConfig(size=4, horizon=16, held_out=0)
    family, key, plan = jm.tasks.dark_room(config), jax.random.key(0), jm.Plan(episodes=2)
    explorer, knowing = dark_room.bayes_optimal(4, 16), dark_room.oracle(4, 16)
    for learner, on, expected in (
        (explorer, family, dark_room.bayes_optimal_returns(4, 16)),
        (knowing, jm.tasks.reveal(family), np.full(2, dark_room.oracle_return(4, 16))),
    ):
        report = jm.evaluate(learner, learner.init(key), on.env, jm.tasks.dark_room_goals(config), key, plan)
        np.testing.assert_allclose(np.asarray(report.returns)[:, 0, 0].mean(0), expected, atol=1e-4)


def act(learner, carry, position, before, paid, first=0.0):
    """Probabilities of the next action at a position, after a step that led to the cell `before`."""
    spec = jm.tasks.dark_room(jm.tasks.DarkRoomConfig(size=2, held_out=0)).env.spec
    inputs = spec.example_input().replace(
        obs=jnp.array(position, jnp.float32),
        prev_next_obs=jnp.array(before, jnp.float32),
        prev_reward=jnp.float32(paid),
        first=jnp.float32(first),
    )
    carry, output = learner.act((), (), carry, inputs)
    return carry, np.asarray(jax.nn.softmax(output.dist))


def test_probability_matching_is_the_posterior_over_the_planners_actions():
    learner = dark_room.probability_matching(2)
    carry = learner.reset((), (), jax.random.key(0))
    # goals (0, 0), (0, 1), (1, 0), (1, 1): the planner stays, goes up, right, and up first
    carry, chance = act(learner, carry, (0, 0), (0, 0), 0.0, first=1.0)
    np.testing.assert_allclose(chance, [1 / 4, 1 / 2, 1 / 4, 0, 0], atol=1e-6)
    # not at (0, 1): down to the start, and right to the two others, also where down is as short
    carry, chance = act(learner, carry, (0, 1), (0, 1), 0.0)
    np.testing.assert_allclose(chance, [0, 0, 2 / 3, 1 / 3, 0], atol=1e-6)
    # a new episode: the agent is back at the start, but was paid at (1, 1)
    carry, chance = act(learner, carry, (0, 0), (1, 1), 1.0)
    np.testing.assert_allclose(chance, [0, 1, 0, 0, 0], atol=1e-6)
    _, chance = act(learner, carry, (0, 1), (0, 1), 0.0)
    np.testing.assert_allclose(chance, [0, 0, 1, 0, 0], atol=1e-6)
