"""Mazes in the manner of RL² (Duan et al., 2016, arXiv:1611.02779) and SNAIL (Mishra et al., 2018, arXiv:1707.03141).

Episode lengths do not compare with the papers', whose mazes are rendered in 3D. The requirements are that the second
episode is shorter than the first, and that SNAIL needs no more steps than RL².
"""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any

import jaxmeta as jm
from jaxmeta.reproduce.base import Evaluation, Reference, Required, Row, Table, Trained
from jaxmeta.reproduce.statistics import episode_length, length_ratio, success

PUBLISHED = {  # (agent, size): steps to the goal in the first and in the second episode
    ("random", "small"): (188.6, 187.7),
    ("random", "large"): (420.2, 420.8),
    ("rl2", "small"): (52.4, 39.1),
    ("rl2", "large"): (180.1, 150.6),
    ("snail", "small"): (50.3, 34.8),
    ("snail", "large"): (140.5, 105.9),
}
SUCCESS = {("rl2", "small"): (0.993, 0.996), ("rl2", "large"): (0.971, 0.967)}
# second over first episode; on large mazes the whole interval must lie below 1
REQUIRED = {"small": Required(most=0.85), "large": Required(most=0.999, of="ci95")}
SIZES = {"small": (5, 100), "large": (9, 400)}  # rooms along a side, steps in an episode
# agents are trained on small mazes and evaluated on both sizes
EVALUATIONS = tuple(
    Evaluation(name, tasks=lambda config, rooms=rooms, horizon=horizon: replace(config, size=rooms, horizon=horizon))
    for name, (rooms, horizon) in SIZES.items()
)


def _tasks() -> Any:
    return jm.tasks.MazeConfig()


def _rl2(updates: int) -> Any:
    ppo = replace(jm.RL2Config.ppo, entropy_weight=0.03, anneal_over=updates)
    return jm.RL2Config(trace=0.95, num_tasks=512, ppo=ppo)


def _snail(updates: int) -> Any:
    # The attention is the paper's, with fewer and narrower convolutions below it: with the paper's, the agent gets
    # stuck in large mazes. The hidden layer after the attention combines memory and current view.
    return jm.SNAILConfig(
        filters=16,
        tc_blocks=1,
        readout=(64,),
        separate_value=True,
        trace=0.95,
        num_tasks=256,
        ppo=replace(jm.SNAILConfig.ppo, minibatches=4, learning_rate=4e-3, entropy_weight=0.03, anneal_over=updates),
    )


@functools.cache
def _shortest_way(size: str) -> float:
    """Returns the mean length of the shortest path, at most the horizon, over as many mazes as are evaluated."""
    import jax
    import jax.numpy as jnp

    rooms, horizon = SIZES[size]
    family = jm.tasks.maze(jm.tasks.MazeConfig(size=rooms))
    tasks = jax.vmap(family.sample_test)(jax.random.split(jax.random.key(0), Evaluation.num_tasks))
    return float(jnp.minimum(jm.references.maze.shortest_steps(tasks), horizon).mean())


def _rows(agent: str) -> tuple[Row, ...]:
    rows = []
    for size, (_, horizon) in SIZES.items():
        first, second = PUBLISHED[agent, size]
        shortest = functools.partial(_shortest_way, size)
        for index, steps in enumerate((first, second)):
            name = f"{size} episode {index + 1}"
            required = Required(no_more_than=f"maze/rl2 {name}") if agent == "snail" else None
            rows.append(Row(episode_length(index), name, steps, optimum=shortest, required=required, evaluation=size))
        for index, share in enumerate(SUCCESS.get((agent, size), (None, None))):
            rows.append(Row(success(index, horizon), f"{size} success {index + 1}", share, evaluation=size))
        required = None if agent == "random" else REQUIRED[size]
        ratio = round(second / first, 3)
        rows.append(Row(length_ratio(1), f"{size} ratio", ratio, required=required, evaluation=size))
    return tuple(rows)


TABLE = Table(
    "maze",
    title="Mazes: steps to the goal (the horizon if it is missed); success rate; ratio of second to first episode",
    source="published: Duan et al., 2016 (successful episodes only), and Mishra et al., 2018, in other mazes, rendered"
    " in 3D; optimum: mean length of the shortest path",
    runs=(
        Reference(
            "maze/random", "bandits.random", {"num_actions": 3}, "maze", _tasks,
            rows=_rows("random"), evaluations=EVALUATIONS,
        ),
        Trained(
            "maze/rl2", "rl2", "maze", _rl2, tasks_config=_tasks, updates=600, chunk=10,
            rows=_rows("rl2"), evaluations=EVALUATIONS,
        ),
        Trained(
            "maze/snail", "snail", "maze", _snail, tasks_config=_tasks, updates=800, chunk=10,
            rows=_rows("snail"), evaluations=EVALUATIONS,
        ),
    ),
    quick=("maze/rl2",),
)  # fmt: skip
