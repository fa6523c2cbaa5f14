"""Ratios of speeds, with their spread over the turns."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from benchmarks.peers.protocol import Turn


def spread(values: Sequence[float]) -> dict[str, float]:
    """Returns median, quartiles and extremes; with one value all are that value."""
    quarters = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else list(values) * 3
    names = ("lowest", "lower_quartile", "median", "upper_quartile", "highest")
    return dict(zip(names, (min(values), *quarters, max(values)), strict=True))


def speed_ratio(one: Sequence[Turn], other: Sequence[Turn]) -> dict[str, float]:
    """Returns the spread of the ratios of the speeds of `one` to those of `other`, turn by turn.

    The turns of a pair follow each other, so that slow changes of the machine's speed cancel.
    """
    return spread([a.speed / b.speed for a, b in zip(one, other, strict=True)])
