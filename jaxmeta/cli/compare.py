"""`jaxmeta compare`: several runs side by side."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import tyro

from jaxmeta.cli import checks, parsing
from jaxmeta.config import codec
from jaxmeta.experiment import histories

PICTURE = Path("comparison.png")


@dataclasses.dataclass(frozen=True)
class Options:
    """Draws how several runs learned, over environment steps and over time, and prints what they reached.

    Give the folders first: `jaxmeta compare runs/maml runs/rl2`. Runs whose configurations differ in the seed alone are
    one line with an interval, and so is a run with several seeds.
    """

    metric: str = histories.METRIC
    """What to compare, as the log names it."""
    out: Annotated[Path, tyro.conf.arg(metavar="FILE")] = PICTURE
    """Picture to write; only an earlier drawing is overwritten."""
    json: parsing.Switch = False
    """Print one JSON object instead of a table."""


def run(argv: list[str]) -> int:
    """Compares runs by their logs and evaluations; nothing is computed again."""
    count = next((index for index, token in enumerate(argv) if parsing.is_flag(token)), len(argv))
    options = parsing.parse(Options, argv[count:], "jaxmeta compare")
    folders = [Path(token) for token in argv[:count]]
    if not folders:
        raise parsing.UsageError("compare needs the folders of runs first, such as `jaxmeta compare runs/a runs/b`")
    checks.picture("--out", options.out)
    curves = histories.read(folders, options.metric)
    from jaxmeta.viz import canvas, comparison

    canvas.save(comparison.learning(curves, options.metric), options.out)
    reached = [curve.summary() for curve in curves]
    if options.json:
        print(codec.to_json({"metric": options.metric, "picture": str(options.out), "agents": reached}))
    else:
        _print(reached, options.metric)
        print(f"picture: {options.out}")
    return 0


def _print(reached: list[dict[str, Any]], metric: str) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table()
    # not cut off in a narrow terminal: names of runs often differ at their end
    table.add_column("agent", no_wrap=True)
    for name in ("seeds", "steps", "seconds", f"{metric} at the end", "held-out return"):
        table.add_column(name, justify="right", overflow="fold")
    for one in reached:
        points = (_point(one[name]) for name in ("training", "held_out"))
        table.add_row(one["name"], str(one["seeds"]), f"{one['env_steps']:,.0f}", f"{one['seconds']:,.0f}", *points)
    Console().print(table)


def _point(point: dict[str, Any] | None) -> str:
    """Formats a mean and its 95 % interval."""
    if point is None:
        return "-"
    ends = "" if point["ci95"] is None else f" ({point['ci95'][0]:.4g} to {point['ci95'][1]:.4g})"
    return f"{point['mean']:.4g}{ends}"
