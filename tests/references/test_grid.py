from __future__ import annotations

import functools

import jax
import numpy as np
import pytest

import jaxmeta as jm
from jaxmeta.references import grid


def exhaustive_value(problem, episodes):
    """Solves the belief MDP with none of the arguments of the solver: state is position and possible goals."""
    neighbours = {
        cell: [other for other in problem.cells if abs(cell[0] - other[0]) + abs(cell[1] - other[1]) <= 1]
        for cell in problem.cells
    }

    @functools.cache
    def value(steps_left, position, possible):
        if steps_left == 0:
            return 0.0
        if steps_left % problem.horizon == 0:
            position = problem.start
        return max(after(steps_left, cell, possible) for cell in neighbours[position])

    def after(steps_left, cell, possible):
        chance = (cell in possible) / len(possible)
        here = problem.goal_reward + value(steps_left - 1, cell, frozenset([cell])) if chance else 0.0
        elsewhere = problem.step_reward + value(steps_left - 1, cell, possible - {cell}) if chance < 1 else 0.0
        return chance * here + (1 - chance) * elsewhere

    return value(episodes * problem.horizon, problem.start, frozenset(problem.goals))


def test_bayes_optimal_returns_on_gridnavi():
    assert grid.oracle_return() == pytest.approx(11.071, abs=5e-4)
    assert 4 * grid.oracle_return() == pytest.approx(44.286, abs=5e-4)
    returns = grid.bayes_optimal_returns()
    np.testing.assert_allclose(returns, [4.0, 11.071, 11.071, 11.071], atol=5e-4)
    assert returns.sum() == pytest.approx(37.214, abs=5e-4)


@pytest.mark.parametrize(
    ("problem", "episodes"),
    [
        (grid.Grid(size=2, no_goal=(), horizon=3), 3),
        (grid.Grid(size=3, no_goal=(), horizon=4), 2),
        (grid.Grid(size=3, start=(1, 1), no_goal=((0, 0),), horizon=3, step_reward=0.0), 3),
        (grid.Grid(size=3, start=(0, 1), no_goal=(), horizon=6, goal_reward=2.0), 2),
        (grid.Grid(size=3, no_goal=(), horizon=2), 1),
        (grid.Grid(size=2, no_goal=(), goal_at_start=True, horizon=3), 2),
        (grid.Grid(size=3, start=(1, 1), no_goal=((0, 0),), goal_at_start=True, horizon=3), 2),
    ],
)
def test_the_optimum_equals_that_of_the_belief_mdp(problem, episodes):
    total = grid.bayes_optimal_returns(problem, episodes).sum()
    assert total == pytest.approx(exhaustive_value(problem, episodes), abs=1e-9)


def test_the_optimal_path_can_be_walked():
    problem = grid.Grid()
    path = grid.bayes_optimal_path(problem, 4)
    whole = np.concatenate([np.broadcast_to(problem.start, (4, 1, 2)), path], 1)
    assert np.abs(np.diff(whole, axis=1)).sum(-1).max() <= 1
    assert path.min() >= 0 and path.max() < problem.size


def test_the_returns_of_a_path_are_those_of_its_visits():
    problem = grid.Grid(size=2, no_goal=(), horizon=2)
    path = np.array([[(0, 1), (1, 1)], [(1, 0), (1, 0)]])
    # goals (0, 1), (1, 0), (1, 1): found at step 1, in the second episode at step 1, at step 2
    np.testing.assert_allclose(grid.path_returns(problem, path), [(2 - 0.2 + 0.9) / 3, (2 + 2 + 0.9) / 3])


def test_grids_that_cannot_be_solved_are_refused():
    with pytest.raises(ValueError, match="0 goal cells"):
        grid.Grid(size=1)
    with pytest.raises(ValueError, match="60 goal cells; it must have 1 to 56"):
        grid.bayes_optimal_path(grid.Grid(size=8))
    with pytest.raises(ValueError, match="goal_reward is -1"):
        grid.Grid(goal_reward=-1.0)


@pytest.mark.parametrize(("size", "horizon", "episodes"), [(5, 15, 4), (3, 4, 2)])
def test_learners_have_the_computed_returns(size, horizon, episodes):
    problem, config = grid.Grid(size=size, horizon=horizon), jm.tasks.GridConfig(size=size, horizon=horizon)
    family, key = jm.tasks.grid_navigation(config), jax.random.key(0)
    explorer, knowing = grid.bayes_optimal(problem, episodes), grid.oracle(problem)
    for learner, on, expected in (
        (explorer, family, grid.bayes_optimal_returns(problem, episodes)),
        (knowing, jm.tasks.reveal(family), np.full(episodes, grid.oracle_return(problem))),
    ):
        plan = jm.Plan(episodes=episodes)
        report = jm.evaluate(learner, learner.init(key), on.env, jm.tasks.all_goals(config), key, plan)
        np.testing.assert_allclose(np.asarray(report.returns)[:, 0, 0].mean(0), expected, atol=1e-4)
