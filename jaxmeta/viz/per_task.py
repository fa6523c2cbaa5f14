"""The return of every task of a finite set."""

from __future__ import annotations

from typing import Any

import numpy as np

from jaxmeta.experiment import logging
from jaxmeta.viz import canvas
from jaxmeta.viz.canvas import AFTER, LINES, OPTIMUM

WORST = LINES[3]
NOTHING = {"mean": None, "ci95": [None, None]}
MAX_LABELLED = 50
"""Largest number of tasks that are named on the axis."""


def returns(evaluation: dict[str, Any], title: str):
    """Draws the mean return of the last episode on every task, with its 95 % interval, one line per task.

    The task with the lowest mean is marked. If the tasks define success, a second panel has the success rates.

    Args:
      evaluation: the result of `assessment.assess` on a finite set of tasks.
    """
    tasks = evaluation["per_task"]
    panels = ["return", *(["success"] if any("success" in one for one in tasks) else [])]
    height = 1.7 + 0.3 * min(len(tasks), MAX_LABELLED)
    figure = canvas.figure((6.4 if len(panels) == 1 else 8.4, height))
    widths = [3, 1.4][: len(panels)]
    grid = figure.subplots(1, len(panels), squeeze=False, sharey=True, width_ratios=widths)[0]
    worst = evaluation["worst_task"]
    for axes, name in zip(grid, panels, strict=True):
        _draw(axes, [one.get(name, NOTHING) for one in tasks], worst)
    grid[0].set_xlabel("return of the last episode (sum of rewards)")
    if len(panels) > 1:
        grid[1].set_xlabel("success rate")
        grid[1].set_xlim(-0.05, 1.05)
    place = np.arange(len(tasks)) if len(tasks) <= MAX_LABELLED else np.arange(0, len(tasks), len(tasks) // 10)
    grid[0].set_yticks(place, [logging.task_label(tasks[index]) for index in place])
    grid[0].set_ylim(len(tasks) - 0.4, -0.6)
    grid[0].set_title(title, fontweight="bold", loc="left", pad=22)
    canvas.subtitle(grid[0], f"{logging.evaluated_on(evaluation)}, after {evaluation['step']} updates")
    handles, labels = grid[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower left", frameon=False, fontsize=9, ncols=3)
    return figure


def _draw(axes, points: list[dict[str, Any]], worst: int) -> None:
    """Draws means and intervals, the first task on top, and the mean over the tasks."""
    mean, place = canvas.column(points, "mean"), np.arange(len(points))
    ends = np.array([[canvas.number(end) for end in point["ci95"]] for point in points]).T
    error = np.maximum(np.abs(ends - mean), 0)
    axes.axvline(np.nanmean(mean), color=OPTIMUM, linestyle="--", linewidth=1.5, label="mean over tasks", zorder=1)
    style = {"fmt": "o", "markersize": 5, "capsize": 3}
    for chosen, color, label in (
        (place != worst, AFTER, "mean and 95 % interval"),
        (place == worst, WORST, "lowest return"),
    ):
        if chosen.any():
            axes.errorbar(mean[chosen], place[chosen], xerr=error[:, chosen], color=color, label=label, **style)
    axes.margins(x=0.08)
    canvas.plain(axes)
