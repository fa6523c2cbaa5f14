"""Mazes in the manner of RL² (Duan et al., 2016, arXiv:1611.02779) and SNAIL (Mishra et al., 2018, arXiv:1707.03141).

Theirs are rendered in 3D and these are not, so that no length compares: what counts is that the second episode is
shorter than the first.
"""

from __future__ import annotations

from jaxmeta.reproduce.base import Evaluation, Required, Row, Table, Trained
from jaxmeta.reproduce.statistics import episode_length, length_ratio

PUBLISHED = {  # (agent, size): steps to the goal in the first and in the second episode
    ("rl2", "small"): (52.4, 39.1),
    ("rl2", "large"): (180.1, 150.6),
    ("snail", "small"): (50.3, 34.8),
    ("snail", "large"): (140.5, 105.9),
}
REQUIRED = {"small": Required(most=0.85), "large": Required(most=1.0)}
ANNEAL = (
    "--chunk 10 --algo.ppo.anneal-over {updates} --algo.num-tasks 512 --algo.trace 0.95 --algo.ppo.entropy-weight 0.03"
)
SNAIL = "--algo.filters 16 --algo.tc-blocks 1 --algo.key-size 16 --algo.value-size 16"
RECIPES = {  # agent: updates and flags
    "rl2": (600, ANNEAL),
    "snail": (300, f"{ANNEAL} {SNAIL}"),
}
# agents are trained on small mazes, and find their way in large ones too
EVALUATIONS = (Evaluation("small"), Evaluation("large", tasks="--tasks.size 9 --tasks.horizon 400"))


def _rows(agent: str) -> tuple[Row, ...]:
    rows = []
    for evaluation in EVALUATIONS:
        size = evaluation.name
        for index, published in enumerate(PUBLISHED[agent, size]):
            name = f"{size} episode {index + 1}"
            rows.append(Row(episode_length(index), name, published=published, evaluation=size))
        first, second = PUBLISHED[agent, size]
        ratio = round(second / first, 3)
        rows.append(Row(length_ratio(1), f"{size} ratio", published=ratio, required=REQUIRED[size], evaluation=size))
    return tuple(rows)


TABLE = Table(
    "maze",
    title="Mazes: steps to the goal, and those of the second episode over those of the first",
    source="published: Duan et al., 2016, and Mishra et al., 2018, in other mazes, rendered in 3D",
    runs=tuple(
        Trained(f"maze/{agent}", agent, "maze", flags, updates, rows=_rows(agent), evaluations=EVALUATIONS)
        for agent, (updates, flags) in RECIPES.items()
    ),
    quick=("maze/rl2",),
)
