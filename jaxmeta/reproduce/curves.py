"""Adaptation curves of trained supervised agents, as further figures of tables."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxmeta.experiment import assessment, loading

MAX_STEPS = 10
NUM_TASKS = 1000


def error(folders: Mapping[str, Path], title: str) -> Any:
    """Draws the squared error on held-out tasks over the steps of the inner loop, a line per run."""
    return _draw(folders, title, "squared error", sign=-1.0)  # the negative reward


def accuracy(folders: Mapping[str, Path], title: str) -> Any:
    """Draws the accuracy on held-out tasks over the steps of the inner loop, a line per run."""
    return _draw(folders, title, "accuracy", sign=1.0)


def _draw(folders: Mapping[str, Path], title: str, what: str, sign: float) -> Any:
    from jaxmeta.viz import plot

    curves = {}
    for name, folder in folders.items():
        run = loading.load(folder)
        plan = assessment.changed_plan(run.meta.plan, MAX_STEPS, None)
        report = assessment.trials(run.meta.learner, run.first_params, run.family, plan, NUM_TASKS, seed=0)
        points = [episodes[0] for episodes in report.by_round_and_episode()]
        mean, ends = (sign * np.array([point[part] for point in points]) for part in ("mean", "ci95"))
        curves[name] = {"mean": mean, "ci95": np.sort(ends, axis=1)}
    return plot.adaptation_curves(curves, f"{title} on {NUM_TASKS:,} held-out tasks", what)
