"""Output of measurements: a file, JSON or text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def publish(record: dict[str, Any], out: Path | None, as_json: bool) -> bool:
    """Writes a record to a file if one is given, prints it as JSON if `as_json`, and returns whether it was printed."""
    text = json.dumps(record, indent=2)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(text + "\n")
    if as_json:
        print(text)
    return as_json
