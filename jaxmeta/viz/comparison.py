"""Figures of several runs side by side."""

from __future__ import annotations

import itertools

from jaxmeta.experiment import histories
from jaxmeta.viz import canvas, plot


def learning(curves: list[histories.Curve], metric: str):
    """Draws a metric of several agents over environment steps and over the time of meta-training.

    A line is the mean over seeds, smoothed by a running mean, and the band is its 95 % t-interval.
    """
    figure = canvas.figure((9.6, 4.2))
    panels = figure.subplots(1, len(histories.AXES), sharey=True)
    for axes, (axis, label) in zip(panels, histories.AXES.items(), strict=True):
        looks = itertools.product(("-", "--", ":"), canvas.LINES)  # more agents than colours
        for (style, color), curve in zip(looks, curves, strict=False):
            x, mean = curve.position[axis], curve.values.mean(0)
            marker = "o" if len(x) == 1 else None
            axes.plot(x, mean, style, color=color, linewidth=2, marker=marker, label=_label(curve))
            if len(curve.values) > 1:
                half = histories.t_interval(curve.values)
                axes.fill_between(x, mean - half, mean + half, color=color, alpha=0.2, linewidth=0)
        axes.set_xlabel(label)
        axes.xaxis.set_major_formatter(plot.engineering())
        canvas.plain(axes)
    panels[0].set_ylabel("return after adaptation" if metric == histories.METRIC else metric)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", frameon=False, ncols=3)
    several = any(len(curve.values) > 1 for curve in curves)
    note = "running means" + (", mean and 95 % interval over seeds" if several else "")
    figure.suptitle(f"{len(curves)} agents in meta-training ({note})", fontweight="bold", fontsize=10)
    return figure


def _label(curve: histories.Curve) -> str:
    seeds = len(curve.values)
    return f"{curve.name} ({seeds} seed{'' if seeds == 1 else 's'})"
