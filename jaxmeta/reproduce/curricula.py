"""Curricula against uniform sampling, on the true distribution and on what is rare or hard in it.

RL² on mazes of 7 x 7 rooms with sampling for learnability (Rutherford et al., 2024, arXiv:2408.15099), and MAML on sine
waves of which few are rare, with prioritised level replay (Jiang et al., 2021, arXiv:2010.03934). All runs of a group
have the same number of updates. In mazes, where episodes end at the goal, the curriculum takes fewer environment steps.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

import jaxmeta as jm
from jaxmeta.cli import parsing
from jaxmeta.experiment import runs
from jaxmeta.reproduce.base import NOTHING_REQUIRED, Evaluation, Point, Required, Row, Table, Trained
from jaxmeta.reproduce.statistics import loss

MAZE = Evaluation(num_tasks=2000, streams=10)
WAVES = {"rare": 1.0, "true": 0.025}  # share of rare waves in an evaluation; that in training is the second
OF_WAVES = tuple(
    Evaluation(name, num_tasks=1000, tasks=lambda config, rare=rare: replace(config, rare=rare, queries=100))
    for name, rare in WAVES.items()
)


@dataclasses.dataclass(frozen=True)
class Curriculum(Trained):
    """An agent that is meta-trained with another sampler."""

    sampler: str = dataclasses.field(kw_only=True)
    """Name of the sampler, such as prioritised."""
    sampler_config: Callable[[], Any] = dataclasses.field(kw_only=True)
    """Builds the config of the sampler."""

    def config(self, seed: int = 0, num_seeds: int = 1, evaluation: Evaluation = Evaluation()) -> runs.RunConfig:
        usual = super().config(seed, num_seeds, evaluation)
        return replace(usual, sampler=self.sampler, sampler_config=self.sampler_config())

    def options(self, folder: Path, seed: int = 0, num_seeds: int = 1) -> Any:
        return replace(super().options(folder, seed, num_seeds), sampler_name=self.sampler)

    def command(self, folder: Path, seed: int = 0, num_seeds: int = 1) -> list[str]:
        config = self.sampler_config()
        return [*super().command(folder, seed, num_seeds), *parsing.to_flags(config, type(config)(), ("sampler",))]


@dataclasses.dataclass(frozen=True)
class Compared(Required):
    """A bound that is relative to another row of the table."""

    other: str = ""
    """Full name of the other row."""
    above: float | None = None
    """The least difference to it."""
    ratio: float | None = None
    """The greatest ratio to it."""

    def judge(self, row: dict[str, Any], there: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
        other = there.get(self.other, {}).get("ours")
        if other is None:
            return NOTHING_REQUIRED
        least = None if self.above is None else other + self.above
        most = None if self.ratio is None else other * self.ratio
        return Required(least, most).judge(row, there)


def success_rate(report: Any) -> Point:
    """Computes the share of solved episodes."""
    return jm.summarize(np.asarray(report.successes)[..., -1, :, :].mean((-2, -1)))


def worst_tenth(report: Any) -> Point:
    """Computes the share of solved episodes in the tenth of the tasks where it is lowest.

    The tasks are chosen by one half of the streams and measured by the other, so that the choice adds no bias.
    """
    solved = np.asarray(report.successes)[..., -1, :, :].mean(-1)  # [..., N, E]
    chosen_by, measured = solved[..., ::2].mean(-1), solved[..., 1::2].mean(-1)
    worst = np.argsort(chosen_by, axis=-1, kind="stable")[..., : max(1, chosen_by.shape[-1] // 10)]
    return jm.summarize(np.take_along_axis(measured, worst, axis=-1))


def _mazes() -> Any:
    return jm.tasks.MazeConfig(size=7, horizon=50)


def _rl2(updates: int) -> Any:
    ppo = replace(jm.RL2Config.ppo, entropy_weight=0.03)
    return jm.RL2Config(trace=0.95, num_tasks=256, ppo=ppo)


def _waves() -> Any:
    # from 20 points a wave is clear: with 10 the highest losses are those of points that leave it open
    return jm.tasks.SinusoidConfig(shots=20, rare=WAVES["true"])


def _maml(updates: int) -> Any:
    return jm.FewShotMAMLConfig(num_tasks=32, rounds=5)


def _learnability() -> Any:
    from jaxmeta import outer

    return outer.LearnabilityConfig()


def _prioritised() -> Any:
    from jaxmeta import outer

    return outer.PrioritisedConfig()


def _on_mazes(**required: Required) -> dict[str, Any]:
    return {
        "tasks_config": _mazes,
        "updates": 250,
        "chunk": 10,
        "rows": (
            Row(success_rate, "success", required=required.get("success")),
            Row(worst_tenth, "worst tenth", required=required.get("worst")),
        ),
        "evaluations": (MAZE,),
    }


def _on_waves(required: Required | None = None) -> dict[str, Any]:
    return {
        "tasks_config": _waves,
        "updates": 4_000,
        "chunk": 500,
        "checkpoint_every": 1_000,
        "quick_chunk": 5,
        "rows": tuple(
            Row(loss(), name, required=required if name == "rare" else None, evaluation=name) for name in WAVES
        ),
        "evaluations": OF_WAVES,
    }


def _pictures(folders: Mapping[str, Path]) -> dict[str, Any]:
    """Draws what each curriculum chose."""
    from jaxmeta.viz import curricula

    drawn = {}
    for name, folder in folders.items():
        records = runs.read_metrics(folder)
        if records and "sampler/score" in records[-1]:
            drawn[name.replace("/", "-")] = curricula.curriculum(records, name)
    return drawn


TABLE = Table(
    "curricula",
    title="Curricula: success in held-out mazes of 7 x 7 rooms, and in the tenth where it is lowest; loss on sine waves"
    " after 5 gradient steps on 20 points, rare ones and all",
    source="no published numbers; required: success 0.07 above uniform, half of its loss on rare waves",
    runs=(
        Trained("maze/uniform", "rl2", "maze", _rl2, **_on_mazes()),
        Curriculum(
            "maze/learnability", "rl2", "maze", _rl2, sampler="learnability", sampler_config=_learnability,
            **_on_mazes(
                success=Compared(other="maze/uniform success", above=0.07),
                worst=Compared(other="maze/uniform worst tenth", above=0.0),
            ),
        ),
        Trained("sinusoid/uniform", "maml", "sinusoid", _maml, **_on_waves()),
        Curriculum(
            "sinusoid/prioritised", "maml", "sinusoid", _maml, sampler="prioritised", sampler_config=_prioritised,
            **_on_waves(Compared(other="sinusoid/uniform rare", ratio=0.5)),
        ),
    ),
    quick=("sinusoid/uniform", "sinusoid/prioritised"),
    pictures=_pictures,
)  # fmt: skip
