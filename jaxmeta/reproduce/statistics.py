"""Statistics of the rows of tables: functions from a `jm.Report` to mean, standard error and 95 % interval.

Functions with arguments return such a statistic as a `functools.partial`, so that `describe` can record its arguments.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

import jaxmeta as jm
from jaxmeta.reproduce.base import Point, Statistic


def trial_return(report: Any) -> Point:
    """Computes the return of the last round, summed over its episodes."""
    return report.trial_return()


def gain(report: Any) -> Point:
    """Computes the return of the last episode of the last round minus that of the first episode of the first round."""
    return report.gain()


def episode_return(episode: int, round: int = -1) -> Statistic:
    """Makes the statistic of the return of an episode, counted from 0, in a round, by default the last."""
    return functools.partial(_of_episode, field="returns", episode=episode, round=round)


def loss(round: int = -1) -> Statistic:
    """Makes the statistic of minus the return of a round, by default the last: on regression tasks, squared error."""
    return functools.partial(_loss, round=round)


def episode_length(episode: int, round: int = -1) -> Statistic:
    """Makes the statistic of the number of steps of an episode, counted from 0, in a round, by default the last."""
    return functools.partial(_of_episode, field="lengths", episode=episode, round=round)


def success(episode: int, horizon: int) -> Statistic:
    """Makes the statistic of the share of trials whose episode, counted from 0, ended before the horizon.

    It is for the last round. A goal reached at the very last step counts as missed, since a report has only lengths.
    """
    return functools.partial(_success, episode=episode, horizon=horizon)


def length_ratio(episode: int, first: int = 0) -> Statistic:
    """Makes the statistic of the mean number of steps of an episode divided by that of an earlier one.

    Both are in the last round. The standard error is that of the linearised ratio (delta method), over seeds if there
    are several, else over tasks.
    """
    return functools.partial(_length_ratio, episode=episode, first=first)


def named(name: str) -> Statistic:
    """Makes the statistic that selects one number of a `Computed` run; its error is over seeds, if there are any."""
    return functools.partial(_named, name=name)


def worst_seed(name: str, largest: bool) -> Statistic:
    """Makes the statistic of the largest, or else the smallest, of the numbers of all seeds of a `Computed` run."""
    return functools.partial(_worst_seed, name=name, largest=largest)


def describe(statistic: Statistic) -> list[Any]:
    """Returns the name of a statistic and its arguments, ready for JSON."""
    part = functools.partial(statistic)  # a partial of a partial is flattened
    return [part.func.__name__, part.keywords]


def over_tasks(points: list[Point]) -> Point:
    """Averages the means of all tasks of a finite family; the error has no part from sampling the tasks."""
    mean = float(np.mean([point["mean"] for point in points]))
    if any(point["stderr"] is None for point in points):
        return {"mean": mean, "stderr": None, "ci95": [mean, mean]}
    return _normal(mean, float(np.linalg.norm([point["stderr"] for point in points]) / len(points)))


def _named(values: dict[str, Any], name: str) -> Point:
    value = values[name]
    if isinstance(value, list):
        return jm.summarize(value)
    return {"mean": value, "stderr": None, "ci95": [value] * 2}


def _worst_seed(values: dict[str, list[float]], name: str, largest: bool) -> Point:
    value = max(values[name]) if largest else min(values[name])
    return {"mean": value, "stderr": None, "ci95": [value] * 2}


def _of_episode(report: Any, field: str, episode: int, round: int) -> Point:
    return jm.summarize(np.asarray(getattr(report, field))[..., round, :, episode].mean(-1))


def _loss(report: Any, round: int) -> Point:
    return jm.summarize(-np.asarray(report.returns)[..., round, :, :].mean((-2, -1)))


def _success(report: Any, episode: int, horizon: int) -> Point:
    return jm.summarize((np.asarray(report.lengths)[..., -1, :, episode] < horizon).mean(-1))


def _length_ratio(report: Any, episode: int, first: int) -> Point:
    lengths = np.asarray(report.lengths, np.float64)[..., -1, :, :].mean(-2)
    if lengths.ndim == 2 or len(lengths) == 1:
        lengths = lengths.reshape(-1, 1, lengths.shape[-1])  # a single seed: the error is over tasks
    later, earlier = lengths[..., episode].mean(1), lengths[..., first].mean(1)
    ratio = float(later.mean() / earlier.mean())
    if len(later) < 2:
        return {"mean": ratio, "stderr": None, "ci95": [ratio, ratio]}
    return _normal(ratio, float((later - ratio * earlier).std(ddof=1) / np.sqrt(len(later)) / earlier.mean()))


def _normal(mean: float, error: float) -> Point:
    return {"mean": mean, "stderr": error, "ci95": [mean - 1.96 * error, mean + 1.96 * error]}
