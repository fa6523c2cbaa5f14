"""How runs learned and what they reached, with intervals over their seeds: one run, or several side by side."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from jaxmeta.config.codec import RunError, encode
from jaxmeta.experiment import runs

AXES = {"env_steps": "environment steps in meta-training, per seed", "seconds": "seconds of meta-training"}
"""What runs are compared over, as the log names it."""
METRIC = "return/last"
SMOOTHED = 20
"""Part of a run, as its inverse, that a running mean averages over."""
RECORD_ONLY = ("seed", "num_seeds", "updates", "device", "platform", "processor", "cores", "versions", "commit")
"""Fields of a run's configuration in which runs of the same agent may differ."""


@dataclasses.dataclass(frozen=True)
class Curve:
    """How one agent learned."""

    name: str
    folders: tuple[Path, ...]
    position: dict[str, np.ndarray]
    """By axis, increasing, [L]."""
    values: np.ndarray
    """[seeds, L], smoothed."""
    evaluations: tuple[dict[str, Any], ...]
    """Of the folders that have been evaluated."""

    def summary(self) -> dict[str, Any]:
        """Returns what the agent reached: the return at the end of training, and that on held-out tasks."""
        return {
            "name": self.name,
            "runs": [str(folder) for folder in self.folders],
            "seeds": len(self.values),
            **{axis: float(position[-1]) for axis, position in self.position.items()},
            "training": interval(self.values[:, -1]),
            "held_out": self._held_out(),
        }

    def _held_out(self) -> dict[str, Any] | None:
        """Returns the return of the last episode on held-out tasks; None unless all runs have been evaluated."""
        if len(self.evaluations) < len(self.folders):
            return None
        last = [one["returns"][-1][-1] for one in self.evaluations]
        if len(last) == 1:
            return {name: last[0][name] for name in ("mean", "ci95")}
        return interval(np.array([one["mean"] for one in last], float))


def read(folders: list[Path], metric: str = METRIC) -> list[Curve]:
    """Reads the logs of runs; those whose configurations differ in the seed alone become one curve.

    Args:
      metric: what to compare, as the log names it.

    Raises:
      RunError: if a folder holds no run, or its log does not have the metric.
    """
    groups: dict[str, list[Path]] = {}
    for folder in folders:
        config = encode(runs.read_config(folder), "")
        groups.setdefault(repr({key: config[key] for key in sorted(config) if key not in RECORD_ONLY}), []).append(
            folder
        )
    return [_curve(group, metric) for group in groups.values()]


def interval(values: np.ndarray) -> dict[str, Any]:
    """Returns the mean of seeds [S] with its 95 % t-interval, which a single seed does not have."""
    mean = float(values.mean())
    half = float(t_interval(values)) if len(values) > 1 else None
    return {"mean": mean, "ci95": None if half is None else [mean - half, mean + half]}


def by_seed(records: list[dict[str, Any]], name: str) -> np.ndarray:
    """Collects a metric of the lines of a log as [seeds, updates]; missing values are NaN."""
    per_update = [record.get("seeds", {}).get(name, [record.get(name)]) for record in records]
    return np.array([[np.nan if value is None else float(value) for value in values] for values in per_update]).T


def running_mean(values: np.ndarray, window: int) -> np.ndarray:
    """Averages values [L] over a centred window that shrinks at the ends."""
    return _running_sum(values, window) / _running_sum(np.ones(len(values)), window)


def window_interval(values: np.ndarray, window: int) -> np.ndarray:
    """Returns the half-width of the 95 % t-interval of `running_mean`, as if the updates were independent."""
    size = _running_sum(np.ones(len(values)), window)
    centred = values - np.nanmean(values)  # avoids cancellation in the difference of squares
    squares = _running_sum(centred**2, window) - _running_sum(centred, window) ** 2 / size
    return _half_width(np.sqrt(np.maximum(squares, 0) / (size - 1)), size)


def t_interval(values: np.ndarray) -> np.ndarray:
    """Returns the half-width of the 95 % t-interval of the mean over the first axis."""
    return _half_width(values.std(0, ddof=1), len(values))


def _running_sum(values: np.ndarray, window: int) -> np.ndarray:
    return np.convolve(values, np.ones(min(window, len(values))), "same")


def _half_width(deviation: np.ndarray, size: np.ndarray | int) -> np.ndarray:
    from scipy import stats

    return stats.t.ppf(0.975, size - 1) * deviation / np.sqrt(size)


def _curve(folders: list[Path], metric: str) -> Curve:
    """Reads the runs of one agent; all are cut where the shortest ends."""
    logs = [runs.read_metrics(folder) for folder in folders]
    for folder, log in zip(folders, logs, strict=True):
        if not log or metric not in log[-1]:
            known = sorted(name for name in (log[-1] if log else {}) if name not in ("update", "seeds", *AXES))
            raise RunError(f"the log of {folder} has no {metric!r}; it has {', '.join(known) or 'no updates'}")
    log = min(logs, key=len)
    length, window = len(log), max(1, len(log) // SMOOTHED)
    values = [running_mean(seed[:length], window) for one in logs for seed in by_seed(one, metric)]
    position = {axis: np.mean([[line[axis] for line in one[:length]] for one in logs], 0) for axis in AXES}
    found = [runs.read_evaluation(folder) for folder in folders]
    name = folders[0].name + (f" and {len(folders) - 1} more" if len(folders) > 1 else "")
    return Curve(name, tuple(folders), position, np.stack(values), tuple(one for one in found if one is not None))
