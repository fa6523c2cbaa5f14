"""The experts of jaxmeta's own task families: planners that know the task, and learning algorithms that do not.

Each is a learner of the other modules of `jm.references`, with what it observes (`outer.experts.Expert`).
"""

from __future__ import annotations

import functools
from typing import Any

from jaxmeta.core.learner import Learner
from jaxmeta.outer.experts import Expert, informed
from jaxmeta.references import bandits, dark_room, grid, maze, moving_bandits, point, random_walk, tabular
from jaxmeta.references.base import preferences, undirected
from jaxmeta.tasks.bandit import Bandit, pay_bernoulli
from jaxmeta.tasks.base import Env, Revealed, TaskFamily
from jaxmeta.tasks.grid import GridNavigation
from jaxmeta.tasks.maze import Maze
from jaxmeta.tasks.moving_bandits import MovingBandits
from jaxmeta.tasks.navigation import Navigation
from jaxmeta.tasks.point import PointRobot
from jaxmeta.tasks.random_walk import RandomWalk
from jaxmeta.tasks.tabular import Tabular
from jaxmeta.types import Discrete

LARGEST_GRID = 5
"""Cells per side up to which the Bayes-optimal path is searched for: on 6 x 6 cells that takes over 20 seconds."""
__all__ = ["blind_behaviour", "comparisons", "planner", "planner_or_none", "teacher"]


def planner(family: TaskFamily) -> Expert:
    """Returns the optimal agent that knows the task.

    There is one for bandits, tabular MDPs, grids, mazes, dark rooms, random walks, moving bandits, point robots and
    navigation.

    Raises:
      ValueError: for other families.
    """
    expert = planner_or_none(family)
    if expert is None:
        raise ValueError(
            f"tasks have no planner for {type(_plain(family.env)).__name__}; imitate a trained run"
            " (try --expert runs/oracle), or pass expert=jm.outer.Expert(learner, params)"
        )
    return expert


def planner_or_none(family: TaskFamily) -> Expert | None:
    """Returns the optimal agent that knows the task, see `planner`; None if there is none."""
    learner = _planner(_plain(family.env))
    return None if learner is None else informed(family, learner, ())


def teacher(family: TaskFamily) -> Expert | None:
    """Returns a classical learning algorithm for a family, which does not know the task; None if there is none.

    It is UCB1 on Bernoulli bandits and posterior sampling (PSRL) on tabular MDPs.
    """
    env = family.env
    if isinstance(env, Bandit) and env.pay is pay_bernoulli:
        return Expert(bandits.ucb1(env.num_arms), ())
    if isinstance(env, Tabular):
        return Expert(tabular.psrl(env.num_states, env.num_actions, env.horizon), ())
    return None


def comparisons(family: TaskFamily) -> dict[str, Expert]:
    """Returns reference agents for agents that adapt within a trial, by their name in a legend.

    The first is the planner, if there is one; the others do not know the task. On Bernoulli bandits they are UCB1 and
    Thompson sampling, on tabular MDPs posterior sampling, and on grids the Bayes-optimal agent, where it is quick to
    find. In a dark room that is the sweep, and `dark_room.probability_matching` is there too; both are for a goal that
    is uniform over all cells.
    """
    env, found = family.env, {}
    if (known := planner_or_none(family)) is not None:
        found["knows the task"] = known
    if isinstance(env, Bandit) and env.pay is pay_bernoulli:
        found["UCB1"] = Expert(bandits.ucb1(env.num_arms), ())
        found["Thompson sampling"] = Expert(bandits.probability_matching(env.num_arms), ())
    elif isinstance(env, Tabular):
        found["posterior sampling"] = Expert(tabular.psrl(env.num_states, env.num_actions, env.horizon), ())
    elif isinstance(env, GridNavigation) and env.step_reward == 0.0 and env.horizon >= env.size**2:
        found["Bayes-optimal"] = Expert(dark_room.bayes_optimal(env.size, env.horizon, family.episodes), ())
        found["exact posterior, sampled"] = Expert(dark_room.probability_matching(env.size), ())
    elif isinstance(env, GridNavigation) and env.size <= LARGEST_GRID and family.train_tasks is None:
        room = grid.Grid(size=env.size, horizon=env.horizon, step_reward=env.step_reward)
        found["Bayes-optimal"] = Expert(grid.bayes_optimal(room, family.episodes), ())
    return found


def blind_behaviour(family: TaskFamily) -> Expert:
    """Returns an agent that acts at random and does not observe the task, for the contexts of DPT.

    On bandits each stream has random preferences, and on grids each goes to random cells and stays there for a while,
    so that contexts differ in what they contain. Elsewhere actions are uniform or normal.
    """
    action, env = family.env.spec.action, _plain(family.env)
    if isinstance(action, Discrete) and isinstance(env, Bandit):
        return Expert(preferences(action.num), ())
    if isinstance(env, GridNavigation):
        return Expert(grid.wanderer(env.size), ())
    return Expert(undirected(action), ())


def _plain(env: Env) -> Env:
    return env.env if isinstance(env, Revealed) else env


@functools.singledispatch
def _planner(env: Any) -> Learner | None:
    return None


@_planner.register
def _(env: Bandit) -> Learner:
    return bandits.oracle(env.num_arms)


@_planner.register
def _(env: Tabular) -> Learner:
    return tabular.oracle(env.num_states, env.num_actions, env.horizon)


@_planner.register
def _(env: GridNavigation) -> Learner:
    return grid.oracle(grid.Grid(size=env.size, no_goal=(), horizon=env.horizon))


@_planner.register
def _(env: MovingBandits) -> Learner:
    return moving_bandits.oracle()


@_planner.register
def _(env: Maze) -> Learner:
    return maze.oracle(env.size, env.view, env.horizon)


@_planner.register
def _(env: Navigation) -> Learner:
    return point.oracle()


@_planner.register
def _(env: PointRobot) -> Learner:
    return point.oracle()


@_planner.register
def _(env: RandomWalk) -> Learner:
    return random_walk.oracle(env.num_states)
