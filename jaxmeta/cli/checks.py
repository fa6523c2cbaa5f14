"""What several commands refuse before anything is compiled or written; every UsageError is one line."""

from __future__ import annotations

import os
from pathlib import Path

from jaxmeta.cli.parsing import UsageError
from jaxmeta.experiment import locks
from jaxmeta.viz import PICTURE


def at_least(flag: str, value: int, least: int, why: str = "") -> None:
    """Raises a UsageError if a value is too small."""
    if value < least:
        raise UsageError(f"{flag} is {value}; it must be at least {least}{why}")


def seed(value: int) -> None:
    """Raises a UsageError if a seed does not fit what JAX takes."""
    if not 0 <= value < 2**32:
        raise UsageError(f"--seed is {value}; it must lie between 0 and {2**32 - 1}")


def empty(folder: Path) -> None:
    """Raises a UsageError if there is something in a folder that a new run is to be written to."""
    if folder.is_dir() and any(entry.name != locks.LOCK for entry in folder.iterdir()):
        raise UsageError(f"--out {folder} is not empty; add --resume to continue its run, or choose another folder")


def writable(flag: str, folder: Path) -> None:
    """Raises a UsageError if a folder can be neither written nor made."""
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{flag} {folder} is a file; it must be a folder")
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        raise UsageError(f"{flag} {folder} cannot be written: {existing} is not a folder that you can write to")


def picture(flag: str, file: Path) -> None:
    """Raises a UsageError if a picture cannot be written to a file, or something else stands there."""
    writable(flag, file.parent)
    if not file.parent.is_dir():
        raise UsageError(f"{flag} {file} cannot be written: the folder {file.parent} does not exist")
    if file.exists() and not (file.is_file() and PICTURE.encode() in file.read_bytes()[:1000]):
        raise UsageError(f"{file} exists and was not drawn by jaxmeta; choose another {flag}")


def run_folder(folder: Path | None, command: str) -> Path:
    """Returns the run folder, or raises a UsageError if none was given."""
    if folder is None:
        raise UsageError(f"{command} needs the folder of a run, such as `jaxmeta {command} runs/first`")
    return folder


def working_directory() -> None:
    """Raises a UsageError where the working directory has been deleted: relative paths mean nothing then."""
    try:
        os.getcwd()
    except FileNotFoundError:
        raise UsageError("the working directory has been deleted; change to one that exists (try `cd`)") from None
