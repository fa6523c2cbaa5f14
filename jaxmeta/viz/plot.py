"""Figures of runs: learning curves, adaptation to held-out tasks, and trials."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np

from jaxmeta.experiment import histories, logging
from jaxmeta.viz import canvas, per_task
from jaxmeta.viz.canvas import AFTER, BEFORE, LINES, OPTIMUM

LEARNING = "learning.png"
ADAPTATION = "adaptation.png"
PER_TASK = "per-task.png"


def draw(folder: Path, records: list[dict[str, Any]], evaluation: dict[str, Any]) -> list[Path]:
    """Draws learning and adaptation curves into a run folder, and the return of every task of a finite set.

    Args:
      records: lines of `metrics.jsonl`.
      evaluation: the result of `assessment.assess`.

    Returns:
      The files.
    """
    title = f"{evaluation['algo']} on {evaluation['tasks']}"
    logged = records and not {"return/last", "loss"}.isdisjoint(records[-1])  # private runs log neither
    figures = {LEARNING: learning(records, title)} if logged else {}
    figures[ADAPTATION] = adaptation(evaluation, title)
    if "per_task" in evaluation:
        figures[PER_TASK] = per_task.returns(evaluation, title)
    for name, figure in figures.items():
        canvas.save(figure, folder / name)
    return [folder / name for name in figures]


def learning(records: list[dict[str, Any]], title: str):
    """Draws the returns before and after adaptation over the environment steps of meta-training.

    With several seeds a line is their mean and the band a 95 % t-interval over them. With a single seed it is a running
    mean, the band is its 95 % t-interval over the updates in the window, and raw values are faint. If logged, success
    rates have a second axis, and tasks dotted lines. Where the agent does not act, as in cloning, losses are drawn.
    """
    figure, axes = canvas.titled(title)
    imitated = "return/last" not in records[-1]
    steps = np.array([record["update" if imitated else "env_steps"] for record in records], float)
    window = max(5, len(records) // 20) if len(records) >= 20 else 1
    note = smoothing = f"running mean over {window} updates" if window > 1 else ""
    returns = (("return/first", "before adaptation", BEFORE, "--"), ("return/last", "after adaptation", AFTER, "-"))
    for name, label, color, style in (("loss", "loss of imitation", AFTER, "-"),) if imitated else returns:
        values = histories.by_seed(records, name)
        smooth = np.stack([histories.running_mean(seed, window) for seed in values])
        mean = smooth.mean(0)
        # a single update is a point, not a line
        axes.plot(steps, mean, style, color=color, label=label, linewidth=2, marker="o" if len(steps) == 1 else None)
        if len(values) > 1:
            half = histories.t_interval(smooth)
            axes.fill_between(steps, mean - half, mean + half, color=color, alpha=0.2, linewidth=0)
            note = ", ".join(filter(None, (f"mean and 95 % interval over {len(values)} seeds", smoothing)))
        elif window > 1:
            half = histories.window_interval(values[0], window)
            axes.fill_between(steps, mean - half, mean + half, color=color, alpha=0.3, linewidth=0)
            axes.plot(steps, values[0], color=color, alpha=0.25, linewidth=0.8, zorder=1)
            note = f"{smoothing} and its 95 % interval, from their spread"
    _draw_tasks(axes, steps, records, window)
    x = "updates" if imitated else "environment steps in meta-training"
    axes.set_xlabel(x + ", per seed" * (len(values) > 1))
    axes.set_ylabel("negative log-likelihood per step" if imitated else "return of an episode (sum of rewards)")
    axes.xaxis.set_major_formatter(engineering())
    if all("success/last" in record for record in records):
        rate = np.stack(
            [histories.running_mean(seed, window) for seed in histories.by_seed(records, "success/last")]
        ).mean(0)
        _draw_success(axes, steps, rate)
    axes.legend(frameon=False)
    canvas.subtitle(axes, note)
    return figure


def adaptation(evaluation: dict[str, Any], title: str):
    """Draws the return on held-out tasks over rounds of adaptation, or over the episodes of a trial.

    If the tasks define success, its rate is drawn on a second axis.
    """
    figure, axes = canvas.titled(title)
    returns = evaluation["returns"]
    rounds, episodes = len(returns), len(returns[0])
    points = [episode for a_round in returns for episode in a_round]
    mean = canvas.column(points, "mean")
    low, high = (np.array([canvas.number(point["ci95"][side]) for point in points]) for side in (0, 1))
    # rounds are counted from 0, as numbers of adaptations; episodes from 1
    position = np.arange(rounds) if episodes == 1 else np.arange(1, len(points) + 1)
    begin = "demonstration" if evaluation.get("demonstrated") else "unadapted policy"
    axes.axhline(mean[0], color=BEFORE, linestyle="--", linewidth=1.5, label=begin, zorder=1)
    for start in range(0, len(points), episodes) if episodes > 1 else [0]:
        piece = slice(start, start + (episodes if episodes > 1 else len(points)))
        error = (mean[piece] - low[piece], high[piece] - mean[piece])
        axes.errorbar(position[piece], mean[piece], error, color=AFTER, marker="o", linewidth=2, capsize=4)
        if start:
            axes.axvline(position[start] - 0.5, color="0.7", linewidth=1, linestyle=":")
    axes.plot([], [], color=AFTER, marker="o", linewidth=2, label="mean and 95 % bootstrap interval")
    if "success" in evaluation:
        rates = [episode for a_round in evaluation["success"] for episode in a_round]
        _draw_success(axes, position, canvas.column(rates, "mean"))
    axes.legend(frameon=False)
    canvas.subtitle(axes, f"{logging.evaluated_on(evaluation)}, after {evaluation['step']} updates")
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
    figure, axes = canvas.titled(title)
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
    canvas.subtitle(axes, "mean and 95 % bootstrap interval")
    return figure


def functions(x: np.ndarray, panels: dict[str, dict[str, Any]]):
    """Draws predicted functions before and after gradient steps, one panel per agent.

    Args:
      x: inputs, [M].
      panels: by title, `truth` [M], `support` (inputs and targets), and `steps`, the predictions [M] by gradient step.
    """
    figure = canvas.figure((4.8 * len(panels), 3.6))
    for axes, (title, panel) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        axes.plot(x, panel["truth"], color="0.4", linewidth=3, alpha=0.4, label="truth")
        for color, style, (step, values) in zip(LINES, ("--", "-", "-.", ":"), panel["steps"].items(), strict=False):
            label = "before adaptation" if step == 0 else f"{step} step{'s' if step > 1 else ''}"
            axes.plot(x, values, style, color=color, linewidth=1.8, label=label)
        axes.plot(*panel["support"], "^", color="black", markersize=6, label="support", zorder=5)
        axes.set_title(title, loc="left", fontsize=10, fontweight="bold")
        canvas.plain(axes)
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", frameon=False, ncols=6)
    return figure


def walks(path: np.ndarray, goal: np.ndarray, size: int, title: str, beliefs: np.ndarray | None = None):
    """Draws the episodes of a trial on a grid: the agent's path, and its belief about the goal.

    Args:
      path: cells (x, y), from the start of each episode, [K, H + 1, 2].
      goal: cell (x, y).
      size: cells per side.
      beliefs: probability of each cell to be the goal, at the same times, [K, H + 1, size, size]; if omitted, only the
        paths are drawn.

    Returns:
      A figure with a panel per episode; with beliefs it has a row per episode, with panels for its start, its middle
      and its end.
    """
    horizon = path.shape[1] - 1
    times = sorted({0, horizon // 2, horizon}) if beliefs is not None else [horizon]
    rows, columns = (len(path), len(times)) if beliefs is not None else (1, len(path))
    figure = canvas.figure((2.2 * columns + 0.9, 2.3 * rows + 0.6))
    panels = figure.subplots(rows, columns, squeeze=False).reshape(len(path), len(times))
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
    figure = canvas.figure((3.2 * len(panels), 3.6))
    for axes, (name, image) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        axes.imshow(image, interpolation="nearest")
        axes.set_title(name, fontsize=8)
        axes.set_axis_off()
    figure.suptitle(title, fontweight="bold", fontsize=10)
    return figure


def _adaptation_label(rounds: int, episodes: int) -> str:
    if episodes == 1:
        return "adaptations to the task (rounds)"
    return "episode of the trial" if rounds == 1 else "episode of the trial; dotted: the agent adapts"


def _draw_tasks(axes, steps: np.ndarray, records: list[dict[str, Any]], window: int) -> None:
    names = [name for name in records[-1] if name.startswith("return/task_")]
    for index, name in enumerate(sorted(names, key=lambda name: int(name.rpartition("_")[2]))):
        values = np.stack([histories.running_mean(seed, window) for seed in histories.by_seed(records, name)]).mean(0)
        look = (
            {"color": LINES[2 + index], "label": f"task {index}"} if len(names) <= len(LINES) - 2 else {"color": "0.6"}
        )
        axes.plot(steps, values, ":", linewidth=1.2, **look)


def engineering():
    """Returns the format of numbers of steps, such as 1.5 M."""
    from matplotlib.ticker import EngFormatter

    return EngFormatter(sep="")


def _draw_success(axes, position: np.ndarray, rate: np.ndarray) -> None:
    """Draws success rates on a second axis at the right, from 0 to 1, with an entry in the first axis's legend."""
    second = axes.twinx()
    second.plot(position, rate, "s:", color=OPTIMUM, markersize=4, linewidth=1.5)
    second.set_ylim(-0.03, 1.03)
    second.set_ylabel("success rate")
    second.spines[["top", "left"]].set_visible(False)
    axes.plot([], [], "s:", color=OPTIMUM, markersize=4, linewidth=1.5, label="success rate (right axis)")
