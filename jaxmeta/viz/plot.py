"""Figures: learning curves, adaptation to held-out tasks, and comparisons with published results."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np

from jaxmeta.viz import PICTURE

LEARNING = "learning.png"
ADAPTATION = "adaptation.png"

# from Okabe and Ito's colour-blind safe palette, distinguishable in greyscale
BEFORE, AFTER, OPTIMUM = "#E69F00", "#0072B2", "#009E73"
LINES = (BEFORE, AFTER, OPTIMUM, "#D55E00", "#CC79A7", "#56B4E9", "#000000")


def draw(folder: Path, records: list[dict[str, Any]], evaluation: dict[str, Any]) -> list[Path]:
    """Draws learning and adaptation curves into a run folder.

    Args:
      records: lines of `metrics.jsonl`.
      evaluation: the result of `assessment.assess`.

    Returns:
      The files.
    """
    title = f"{evaluation['algo']} on {evaluation['tasks']}"
    files = [folder / ADAPTATION]
    save(adaptation(evaluation, title), files[0])
    if records:
        files.insert(0, folder / LEARNING)
        save(learning(records, title), files[0])
    return files


def learning(records: list[dict[str, Any]], title: str):
    """Draws the returns before and after adaptation over the environment steps of meta-training.

    With several seeds a line is their mean and the band a 95 % t-interval over them. With a single seed it is a running
    mean, the band is its 95 % t-interval over the updates in the window, and the raw values are faint. If the log has
    success rates, that of the last episode is drawn on a second axis. The return of every task is dotted, if logged.
    """
    figure, axes = _axes(title)
    steps = np.array([record["env_steps"] for record in records], float)
    window = max(5, len(records) // 20) if len(records) >= 20 else 1
    note = smoothing = f"running mean over {window} updates" if window > 1 else ""
    for name, label, color, style in (
        ("return/first", "before adaptation", BEFORE, "--"),
        ("return/last", "after adaptation", AFTER, "-"),
    ):
        values = _by_seed(records, name)
        smooth = np.stack([_running_mean(seed, window) for seed in values])
        mean = smooth.mean(0)
        # a single update is a point, not a line
        axes.plot(steps, mean, style, color=color, label=label, linewidth=2, marker="o" if len(steps) == 1 else None)
        if len(values) > 1:
            half = _t_interval(smooth)
            axes.fill_between(steps, mean - half, mean + half, color=color, alpha=0.2, linewidth=0)
            note = ", ".join(filter(None, (f"mean and 95 % interval over {len(values)} seeds", smoothing)))
        elif window > 1:
            half = _window_interval(values[0], window)
            axes.fill_between(steps, mean - half, mean + half, color=color, alpha=0.3, linewidth=0)
            axes.plot(steps, values[0], color=color, alpha=0.25, linewidth=0.8, zorder=1)
            note = f"{smoothing} and its 95 % interval, from their spread"
    _draw_tasks(axes, steps, records, window)
    axes.set_xlabel("environment steps in meta-training" + (", per seed" if len(values) > 1 else ""))
    axes.set_ylabel("return of an episode (sum of rewards)")
    axes.xaxis.set_major_formatter(_engineering())
    if all("success/last" in record for record in records):
        rate = np.stack([_running_mean(seed, window) for seed in _by_seed(records, "success/last")]).mean(0)
        _draw_success(axes, steps, rate)
    axes.legend(frameon=False)
    _subtitle(axes, note)
    return figure


def adaptation(evaluation: dict[str, Any], title: str):
    """Draws the return on held-out tasks over rounds of adaptation, or over the episodes of a trial.

    If the tasks define success, its rate is drawn on a second axis.
    """
    figure, axes = _axes(title)
    returns = evaluation["returns"]
    rounds, episodes = len(returns), len(returns[0])
    points = [episode for a_round in returns for episode in a_round]
    mean = _column(points, "mean")
    low, high = (np.array([_number(point["ci95"][side]) for point in points]) for side in (0, 1))
    # rounds are counted from 0, as numbers of adaptations; episodes from 1
    position = np.arange(rounds) if episodes == 1 else np.arange(1, len(points) + 1)
    axes.axhline(mean[0], color=BEFORE, linestyle="--", linewidth=1.5, label="unadapted policy", zorder=1)
    for start in range(0, len(points), episodes) if episodes > 1 else [0]:
        piece = slice(start, start + (episodes if episodes > 1 else len(points)))
        error = (mean[piece] - low[piece], high[piece] - mean[piece])
        axes.errorbar(position[piece], mean[piece], error, color=AFTER, marker="o", linewidth=2, capsize=4)
        if start:
            axes.axvline(position[start] - 0.5, color="0.7", linewidth=1, linestyle=":")
    axes.plot([], [], color=AFTER, marker="o", linewidth=2, label="mean and 95 % bootstrap interval")
    seeds = f" × {evaluation['num_seeds']} seeds" if evaluation["num_seeds"] > 1 else ""
    if "success" in evaluation:
        rates = [episode for a_round in evaluation["success"] for episode in a_round]
        _draw_success(axes, position, _column(rates, "mean"))
    axes.legend(frameon=False)
    _subtitle(axes, f"{evaluation['num_tasks']} held-out tasks{seeds}, after {evaluation['step']} updates")
    axes.set_xlabel(_adaptation_label(rounds, episodes))
    axes.set_ylabel("return of an episode (sum of rewards)")
    axes.set_xticks(position if len(position) <= 21 else position[:: len(position) // 10])
    axes.margins(x=0.08)
    return figure


def adaptation_curves(curves: dict[str, dict[str, Any]], title: str, what: str = "squared error"):
    """Draws an error or an accuracy over inner steps, one line per agent.

    Args:
      curves: by agent, `mean` per step, [steps + 1], and `ci95`, [steps + 1, 2], the lower end first.
      what: "squared error", on a logarithmic axis, or "accuracy".
    """
    figure, axes = _axes(title)
    looks = itertools.product(("o-", "s--", "^:"), LINES)  # more agents than colours
    for (style, color), (name, curve) in zip(looks, curves.items(), strict=False):
        low, high = np.array(curve["ci95"]).T
        axes.plot(curve["mean"], style, color=color, label=name, linewidth=2, markersize=3)
        axes.fill_between(np.arange(len(low)), low, high, color=color, alpha=0.2, linewidth=0)
    if what == "squared error":
        axes.set_yscale("log")
        # agents meta-trained for few steps may diverge with more: the axis keeps the other curves readable
        axes.set_ylim(top=4 * max(curve["mean"][0] for curve in curves.values()))
    else:
        axes.set_ylim(0.0, 1.0)
    axes.set_xlabel("gradient steps on the support")
    axes.set_ylabel(what)
    axes.legend(frameon=False)
    _subtitle(axes, "mean and 95 % bootstrap interval")
    return figure


def functions(x: np.ndarray, panels: dict[str, dict[str, Any]]):
    """Draws predicted functions before and after gradient steps, one panel per agent.

    Args:
      x: inputs, [M].
      panels: by title, `truth` [M], `support` (inputs and targets), and `steps`, the predictions [M] by gradient step.
    """
    figure = blank_figure((4.8 * len(panels), 3.6))
    for axes, (title, panel) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        axes.plot(x, panel["truth"], color="0.4", linewidth=3, alpha=0.4, label="truth")
        for color, style, (step, values) in zip(LINES, ("--", "-", "-.", ":"), panel["steps"].items(), strict=False):
            label = "before adaptation" if step == 0 else f"{step} step{'s' if step > 1 else ''}"
            axes.plot(x, values, style, color=color, linewidth=1.8, label=label)
        axes.plot(*panel["support"], "^", color="black", markersize=6, label="support", zorder=5)
        axes.set_title(title, loc="left", fontsize=10, fontweight="bold")
        _plain(axes)
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", frameon=False, ncols=6)
    return figure


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
    figure = blank_figure((width, 1.2 + sum(0.3 * count + 0.8 for count in lines)))
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
    figure = blank_figure((9.6, 4.2))
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
        _plain(axes)
    figure.suptitle(title, fontweight="bold", x=0.01, ha="left", fontsize=11)
    style = {"title": source, "title_fontsize": 8, "alignment": "left", "frameon": False, "fontsize": 9, "ncols": 6}
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower left", **style)
    return figure


def walks(path: np.ndarray, goal: np.ndarray, size: int, title: str, beliefs: np.ndarray | None = None):
    """Draws the episodes of a trial on a grid, one per row: the agent's path, and its belief about the goal.

    Args:
      path: cells (x, y), from the start of each episode, [K, H + 1, 2].
      goal: cell (x, y).
      size: cells per side.
      beliefs: probability of each cell to be the goal, at the same times, [K, H + 1, size, size]; if omitted, only the
        paths are drawn.

    Returns:
      A figure; with beliefs a row has panels for the start, the middle and the end of its episode.
    """
    horizon = path.shape[1] - 1
    times = sorted({0, horizon // 2, horizon}) if beliefs is not None else [horizon]
    figure = blank_figure((2.2 * len(times) + 0.9, 2.3 * len(path) + 0.6))
    panels = figure.subplots(len(path), len(times), squeeze=False)
    for row, (cells, axes_of_row) in enumerate(zip(path, panels, strict=True)):
        for time, axes in zip(times, axes_of_row, strict=True):
            shades = np.zeros((size, size)) if beliefs is None else beliefs[row, time]
            image = axes.imshow(shades.T, cmap="Blues", vmin=0, vmax=1, origin="lower")
            axes.plot(*cells[: time + 1].T, color=BEFORE, linewidth=2)
            axes.plot(*cells[time], "o", color=BEFORE, markersize=7, label="agent, and its way")
            axes.plot(*goal, "*", color=OPTIMUM, markersize=11, markerfacecolor="none", label="goal, unseen")
            axes.set_title(f"episode {row + 1}, step {time}", fontsize=8)
            axes.set_xticks(np.arange(size + 1) - 0.5, [])
            axes.set_yticks(np.arange(size + 1) - 0.5, [])
            axes.tick_params(length=0)
            axes.grid(color="0.8")
    figure.suptitle(title, fontweight="bold", fontsize=10)
    if beliefs is not None:
        figure.colorbar(image, ax=panels, shrink=0.4, label="predicted probability of the goal")
    figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside lower center", frameon=False, ncols=2)
    return figure


def images(panels: dict[str, np.ndarray], title: str):
    """Draws images next to each other, each under its title."""
    figure = blank_figure((3.2 * len(panels), 3.6))
    for axes, (name, image) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        axes.imshow(image, interpolation="nearest")
        axes.set_title(name, fontsize=8)
        axes.set_axis_off()
    figure.suptitle(title, fontweight="bold", fontsize=10)
    return figure


def _panel(axes, group: str, rows: list[dict[str, Any]], lines: int) -> None:
    """Draws one group of a table, its first row on top, with room for `lines` rows."""
    place = np.arange(len(rows))
    ours, theirs, optimum = (_column(rows, name) for name in ("ours", "published", "optimum"))
    ends = np.array([[_number(end) for end in row["ci95"]] for row in rows]).T
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
    _plain(axes)


def _adaptation_label(rounds: int, episodes: int) -> str:
    if episodes == 1:
        return "adaptations to the task (rounds)"
    return "episode of the trial" if rounds == 1 else "episode of the trial; dotted: the agent adapts"


def _axes(title: str):
    figure = blank_figure((6.4, 4.0))
    axes = figure.add_subplot()
    axes.set_title(title, fontweight="bold", loc="left", pad=22)
    _plain(axes)
    return figure, axes


def _draw_tasks(axes, steps: np.ndarray, records: list[dict[str, Any]], window: int) -> None:
    names = [name for name in records[-1] if name.startswith("return/task_")]
    for index, name in enumerate(sorted(names, key=lambda name: int(name.rpartition("_")[2]))):
        values = np.stack([_running_mean(seed, window) for seed in _by_seed(records, name)]).mean(0)
        look = (
            {"color": LINES[2 + index], "label": f"task {index}"} if len(names) <= len(LINES) - 2 else {"color": "0.6"}
        )
        axes.plot(steps, values, ":", linewidth=1.2, **look)


def _draw_success(axes, position: np.ndarray, rate: np.ndarray) -> None:
    """Draws success rates on a second axis at the right, from 0 to 1, with an entry in the first axis's legend."""
    second = axes.twinx()
    second.plot(position, rate, "s:", color=OPTIMUM, markersize=4, linewidth=1.5)
    second.set_ylim(-0.03, 1.03)
    second.set_ylabel("success rate")
    second.spines[["top", "left"]].set_visible(False)
    axes.plot([], [], "s:", color=OPTIMUM, markersize=4, linewidth=1.5, label="success rate (right axis)")


