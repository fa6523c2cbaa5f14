"""Prints the record of `python -m benchmarks.peers` as the table of docs/speed.md.

python -m benchmarks.peers.table benchmarks/results/peers.json
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HEAD = "| work | units per second | peer | times its speed (quartiles) | asked |\n|---|---|---|---|---|"


def table(record: dict[str, Any]) -> str:
    """Returns a table in Markdown with a line per peer; the work is named in the first line of its row."""
    return "\n".join([HEAD, *(line for row in record.values() for line in _lines(row))])


def _lines(row: dict[str, Any]) -> Iterator[str]:
    speed = row["speeds"]["jaxmeta"]["per_s"]["median"]
    work, per_second = row["work"], f"{speed:,.0f} {row['unit']}"
    for peer, ratio in row["ratios"].items():
        asked = "" if ratio["asked"] is None else f"{ratio['asked']:g}"
        times = f"{ratio['median']:.2f} ({ratio['lower_quartile']:.2f} to {ratio['upper_quartile']:.2f})"
        yield f"| {work} | {per_second} | {peer} | {times} | {asked} |"
        work = per_second = ""
    for peer in row["skipped"]:
        yield f"| {work} | {per_second} | {peer} | not measured | |"
        work = per_second = ""


if __name__ == "__main__":
    print(table(json.loads(Path(sys.argv[1]).read_text())))
