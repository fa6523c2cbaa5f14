"""Figures of curricula: how the scores and the tasks that a sampler chose moved over meta-training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from jaxmeta.experiment import histories
from jaxmeta.viz import canvas, plot

CURRICULUM = "curriculum.png"
SCORES = ("sampler/score_min", "sampler/score_q25", "sampler/score_median", "sampler/score_q75", "sampler/score_max")
"""Quantiles of the scores of the known tasks, in the log."""
TASK = "sampler/task_"
"""Prefix of the quantiles of the encodings of an update's tasks, in the log."""


def draw(folder: Path, records: list[dict[str, Any]], evaluation: dict[str, Any]) -> list[Path]:
    """Draws what a sampler chose into a run folder; returns the files, none if the log has no scores.

    Args:
      records: lines of `metrics.jsonl`.
      evaluation: the result of `assessment.assess`.
    """
    if not records or "sampler/score" not in records[-1]:
        return []
    canvas.save(curriculum(records, f"{evaluation['algo']} on {evaluation['tasks']}"), folder / CURRICULUM)
    return [folder / CURRICULUM]


def curriculum(records: list[dict[str, Any]], title: str):
    """Draws, over environment steps, the scores of known, new and replayed tasks, and the tasks of the updates.

    Bands are the middle half and the whole range of the scores, and 80 % of the encodings of the tasks. With several
    seeds all values are means over them. All but the bands of the scores are running means.
    """
    numbers = sorted({name.removeprefix(TASK).partition("_")[0] for name in records[-1] if name.startswith(TASK)})
    figure = canvas.figure((6.4, 3.2 + 1.8 * len(numbers)))
    heights = [2.0, *[1.0] * len(numbers)]
    panels = figure.subplots(1 + len(numbers), 1, squeeze=False, sharex=True, height_ratios=heights)[:, 0]
    steps = _column(records, "env_steps")
    _draw_scores(panels[0], steps, records)
    for axes, number in zip(panels[1:], numbers, strict=True):
        low, middle, high = (_smooth(records, f"{TASK}{number}_{name}") for name in ("q10", "median", "q90"))
        axes.plot(steps, middle, color=canvas.OPTIMUM, linewidth=1.5)
        axes.fill_between(steps, low, high, color=canvas.OPTIMUM, alpha=0.2, linewidth=0)
        axes.set_ylabel(f"task, number {number}")
        canvas.plain(axes)
    panels[0].set_title(f"{title}: what the sampler chose", fontweight="bold", loc="left")
    panels[-1].set_xlabel("environment steps in meta-training")
    panels[-1].xaxis.set_major_formatter(plot.engineering())
    return figure


def _draw_scores(axes, steps: np.ndarray, records: list[dict[str, Any]]) -> None:
    if all(name in records[-1] for name in SCORES):
        least, low, _, high, most = (_column(records, name) for name in SCORES)
        axes.fill_between(steps, least, most, color="0.85", linewidth=0, label="known tasks: range")
        axes.fill_between(steps, low, high, color="0.65", linewidth=0, label="known tasks: middle half")
    lines = (
        ("sampler/score", "known tasks: mean", "black", "-"),
        ("sampler/score_of_new", "new tasks", canvas.BEFORE, "--"),
        ("sampler/score_of_replayed", "replayed tasks", canvas.AFTER, "-"),
    )
    for name, label, color, style in lines:
        if name in records[-1]:
            axes.plot(steps, _smooth(records, name), style, color=color, label=label, linewidth=1.5)
    axes.set_ylabel("score")
    axes.legend(frameon=False, fontsize=8, ncols=2)
    canvas.plain(axes)


def _smooth(records: list[dict[str, Any]], name: str) -> np.ndarray:
    return histories.running_mean(_column(records, name), max(1, len(records) // 20))


def _column(records: list[dict[str, Any]], name: str) -> np.ndarray:
    return np.array([canvas.number(record.get(name)) for record in records])
