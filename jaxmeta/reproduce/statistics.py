"""Numbers that tables take out of a report: each takes a `jm.Report` and returns its mean, error and interval."""

from __future__ import annotations

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
    return lambda report: _summarize(report.returns, episode, round)


def episode_length(episode: int, round: int = -1) -> Statistic:
    """Takes the number of steps of an episode, counted from 0, of a round, by default the last."""
    return lambda report: _summarize(report.lengths, episode, round)


def length_ratio(episode: int, first: int = 0) -> Statistic:
    """Takes the mean number of steps of an episode divided by that of an earlier one, both of the last round.

    Its error is that of the linearised ratio, from task to task, or from seed to seed where there are several.
    """

    def statistic(report: Any) -> Point:
        lengths = np.asarray(report.lengths, np.float64)[..., -1, :, :].mean(-2)
        by_seed = lengths if lengths.ndim == 3 else lengths[:, None]  # without seeds, every task stands for itself
        later, earlier = by_seed[..., episode].mean(1), by_seed[..., first].mean(1)
        ratio = later.mean() / earlier.mean()
        if len(later) < 2:
            return {"mean": float(ratio), "stderr": None, "ci95": [float(ratio)] * 2}
        error = float((later - ratio * earlier).std(ddof=1) / np.sqrt(len(later)) / earlier.mean())
        return {"mean": float(ratio), "stderr": error, "ci95": [ratio - 1.96 * error, ratio + 1.96 * error]}

    return statistic


def _summarize(values: Any, episode: int, round: int) -> Point:
    return jm.summarize(np.asarray(values)[..., round, :, episode].mean(-1))