def blank_figure(size: tuple[float, float]):
    """Makes a figure of this width and height in inches; not by pyplot, which needs a display and keeps all figures."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _plain(axes) -> None:
    axes.grid(color="0.9")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _subtitle(axes, text: str) -> None:
    where = {"xycoords": "axes fraction", "textcoords": "offset points"}
    note = axes.annotate(text, (0, 1), (0, 6), **where, color="0.35", fontsize=9)
    note.set_in_layout(False)  # a long text must not shrink the axes


def save(figure, file: Path) -> None:
    """Writes a figure as PNG."""
    figure.savefig(file, dpi=150, format="png", metadata={"Software": PICTURE})


def _engineering():
    from matplotlib.ticker import EngFormatter

    return EngFormatter(sep="")


def _by_seed(records: list[dict[str, Any]], name: str) -> np.ndarray:
    """Collects a metric as [seeds, updates]."""
    per_update = [record.get("seeds", {}).get(name, [record.get(name)]) for record in records]
    return np.array([[_number(value) for value in values] for values in per_update]).T


def _column(points: list[dict[str, Any]], name: str) -> np.ndarray:
    return np.array([_number(point[name]) for point in points])


def _number(value: float | None) -> float:
    """Converts None to NaN, which JSON stores as null."""
    return np.nan if value is None else float(value)


def _running_mean(values: np.ndarray, window: int) -> np.ndarray:
    """Averages over a centred window that shrinks at the ends."""
    return _running_sum(values, window) / _running_sum(np.ones(len(values)), window)


def _running_sum(values: np.ndarray, window: int) -> np.ndarray:
    return np.convolve(values, np.ones(min(window, len(values))), "same")


def _window_interval(values: np.ndarray, window: int) -> np.ndarray:
    """Returns the half-width of the 95 % t-interval of `_running_mean`, as if the updates were independent."""
    size = _running_sum(np.ones(len(values)), window)
    centred = values - np.nanmean(values)  # avoids cancellation in the difference of squares
    squares = _running_sum(centred**2, window) - _running_sum(centred, window) ** 2 / size
    return _half_width(np.sqrt(np.maximum(squares, 0) / (size - 1)), size)


def _t_interval(values: np.ndarray) -> np.ndarray:
    """Returns the half-width of the 95 % t-interval of the mean over the first axis."""
    return _half_width(values.std(0, ddof=1), len(values))


def _half_width(deviation: np.ndarray, size: np.ndarray | int) -> np.ndarray:
    from scipy import stats

    return stats.t.ppf(0.975, size - 1) * deviation / np.sqrt(size)
