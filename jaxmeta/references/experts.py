"""The experts of jaxmeta's own task families: planners that know the task, and learning algorithms that do not.

Each is a learner of the other modules of `jm.references`, with what it observes (`outer.experts.Expert`).
"""

from __future__ import annotations

import functools
from typing import Any

from jaxmeta.core.learner import Learner
from jaxmeta.outer.experts import Expert, informed
from jaxmeta.references import bandits, grid, maze, moving_bandits, point, random_walk, tabular
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

__all__ = ["blind_behaviour", "planner", "planner_or_none", "teacher"]


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


def blind_behaviour(family: TaskFamily) -> Expert:
    """Returns an agent that acts at random and does not observe the task, for the contexts of DPT.

    With discrete actions each stream has random preferences, so that contexts differ in what they contain.
    """
    action = family.env.spec.action
    if isinstance(action, Discrete) and isinstance(_plain(family.env), Bandit):
        return Expert(preferences(action.num), ())
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
