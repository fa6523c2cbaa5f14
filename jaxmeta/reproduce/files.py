"""Files of `jaxmeta reproduce`: a measurement in every run folder, and the table that collects them."""

from __future__ import annotations

import contextlib
import io
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jaxmeta.config import codec
from jaxmeta.experiment import provenance, runs
from jaxmeta.reproduce.base import Table

MEASUREMENT = "rows.json"
"""In the folder of a run: its numbers, and the settings that determine them."""
TABLE = "table.json"
"""In the folder of all runs, with the figure."""


def read_measurement(folder: Path, key: dict[str, Any]) -> dict[str, Any] | None:
    """Reads the numbers of a finished run; None if there are none, or they were measured with other settings.

    Args:
      key: the settings that determine the numbers, see `call.measurement_key`.
    """
    try:
        measurement = json.loads((folder / MEASUREMENT).read_text())
        return measurement if measurement["key"] == json.loads(codec.to_json(key)) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write_measurement(folder: Path, measurement: dict[str, Any]) -> None:
    """Writes the numbers of a run into its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    runs.write_atomically(folder / MEASUREMENT, codec.to_json(measurement, indent=2) + "\n")


def move_aside(folder: Path) -> Path | None:
    """Renames a folder to the first free FOLDER.old-N and returns the new path; None if the folder does not exist."""
    if not folder.exists():
        return None
    number = 1
    while (aside := folder.with_name(f"{folder.name}.old-{number}")).exists():
        number += 1
    return folder.rename(aside)


def read_table(file: Path) -> list[dict[str, Any]]:
    """Reads the rows of a table; [] if the file does not exist.

    Raises:
      RunError: if the file is not a table.
    """
    try:
        rows = json.loads(file.read_text())["rows"]
        names = [row["name"] for row in rows]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise codec.RunError(f"{file} cannot be read as a table: {error!r}; move it away") from error
    return rows if names else []


def publish(table: Table, file: Path, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Merges rows by name into the table in a file, then updates the requirements and the figure of the whole table.

    Returns:
      All rows of the file. Fields of the origin that older rows lack are None.
    """
    from jaxmeta.viz import tables

    with locked(file.parent):
        given = [*read_table(file), *rows]
        merged = {row["name"]: row | {name: row.get(name) for name in provenance.ORIGIN} for row in given}
        known = [name for name in table.row_names() if name in merged]
        # rows that the table no longer lists are kept
        ordered = table.judge([merged[name] for name in dict.fromkeys([*known, *merged])])
        drawn = io.BytesIO()
        (table.draw or tables.published)(ordered, table.title, table.source).savefig(drawn, dpi=150, format="png")
        runs.write_atomically(file, codec.to_json({"name": table.name, "rows": ordered}, indent=2) + "\n")
        runs.write_atomically(file.with_suffix(".png"), drawn.getvalue())
    return ordered


@contextlib.contextmanager
def locked(folder: Path, wait: bool = True) -> Iterator[None]:
    """Locks a folder, so that two processes do not overwrite each other's files.

    Args:
      wait: whether to wait until another process releases the lock.

    Raises:
      RunError: if another process holds the lock and `wait` is False.
    """
    import fcntl

    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            raise codec.RunError(f"{folder} is being run by another process") from None
        yield
    finally:
        os.close(handle)  # and so unlocks
