"""GridNavi of VariBAD (Zintgraf et al., 2020, arXiv:1910.08348); published in figures only, the optimum is exact."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any

import jaxmeta as jm
from jaxmeta.reproduce.base import Evaluation, Reference, Required, Row, Table, Trained
from jaxmeta.reproduce.statistics import episode_return, trial_return

EPISODES = 4
EVERY_GOAL = (Evaluation(every_task=lambda config: jm.tasks.all_goals(config)),)


@functools.cache
def _optimum(episode: int | None = None) -> float:
    """Returns the Bayes-optimal expected return of an episode, or of all episodes."""
    returns = jm.references.grid.bayes_optimal_returns(episodes=EPISODES)
    return float(returns.sum() if episode is None else returns[episode])


def default_tasks() -> Any:
    """Returns the config of the paper's GridNavi."""
    return jm.tasks.GridConfig()


def rl2(updates: int) -> Any:
    """Returns the config of RL² on GridNavi."""
    return jm.RL2Config(trace=0.95, ppo=replace(jm.RL2Config.ppo, entropy_weight=0.1, anneal_over=updates))


def rows(**required: Required) -> tuple[Row, ...]:
    """Returns the rows of an agent that does not observe the goal.

    Args:
      required: requirements by row: `total`, `episode_1`, ...
    """
    total = Row(trial_return, "total", optimum=_optimum, required=required.get("total"))
    return total, *(
        Row(
            episode_return(index),
            f"episode {index + 1}",
            optimum=functools.partial(_optimum, index),
            required=required.get(f"episode_{index + 1}"),
        )
        for index in range(EPISODES)
    )


TABLE = Table(
    "gridnavi",
    title="GridNavi, 5 x 5 cells, all 21 goals, 4 episodes: return",
    source="published in figures only (Zintgraf et al., 2020); optimum: the Bayes-optimal explorer, exact",
    runs=(
        Reference(
            "gridnavi/random", "bandits.random", {"num_actions": 5}, "grid-navigation", default_tasks,
            rows=rows(), evaluations=EVERY_GOAL,
        ),
        Trained(
            "gridnavi/rl2", "rl2", "grid-navigation", rl2, tasks_config=default_tasks, updates=300, chunk=10,
            rows=rows(total=Required(least=33.0, most=37.22)), evaluations=EVERY_GOAL,
        ),
    ),
)  # fmt: skip
