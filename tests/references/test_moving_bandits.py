"""Moving bandits: the known returns, and what agents are paid on samples."""

from __future__ import annotations

import itertools

import jax
import numpy as np
import pytest

import jaxmeta as jm
from jaxmeta.references import moving_bandits

FAMILY = jm.tasks.moving_bandits()


def paid(learner, family, seed):
    """Returns of 1,024 episodes of each of the two tasks, [2, 1024]."""
    key = jax.random.key(seed)
    report = jm.evaluate(learner, (), family, FAMILY.train_tasks, key, jm.Plan(streams=1024))
    return np.asarray(report.returns).reshape(2, -1)


def is_mean_of(expected, returns):
    return abs(returns.mean() - expected) < 4 * returns.std() / np.sqrt(returns.size)


def test_the_known_returns():
    # measured by simulation before: 43.808 +- 0.003, and 2.43 +- 0.02 of the way that `shortest_way` takes
    assert moving_bandits.oracle_return() == pytest.approx(43.808, abs=0.003)
    assert moving_bandits.other_goal_return() == pytest.approx(2.43, abs=0.02)
    assert moving_bandits.collapsed_return() == pytest.approx(23.1, abs=0.05)


def test_agents_are_paid_what_was_computed():
    assert is_mean_of(moving_bandits.oracle_return(), paid(moving_bandits.oracle(), jm.tasks.reveal(FAMILY), 0))
    own, other = paid(moving_bandits.towards(0), FAMILY, 1)
    assert is_mean_of(moving_bandits.oracle_return(), own) and is_mean_of(moving_bandits.other_goal_return(), other)
    # uniform actions: 2.42, by simulation
    assert is_mean_of(2.42, paid(moving_bandits.random(5), FAMILY, 2))


def test_the_shortest_way_needs_the_fewest_moves():
    goals = np.random.default_rng(0).uniform(-200, 200, (50, 2))
    _, moves = moving_bandits.shortest_way(goals[:, 0], goals[:, 1], horizon=30)
    for goal, found in zip(goals, moves, strict=True):
        ways = itertools.product(range(-10, 11), repeat=2)
        fewest = min(abs(i) + abs(j) for i, j in ways if (20 * i - goal[0]) ** 2 + (20 * j - goal[1]) ** 2 < 2500)
        assert found == fewest


def test_a_goal_that_is_too_far_pays_nothing():
    near = np.pi * 50**2 / 400**2  # share of goals that the first step pays for without a move
    one = moving_bandits.oracle_return(horizon=1)
    assert near < one < 2 * near
    assert moving_bandits.oracle_return(horizon=2) > 2 * one


def test_there_are_two_goals():
    with pytest.raises(ValueError, match="index is 2; it must be 0 or 1"):
        moving_bandits.towards(2)
