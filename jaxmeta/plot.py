"""Pictures of a run: how the returns grew in meta-training, and how an agent adapts to a held-out task."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

LEARNING = "learning.png"
ADAPTATION = "adaptation.png"

# from Okabe and Ito's palette: told apart by everyone, and by their lightness in print
BEFORE, AFTER = "#E69F00", "#0072B2"


def draw(folder: Path, records: list[dict[str, Any]], evaluation: dict[str, Any]) -> list[Path]:
    """Draws both pictures into a run folder.

    Args:
      records: lines of `metrics.jsonl`.
      evaluation: as `runs.assess` returns it.

    Returns:
      The files.
    """
    title = f"{evaluation['algo']} on {evaluation['tasks']}"
    files = [folder / ADAPTATION]
    _save(adaptation(evaluation, title), files[0])
    if records:
        files.insert(0, folder / LEARNING)
        _save(learning(records, title), files[0])
    return files


def learning(records: list[dict[str, Any]], title: str):
    """Draws the returns before and after adaptation over the environment steps of meta-training.

    With several seeds a line is their mean and the band a 95 % t-interval over them. With a single seed it is a running
    mean, the band is its 95 % t-interval from the spread of the updates in the window, and the raw values are faint.
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
        # a run of one update is a point, not a line
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
    axes.set_xlabel("environment steps in meta-training" + (", per seed" if len(values) > 1 else ""))
    axes.set_ylabel("return of an episode (sum of rewards)")
    axes.xaxis.set_major_formatter(_engineering())
    axes.legend(frameon=False)
    _subtitle(axes, note)
    return figure


def adaptation(evaluation: dict[str, Any], title: str):
    """Draws the return on held-out tasks over rounds of adaptation, or over the episodes of a trial."""
    figure, axes = _axes(title)
    returns = evaluation["returns"]
    rounds, episodes = len(returns), len(returns[0])
    points = [episode for a_round in returns for episode in a_round]
    mean = _column(points, "mean")
    low, high = (np.array([_number(point["ci95"][side]) for point in points]) for side in (0, 1))
    # rounds count adaptations done, from 0; episodes count from 1
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
    axes.legend(frameon=False)
    _subtitle(axes, f"{evaluation['num_tasks']} held-out tasks{seeds}, after {evaluation['step']} updates")
    axes.set_xlabel(_adaptation_label(rounds, episodes))
    axes.set_ylabel("return of an episode (sum of rewards)")
    axes.set_xticks(position if len(position) <= 21 else position[:: len(position) // 10])
    axes.margins(x=0.08)
    return figure


def _adaptation_label(rounds: int, episodes: int) -> str:
    if episodes == 1:
        return "adaptations to the task (rounds)"
    return "episode of the trial" if rounds == 1 else "episode of the trial; dotted: the agent adapts"


def _axes(title: str):
    # not pyplot: it would look for a display and keep every figure
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set_title(title, fontweight="bold", loc="left", pad=22)
    axes.grid(color="0.9")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _subtitle(axes, text: str) -> None:
    where = {"xycoords": "axes fraction", "textcoords": "offset points"}
    note = axes.annotate(text, (0, 1), (0, 6), **where, color="0.35", fontsize=9)
    note.set_in_layout(False)  # a long one must not narrow the axes


def _save(figure, file: Path) -> None:
    figure.savefig(file, dpi=150, format="png")


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
    """JSON has no NaN: null stands for it."""
    return np.nan if value is None else float(value)


def _running_mean(values: np.ndarray, window: int) -> np.ndarray:
    """Averages over a centred window that shrinks at the ends."""
    return _running_sum(values, window) / _running_sum(np.ones(len(values)), window)


def _running_sum(values: np.ndarray, window: int) -> np.ndarray:
    return np.convolve(values, np.ones(min(window, len(values))), "same")


def _window_interval(values: np.ndarray, window: int) -> np.ndarray:
    """Returns the half-width of the 95 % t-interval of `_running_mean`, as if the updates were independent."""
    size = _running_sum(np.ones(len(values)), window)
    centred = values - np.nanmean(values)  # less is lost in the difference of squares
    squares = _running_sum(centred**2, window) - _running_sum(centred, window) ** 2 / size
    return _half_width(np.sqrt(np.maximum(squares, 0) / (size - 1)), size)


def _t_interval(values: np.ndarray) -> np.ndarray:
    """Returns the half-width of the 95 % t-interval of the mean over the first axis."""
    return _half_width(values.std(0, ddof=1), len(values))


def _half_width(deviation: np.ndarray, size: np.ndarray | int) -> np.ndarray:
    from scipy import stats

    return stats.t.ppf(0.975, size - 1) * deviation / np.sqrt(size)
