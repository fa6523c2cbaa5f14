"""Learning to learn by gradient descent (Andrychowicz et al., 2016, arXiv:1606.04474): published in figures only."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from jaxmeta.reproduce.base import Evaluation, Reference, Required, Row, Run, Table, Trained
from jaxmeta.reproduce.statistics import loss

STEPS = 100
HELD_OUT = (Evaluation(num_tasks=1000, rounds=STEPS),)
# whoever tunes them by hand takes the best of a row
RATES = {
    "quadratic": {"sgd": (0.05, 0.1, 0.2, 0.25), "momentum": (0.1, 0.3, 0.5, 0.6), "adam": (0.05, 0.1, 0.2, 0.4)},
    "network": {"sgd": (0.02, 0.04, 0.06), "momentum": (0.01, 0.03, 0.05), "adam": (0.1, 0.2, 0.3, 0.4, 0.6)},
}
TASKS = {"quadratic": ("quadratic", ""), "network": ("sinusoid", "--tasks.shots 64 --tasks.queries 64")}
SIZES: dict[str, Mapping[str, Any]] = {
    "quadratic": {"shots": 10, "size": 10},
    "network": {"shots": 64, "hidden": [20]},
}
FLAGS = "--chunk 5 --checkpoint-every 100 --algo.outer.anneal-over {updates}"
RECIPES = {
    "quadratic": (400, f"{FLAGS} --algo.second-order --algo.outer.learning-rate 3e-3"),
    # begins as Adam at a step size that is good for it; derivatives of long ways, as those of short ones are greedy,
    # and of the logarithm, as the end counts
    "network": (
        300,
        f"{FLAGS} --algo.second-order --algo.outer.learning-rate 3e-3 --algo.outer.segment 50"
        " --algo.outer.log-floor 1e-3 --algo.hidden 20 --algo.nominal adam --algo.inner-lr 0.3 --algo.scale 0.05"
        " --algo.num-tasks 32",
    ),
}
QUICK = "--algo.rounds 20 --algo.num-tasks 4 --algo.outer.segment 20"


def _runs() -> Iterator[Run]:
    for group, (updates, flags) in RECIPES.items():
        tasks, task_flags = TASKS[group]
        tuned = [(name, rate) for name, rates in RATES[group].items() for rate in rates]
        for name, rate in tuned:
            arguments = {"name": name, "learning_rate": rate, **SIZES[group]}
            row = Row(loss())
            yield Reference(
                f"{group}/{name}-{rate}", "optimizers.optimiser", arguments, tasks, task_flags,
                rows=(row,), evaluations=HELD_OUT,
            )  # fmt: skip
        below = Required(no_more_than=tuple(f"{group}/{name}-{rate}" for name, rate in tuned))
        yield Trained(
            f"{group}/learned", "learned-optimizer", tasks, f"{task_flags} {flags}", updates,
            rows=(Row(loss(), required=below),), evaluations=HELD_OUT, quick_flags=QUICK,
        )  # fmt: skip


TABLE = Table(
    "learned-optimizer",
    title="Squared error after 100 steps on held-out functions: quadratics, and networks trained on sine waves",
    source="published in figures only (Andrychowicz et al., 2016)",
    runs=tuple(_runs()),
    quick=("quadratic/sgd-0.1", "quadratic/adam-0.2", "quadratic/learned"),
)
