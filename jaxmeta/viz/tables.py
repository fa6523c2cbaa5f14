"""Figures of the tables of `jaxmeta reproduce`: our results beside published ones, and estimators of gradients."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from jaxmeta.viz import canvas
from jaxmeta.viz.canvas import AFTER, BEFORE, LINES, OPTIMUM


def published(rows: list[dict[str, Any]], title: str, source: str):
    """Draws a dot plot of our results beside the published numbers, with one panel per group and one line per row.

    Args:
      rows: of a table of `jaxmeta reproduce`. The row named `group/agent` goes into the panel `group`.
      source: source of the published numbers.
    """
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(row["name"].partition("/")[0], []).append(row)
    columns = min(3, len(groups)) or 1
    parts = [list(groups.items())[start : start + columns] for start in range(0, len(groups), columns)]
    lines = [max(len(members) for _, members in part) for part in parts]
    width = 6.4 if columns == 1 else 4.4 * columns
    figure = canvas.figure((width, 1.2 + sum(0.3 * count + 0.8 for count in lines)))
    grid = figure.add_gridspec(len(parts) or 1, columns, height_ratios=[count + 2 for count in lines] or None)
    for index, part in enumerate(parts):
        for column, (group, members) in enumerate(part):
            _panel(figure.add_subplot(grid[index, column]), group, members, lines[index])
    quick = " (quick: nothing that counts)" if any(row["quick"] for row in rows) else ""
    figure.suptitle(title + quick, fontweight="bold", x=0.01, ha="left", fontsize=11, wrap=True)
    handles = {
        label: handle for axes in figure.axes for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    style = {"title": source, "title_fontsize": 8, "alignment": "left", "frameon": False, "fontsize": 9, "ncols": 3}
    figure.legend(handles.values(), handles, loc="outside lower left", **style)
    return figure


def bias_and_deviation(curves: dict[str, tuple[list[int], list[float], list[float]]], title: str, source: str):
    """Draws bias and standard deviation of estimators over the number of streams.

    Args:
      curves: by name, numbers of streams, biases and standard deviations, relative to the estimated quantity. A bias
        below 1e-4 is rounding error, and drawn at the bottom.
    """
    figure = canvas.figure((9.6, 4.2))
    panels = figure.subplots(1, 2)
    styles = ("o-", "s-", "^-", "D-", "v--", "*--")
    for (name, (streams, *parts)), color, style in zip(curves.items(), LINES, styles, strict=False):
        for axes, values in zip(panels, parts, strict=True):
            axes.plot(streams, np.maximum(values, 1e-4), style, color=color, label=name, linewidth=1.5, markersize=6)
    for axes, what in zip(panels, ("bias", "standard deviation"), strict=True):
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_xlabel("streams per round")
        axes.set_ylabel(what)
        ticks = sorted({count for streams, *_ in curves.values() for count in streams})
        axes.set_xticks(ticks, ticks)
        canvas.plain(axes)
    figure.suptitle(title, fontweight="bold", x=0.01, ha="left", fontsize=11)
    style = {"title": source, "title_fontsize": 8, "alignment": "left", "frameon": False, "fontsize": 9, "ncols": 6}
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower left", **style)
    return figure


def _panel(axes, group: str, rows: list[dict[str, Any]], lines: int) -> None:
    """Draws one group of a table, its first row on top, with room for `lines` rows."""
    place = np.arange(len(rows))
    ours, theirs, optimum = (canvas.column(rows, name) for name in ("ours", "published", "optimum"))
    ends = np.array([[canvas.number(end) for end in row["ci95"]] for row in rows]).T
    if np.all(optimum == optimum[0]):
        axes.axvline(optimum[0], color=OPTIMUM, linewidth=1.5, label="optimum", zorder=1)
    elif np.isfinite(optimum).any():
        axes.vlines(optimum, place - 0.4, place + 0.4, color=OPTIMUM, linewidth=2, label="optimum", zorder=1)
    if np.isfinite(theirs).any():
        axes.plot(theirs, place, "D", color=BEFORE, markersize=8, markerfacecolor="none", label="published", zorder=2)
    error = np.maximum(np.abs(ends - ours), 0)
    axes.errorbar(ours, place, xerr=error, fmt="o", color=AFTER, markersize=5, capsize=3, label="ours, 95 % interval")
    for value, y in zip(ours, place, strict=True):
        if math.isfinite(value):
            text = axes.annotate(
                f"{value:.4g}", (value, y), (0, 5), textcoords="offset points", ha="center", fontsize=7
            )
            text.set_bbox({"facecolor": "white", "alpha": 0.7, "linewidth": 0, "pad": 0.5})
    names = [row["name"].partition("/")[2] or row["name"] for row in rows]
    axes.set_yticks(place, names)
    axes.set_ylim(lines - 0.4, -0.7)
    axes.margins(x=0.12)
    axes.set_title(group, loc="left", fontsize=10)
    axes.tick_params(labelsize=8)
    canvas.plain(axes)
