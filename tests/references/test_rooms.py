"""Four rooms: the known values of both dynamics, closed forms, and what the optimal agent is paid."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxmeta as jm
from jaxmeta.references import rooms
from jaxmeta.tasks.four_rooms import CELLS, transitions

SOUTH_EAST = (68, 69, 70, 71, 72, 78, 79, 80, 81, 82, 88, 89, 90, 91, 92, 93, 99, 100, 101, 102, 103)
"""Option-critic's goals for transfer: the room in the south-east and the hallway to it."""


@pytest.mark.parametrize(
    ("dynamics", "steps", "transfer", "walk"),
    [("code", (8.392, 9.217, 11.491), 9.542, 430.2), ("sutton", (15.012, 16.726, 20.556), 17.093, 502.4)],
)
def test_the_known_numbers_of_steps(dynamics, steps, transfer, walk):
    np.testing.assert_allclose([rooms.optimal_steps(goal, dynamics) for goal in (62, 68, 103)], steps, atol=1e-3)
    mean = np.mean([rooms.optimal_steps(goal, dynamics) for goal in SOUTH_EAST])
    assert mean == pytest.approx(transfer, abs=1e-3)
    assert rooms.random_steps(62, dynamics) == pytest.approx(walk, abs=0.05)


@pytest.mark.parametrize(("dynamics", "returns"), [("code", (97.24, 94.53)), ("sutton", (64.22, 61.55))])
def test_the_known_returns_of_100_steps_from_the_eastern_hallway(dynamics, returns):
    found = [rooms.optimal_return(goal, 100, dynamics, start=62) for goal in (68, 103)]
    np.testing.assert_allclose(found, returns, atol=5e-3)
    undirected = [rooms.random_return(goal, 100, dynamics, start=62) for goal in (68, 80, 90, 103)]
    assert min(undirected) >= 1.7 and max(undirected) <= 2.25


@pytest.mark.parametrize("dynamics", ["code", "sutton"])
def test_the_return_of_reaching_the_goal_in_one_step_is_its_probability(dynamics):
    above = CELLS.tolist().index([6, 9])
    assert CELLS[62].tolist() == [7, 9]
    probability = transitions(dynamics)[above, 1, 62]
    assert rooms.optimal_return(62, 1, dynamics, start=above) == pytest.approx(probability, abs=1e-12)
    # without the reward after arrival, the return is at most 1, and at the end of a long episode it is 1
    assert rooms.optimal_return(62, 2000, dynamics, start=0, goal_ends=True) == pytest.approx(1.0, abs=1e-6)
    assert rooms.optimal_return(62, 2, dynamics, start=0, goal_ends=True) == 0.0


def test_the_oracle_is_paid_the_optimal_return():
    horizon, goals = 12, (68, 103)
    family = jm.tasks.four_rooms(jm.tasks.FourRoomsConfig(horizon=horizon, start=62, goals=goals))
    learner, key = rooms.oracle(horizon), jax.random.key(0)
    report = jm.evaluate(
        learner, learner.init(key), jm.tasks.reveal(family), family.train_tasks, key, jm.Plan(streams=512)
    )
    for returns, goal in zip(np.asarray(report.returns).reshape(2, -1), goals, strict=True):
        error = returns.std() / np.sqrt(returns.size)
        assert abs(returns.mean() - rooms.optimal_return(goal, horizon, start=62)) < 4 * error


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: rooms.optimal_steps(104), "goal is 104; cells are numbered from 0 to 103"),
        (lambda: rooms.optimal_return(62, start=-1), "start is -1; cells are numbered from 0 to 103"),
        (lambda: rooms.optimal_steps(62, "suton"), "dynamics is 'suton'; it must be code or sutton"),  # pyright: ignore[reportArgumentType]
        (lambda: rooms.optimal_q(62, 0), "horizon is 0; it must be at least 1"),
    ],
)
def test_bad_arguments_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_the_oracle_has_the_best_action_for_every_goal():
    q = rooms.oracle(3).init(jax.random.key(0))
    assert q.shape == (104, 3, 104, 4) and q.dtype == jnp.float32
    np.testing.assert_allclose(q[62], rooms.optimal_q(62, 3), atol=1e-6)
