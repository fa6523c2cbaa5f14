"""MAML's 2D navigation, compared with the results published with Finn et al. (2017, arXiv:1703.03400)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jaxmeta as jm
from jaxmeta.reproduce.base import Evaluation, Required, Row, Table, Trained
from jaxmeta.reproduce.statistics import episode_return

# return after 0, 1, 2, 3 gradient steps: 40 test tasks, 40 trajectories each, step size halved after the first step
PUBLISHED = (-40.4, -11.7, -3.33, -3.23)
REQUIRED = {1: Required(least=-14.0), 3: Required(least=-5.0)}
# with half of the paper's tasks per update
RELATIVES = {
    "maml": lambda: jm.MAMLConfig(inner_lr=0.5, later_lr_scale=0.5),
    "fomaml": lambda: jm.FOMAMLConfig(inner_lr=0.5, later_lr_scale=0.5),
    "promp": lambda: jm.ProMPConfig(inner_lr=0.5, later_lr_scale=0.5),
    "meta-sgd": lambda: jm.MetaSGDConfig(inner_lr=0.5, later_lr_scale=0.5),
    "e-maml": lambda: jm.EMAMLConfig(inner_lr=0.5, later_lr_scale=0.5),
}
# without published results on this task
OTHERS = {
    "anil": lambda: jm.ANILConfig(inner_lr=0.5, later_lr_scale=0.5),
    "cavia": lambda: jm.CAVIAConfig(inner_lr=1.0, later_lr_scale=0.5),
    "imaml": lambda: jm.IMAMLConfig(inner_lr=0.2, strength=0.5),
    "reptile": lambda: jm.ReptileConfig(inner_lr=0.1),
}


def _trained(name: str, num_tasks: int, required: dict[int, Required], steps: Callable[[], Any]) -> Trained:
    def config(updates: int) -> Any:
        return replace(steps(), action_scale=0.1, hidden=(100, 100), activation="relu", num_tasks=num_tasks)

    return Trained(
        name,
        name.partition("/")[2],
        "navigation",
        config,
        tasks_config=lambda: jm.tasks.NavigationConfig(),
        updates=100,
        chunk=5,
        rows=tuple(
            Row(episode_return(0, round=step), f"step {step}", published=value, required=required.get(step))
            for step, value in enumerate(PUBLISHED)
        ),
        evaluations=(Evaluation(num_tasks=40, rounds=3, streams=40),),
    )


TABLE = Table(
    "navigation",
    title="2D navigation: return after 0 to 3 gradient steps",
    source="published: MAML, the data of Finn et al., 2017, 100 updates of 40 tasks; the others: 100 updates of 20",
    runs=(
        _trained("navigation/maml", 40, REQUIRED, RELATIVES["maml"]),
        *(_trained(f"20-tasks/{algo}", 20, {1: REQUIRED[1]}, steps) for algo, steps in RELATIVES.items()),
        *(_trained(f"others/{algo}", 20, {}, steps) for algo, steps in OTHERS.items()),
    ),
    quick=("navigation/maml", "20-tasks/promp"),
)
