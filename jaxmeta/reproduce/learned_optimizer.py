"""Learning to learn by gradient descent (Andrychowicz et al., 2016, arXiv:1606.04474): published in figures only."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import jaxmeta as jm
from jaxmeta.reproduce.base import Evaluation, Reference, Required, Row, Run, Table, Trained
from jaxmeta.reproduce.statistics import loss

STEPS = 100
HELD_OUT = (Evaluation(num_tasks=1000, rounds=STEPS),)
# step sizes of a grid search; the best of each optimiser counts
RATES = {
    "quadratic": {"sgd": (0.05, 0.1, 0.2, 0.25), "momentum": (0.1, 0.3, 0.5, 0.6), "adam": (0.05, 0.1, 0.2, 0.4)},
    "network": {"sgd": (0.02, 0.04, 0.06), "momentum": (0.01, 0.03, 0.05), "adam": (0.1, 0.2, 0.3, 0.4, 0.6)},
}
TASKS = {
    "quadratic": ("quadratic", lambda: jm.tasks.QuadraticConfig()),
    "network": ("sinusoid", lambda: jm.tasks.SinusoidConfig(shots=64, queries=64)),
}
SIZES: dict[str, Mapping[str, Any]] = {
    "quadratic": {"shots": 10, "size": 10},
    "network": {"shots": 64, "hidden": [20]},
}


def _on_quadratics(updates: int) -> Any:
    outer = replace(jm.LearnedOptimizerConfig.outer, learning_rate=3e-3, anneal_over=updates)
    return jm.LearnedOptimizerConfig(second_order=True, outer=outer)


def _on_networks(updates: int) -> Any:
    config = _on_quadratics(updates)
    return replace(
        config,
        # initialised as Adam with a good step size
        nominal="adam",
        inner_lr=0.3,
        scale=0.05,
        hidden=(20,),
        num_tasks=32,
        # long segments, as gradients through short ones are greedy; log losses, as the final loss counts
        outer=replace(config.outer, segment=50, log_floor=1e-3),
    )


RECIPES = {"quadratic": (400, _on_quadratics), "network": (300, _on_networks)}


def _quick(config: Any) -> Any:
    return replace(config, rounds=20, num_tasks=4, outer=replace(config.outer, segment=20))


def _runs() -> Iterator[Run]:
    for group, (updates, algo_config) in RECIPES.items():
        tasks, tasks_config = TASKS[group]
        tuned = [(name, rate) for name, rates in RATES[group].items() for rate in rates]
        for name, rate in tuned:
            arguments = {"name": name, "learning_rate": rate, **SIZES[group]}
            row = Row(loss())
            yield Reference(
                f"{group}/{name}-{rate}", "optimizers.optimiser", arguments, tasks, tasks_config,
                rows=(row,), evaluations=HELD_OUT,
            )  # fmt: skip
        below = Required(no_more_than=tuple(f"{group}/{name}-{rate}" for name, rate in tuned))
        yield Trained(
            f"{group}/learned", "learned-optimizer", tasks, algo_config,
            tasks_config=tasks_config, updates=updates, chunk=5, checkpoint_every=100,
            rows=(Row(loss(), required=below),), evaluations=HELD_OUT, quick_config=_quick,
        )  # fmt: skip


TABLE = Table(
    "learned-optimizer",
    title="Squared error after 100 steps on held-out functions: quadratics, and networks trained on sine waves",
    source="published in figures only (Andrychowicz et al., 2016)",
    runs=tuple(_runs()),
    quick=("quadratic/sgd-0.1", "quadratic/adam-0.2", "quadratic/learned"),
)
