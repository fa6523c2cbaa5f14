"""The manifest of a checkpoint: size and SHA-256 of every file, so that damage is found before anything is read.

A manifest protects against accidents: a flipped bit on disk, a truncated copy, a missing file. It does not protect
against attackers, who can rewrite it too; but a checkpoint holds only arrays and JSON, never code.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path, PurePosixPath
from typing import Any

NAME = "manifest.json"
LARGEST = 16 * 2**20
"""Size limit of a manifest, in bytes."""


class Damaged(Exception):
    """A file does not match its manifest; the message begins with the file's name."""


def write(folder: Path, about: dict[str, Any]) -> None:
    """Writes the manifest of a folder whose other files are complete, and flushes all of them to disk (fsync).

    Args:
      about: any JSON value, stored in the manifest.
    """
    files = {}
    for file in _files(folder):
        with (folder / file).open("rb") as stream:
            files[file] = {"size": os.fstat(stream.fileno()).st_size, "sha256": _digest(stream)}
            os.fsync(stream.fileno())
    text = _render({"about": about, "files": files})
    with (folder / NAME).open("w") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())


def read(folder: Path) -> dict[str, Any]:
    """Reads a manifest without checking the files that it lists.

    Raises:
      Damaged: if it is missing, or any bit of it has changed.
    """
    file = folder / NAME
    try:
        if file.is_symlink() or not file.is_file():
            raise Damaged(f"{NAME} is missing")
        if file.stat().st_size > LARGEST:
            raise Damaged(f"{NAME} has {file.stat().st_size} bytes; the limit is {LARGEST}")
        text = file.read_text()
        contents = json.loads(text)["contents"]
        # compared as text, which is unique: any changed bit shows
        if text != _render(contents):
            raise Damaged(f"{NAME} has changed since it was written")
        return contents
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise Damaged(f"{NAME} cannot be read: {error}") from error


def check(folder: Path) -> dict[str, Any]:
    """Checks every file of a folder against its manifest, sizes first, and returns the `about` given to `write`.

    Raises:
      Damaged: at the first file that is missing, not listed, or differs in size or contents.
    """
    contents = read(folder)
    stored = {name: (entry["size"], entry["sha256"]) for name, entry in contents["files"].items()}
    for name in stored:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts:
            raise Damaged(f"{name!r} is outside the checkpoint")
    found = set(_files(folder))
    for name in sorted(found | set(stored)):
        if name not in found:
            raise Damaged(f"{name} is missing")
        if name not in stored:
            raise Damaged(f"{name} is not listed in the manifest")
        if (size := (folder / name).stat().st_size) != stored[name][0]:
            raise Damaged(f"{name} has {size} bytes; {stored[name][0]} were written")
    for name, (_, digest) in stored.items():
        with (folder / name).open("rb") as stream:
            if _digest(stream) != digest:
                raise Damaged(f"{name} has changed since it was written: its SHA-256 differs")
    return contents["about"]


def _files(folder: Path) -> list[str]:
    """Lists all files below a folder except the manifest; anything but a regular file or a folder is damage."""
    names = []
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink() or not (path.is_dir() or path.is_file()):
            raise Damaged(f"{name} is not a regular file")
        if path.is_file() and name != NAME:
            names.append(name)
    return names


def _digest(stream: Any) -> str:
    return hashlib.file_digest(stream, "sha256").hexdigest()


def _render(contents: dict[str, Any]) -> str:
    """Serialises a manifest together with its own SHA-256, deterministically."""
    inner = json.dumps(contents, sort_keys=True, allow_nan=False)
    digest = hashlib.sha256(inner.encode()).hexdigest()
    return json.dumps({"contents": contents, "sha256": digest}, sort_keys=True, allow_nan=False, indent=1) + "\n"
