"""Figures of sweeps: what each value of a config reached."""

from __future__ import annotations

import itertools

import numpy as np

from jaxmeta.core.sweep import Sweep
from jaxmeta.experiment import histories
from jaxmeta.viz import canvas

DECADES = 10.0
"""Ratio of the largest to the smallest value from which the axis is logarithmic."""


def intervals(found: Sweep, metric: str = "return/last"):
    """Draws a metric at the end of training over the first field of a sweep, with an interval over seeds.

    The interval is a 95 % t-interval; a single seed has none. Every combination of the other fields is a line. Settings
    in which any seed is not finite are left out.
    """
    final, (field, *others) = found.final(metric), found.values
    figure, axes = canvas.titled(f"{metric} at the end of training")
    rest = list(zip(*(found.values[name] for name in others), strict=True)) or [()] * len(final)
    looks = itertools.product(("o-", "s--", "^:"), canvas.LINES)
    for (style, color), one in zip(looks, dict.fromkeys(rest), strict=False):
        chosen = [index for index, other in enumerate(rest) if other == one and np.isfinite(final[index]).all()]
        label = ", ".join(f"{name} {value:g}" for name, value in zip(others, one, strict=True))
        half = histories.t_interval(final[chosen].T) if final.shape[1] > 1 else None
        axes.errorbar(
            found.values[field][chosen], final[chosen].mean(1), half, fmt=style, color=color, capsize=4, label=label
        )
    values = found.values[field]
    if values.min() > 0 and values.max() >= DECADES * values.min():
        axes.set_xscale("log")
    axes.set_xlabel(field)
    axes.set_ylabel("return of an episode (sum of rewards)" if metric.startswith("return/") else metric)
    if others:
        axes.legend(frameon=False)
    seeds = final.shape[1]
    canvas.subtitle(axes, f"mean and 95 % interval over {seeds} seeds" if seeds > 1 else "a single seed")
    return figure
