"""Prints our numbers next to the published ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jaxmeta.reproduce import base


def print_table(table: base.Table, rows: list[dict[str, Any]], written: list[Path]) -> None:
    """Prints rows as `run.perform` returns them, their device, commit and versions, and the written files."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    if not console.is_terminal:
        console = Console(width=200)  # nothing wraps in a file
    grid = Table("row")
    for column in ("ours ± stderr", "published", "optimum", "required", "met", "trials", "seeds", "wall time"):
        grid.add_column(column, justify="right", no_wrap=True)
    group = None
    for row in rows:
        if group not in (None, row["name"].split("/")[0]):
            grid.add_section()
        group = row["name"].split("/")[0]
        grid.add_row(*_cells(row))
    # not the table's title: that would be wrapped to the table's width
    print(table.title)
    console.print(grid)
    print(table.source)
    for name in ("device", "commit"):
        print(f"{name}: {', '.join(dict.fromkeys(str(row[name] or 'unknown') for row in rows))}")
    versions = (", ".join(f"{name} {one}" for name, one in (row["versions"] or {}).items()) for row in rows)
    print(f"versions: {'; '.join(dict.fromkeys(one or 'unknown' for one in versions))}")
    for file in written:
        print(f"written: {file}")


def _cells(row: dict[str, Any]) -> list[str]:
    ours = number(row["ours"]) + (f" ± {row['stderr']:.2g}" if row["stderr"] is not None else "")
    met = {None: "", True: "yes", False: "no"}[row["met"]]
    published, optimum = (number(row[name], "") for name in ("published", "optimum"))
    counts = [f"{row['num_trials']:,}", str(row["seeds"]), _clock(row["wall_s"])]
    return [row["name"], ours, published, optimum, _required(row["required"]), met, *counts]


def _required(required: dict[str, Any] | None) -> str:
    """Formats a requirement, such as `6.55 to 6.72`."""
    if required is None:
        return ""
    ((what, (low, high)),) = required.items()
    name = {"mean": "", "ci95": "interval "}[what]
    if high is None:
        return f"{name}≥ {low:.4g}"
    return f"{name}≤ {high:.4g}" if low is None else f"{name}{low:.4g} to {high:.4g}"


def number(value: float | None, missing: str = "nan") -> str:
    """Formats a number to four digits."""
    return missing if value is None else f"{value:.4g}"


def _clock(seconds: float | None) -> str:
    """Formats seconds as 25.6 s or 1:02:03."""
    if seconds is None:
        return ""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"
