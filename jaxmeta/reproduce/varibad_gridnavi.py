"""VariBAD on GridNavi (Zintgraf et al., 2020, arXiv:1910.08348), with RL², a memoryless policy and an oracle."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jaxmeta as jm
from jaxmeta.reproduce.base import Reference, Required, Row, Table, Trained
from jaxmeta.reproduce.gridnavi import EPISODES, EVERY_GOAL, default_tasks, rl2, rows
from jaxmeta.reproduce.statistics import episode_return, trial_return

# trained agents act by the mode of their policy, as in the paper
BY_MODE = tuple(replace(one, deterministic=True) for one in EVERY_GOAL)


def _varibad(updates: int) -> Any:
    return jm.VariBADConfig(
        discount=0.97,
        hidden=(64, 64),
        vae=replace(jm.VariBADConfig.vae, steps=6, batch_size=64, anneal_over=updates),
        ppo=replace(jm.VariBADConfig.ppo, entropy_weight=0.3, anneal_over=updates),
    )


def _ppo(updates: int) -> Any:
    return jm.PPOConfig(ppo=replace(jm.PPOConfig.ppo, anneal_over=updates))


def _known(episode: int | None = None) -> float:
    return jm.references.grid.oracle_return() * (EPISODES if episode is None else 1)


TABLE = Table(
    "varibad-gridnavi",
    title="GridNavi, 5 x 5 cells, all 21 goals, 4 episodes: return",
    source="published in figures only (Zintgraf et al., 2020); optimum: exact, given what the agent observes",
    runs=(
        Trained(
            "gridnavi/varibad", "varibad", "grid-navigation", _varibad,
            tasks_config=default_tasks, updates=2600, chunk=10,
            rows=rows(
                total=Required(least=35.5, most=37.22), episode_2=Required(least=10.5, up_to_optimum=True)
            ),
            evaluations=BY_MODE,
        ),
        Trained(
            "gridnavi/rl2", "rl2", "grid-navigation", rl2, tasks_config=default_tasks, updates=300, chunk=10,
            rows=rows(total=Required(least=33.0, up_to_optimum=True)), evaluations=BY_MODE,
        ),
        Reference(
            "gridnavi/belief-oracle", "grid.bayes_optimal", {}, "grid-navigation", default_tasks,
            rows=rows(total=Required(least=37.21, most=37.22)), evaluations=EVERY_GOAL,
        ),
        Reference(
            "gridnavi/goal-oracle", "grid.oracle", {}, "grid-navigation", default_tasks, reveal=True,
            rows=(
                Row(trial_return, "total", optimum=_known),
                Row(episode_return(0), "episode 1", optimum=lambda: _known(0)),
            ),
            evaluations=EVERY_GOAL,
        ),
        Trained(
            "gridnavi/ppo", "ppo", "grid-navigation", _ppo, tasks_config=default_tasks, updates=300, chunk=10,
            rows=(Row(episode_return(0), "each episode"),), evaluations=BY_MODE,
        ),
    ),
)  # fmt: skip
