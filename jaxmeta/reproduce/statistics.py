"""Numbers that tables take out of a report: each takes a `jm.Report` and returns its mean, error and interval.

What takes arguments returns a `functools.partial`, whose name and arguments `describe` tells.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

import jaxmeta as jm
from jaxmeta.reproduce.base import Point, Statistic


def trial_return(report: Any) -> Point:
    """Takes the return of the last round, its episodes summed."""
    return report.trial_return()


def gain(report: Any) -> Point:
    """Takes what the last episode of the last round returns more than the first of the first."""
    return report.gain()


def episode_return(episode: int, round: int = -1) -> Statistic:
    """Takes the return of an episode, counted from 0, of a round, by default the last."""
    return functools.partial(_of_episode, field="returns", episode=episode, round=round)


def loss(round: int = -1) -> Statistic:
    """Takes minus the return of a round, by default the last: the squared error where a reward is minus that."""
    return functools.partial(_loss, round=round)


def episode_length(episode: int, round: int = -1) -> Statistic:
    """Takes the number of steps of an episode, counted from 0, of a round, by default the last."""
    return functools.partial(_of_episode, field="lengths", episode=episode, round=round)


def success(episode: int, horizon: int) -> Statistic:
    """Takes the share of trials whose episode, counted from 0, of the last round ended before the horizon.

    A goal that is reached at the very last step counts as missed: a report does not tell it from a failure.
    """
    return functools.partial(_success, episode=episode, horizon=horizon)


def length_ratio(episode: int, first: int = 0) -> Statistic:
    """Takes the mean number of steps of an episode divided by that of an earlier one, both of the last round.

    Its error is that of the linearised ratio, from task to task, or from seed to seed where there are several.
    """
    return functools.partial(_length_ratio, episode=episode, first=first)


def describe(statistic: Statistic) -> list[Any]:
    """Returns the name of a statistic and its arguments, as JSON can hold them."""
    part = functools.partial(statistic)  # of a partial it is that partial
    return [part.func.__name__, part.keywords]


def over_tasks(points: list[Point]) -> Point:
    """Takes the mean of the means of all tasks that there are: which of them are met is not random, so no error."""
    mean = float(np.mean([point["mean"] for point in points]))
    if any(point["stderr"] is None for point in points):
        return {"mean": mean, "stderr": None, "ci95": [mean, mean]}
    return _normal(mean, float(np.linalg.norm([point["stderr"] for point in points]) / len(points)))


def _of_episode(report: Any, field: str, episode: int, round: int) -> Point:
    return jm.summarize(np.asarray(getattr(report, field))[..., round, :, episode].mean(-1))


def _loss(report: Any, round: int) -> Point:
    return jm.summarize(-np.asarray(report.returns)[..., round, :, :].mean((-2, -1)))


def _success(report: Any, episode: int, horizon: int) -> Point:
    return jm.summarize((np.asarray(report.lengths)[..., -1, :, episode] < horizon).mean(-1))


def _length_ratio(report: Any, episode: int, first: int) -> Point:
    lengths = np.asarray(report.lengths, np.float64)[..., -1, :, :].mean(-2)
    if lengths.ndim == 2 or len(lengths) == 1:
        lengths = lengths.reshape(-1, 1, lengths.shape[-1])  # a single seed: every task stands for itself
    later, earlier = lengths[..., episode].mean(1), lengths[..., first].mean(1)
    ratio = float(later.mean() / earlier.mean())
    if len(later) < 2:
        return {"mean": ratio, "stderr": None, "ci95": [ratio, ratio]}
    return _normal(ratio, float((later - ratio * earlier).std(ddof=1) / np.sqrt(len(later)) / earlier.mean()))


def _normal(mean: float, error: float) -> Point:
    return {"mean": mean, "stderr": error, "ci95": [mean - 1.96 * error, mean + 1.96 * error]}
