"""What a checkpoint consists of: the size and SHA-256 of every file, so that damage is found before anything is read.

A manifest protects against accidents: a disk that flips a bit, a copy that was cut short, a file that is gone. Whoever
can write the folder can write its manifest too; what is read afterwards is numbers and JSON, never code.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path, PurePosixPath
from typing import Any

NAME = "manifest.json"
LARGEST = 16 * 2**20
"""Bytes of the largest manifest that is read."""


class Damaged(Exception):
    """A file is not what its manifest says; the message begins with the file's name."""


def write(folder: Path, about: dict[str, Any]) -> None:
    """Writes the manifest of a folder, when all its other files are complete, and all of them through to the disk.

    Args:
      about: anything that JSON can hold, to find there again.
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
    """Reads a manifest without looking at the files that it names.

    Raises:
      Damaged: if it is not there, or a single bit of it has changed.
    """
    file = folder / NAME
    try:
        if file.is_symlink() or not file.is_file():
            raise Damaged(f"{NAME} is not there")
        if file.stat().st_size > LARGEST:
            raise Damaged(f"{NAME} has {file.stat().st_size} bytes; no manifest needs that")
        text = file.read_text()
        contents = json.loads(text)["contents"]
        # compared as text: it is written in one way only, so that every bit counts
        if text != _render(contents):
            raise Damaged(f"{NAME} has changed since it was written")
        return contents
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise Damaged(f"{NAME} cannot be read: {error}") from error


def check(folder: Path) -> dict[str, Any]:
    """Checks every file of a folder against its manifest, sizes first, and returns what `write` was told `about`.

    Raises:
      Damaged: at the first file that is missing, new, of another size, or has other contents.
    """
    contents = read(folder)
    stored = {name: (entry["size"], entry["sha256"]) for name, entry in contents["files"].items()}
    for name in stored:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts:
            raise Damaged(f"{name!r} leads out of the checkpoint")
    found = set(_files(folder))
    for name in sorted(found | set(stored)):
        if name not in found:
            raise Damaged(f"{name} is not there")
        if name not in stored:
            raise Damaged(f"{name} does not belong there")
        if (size := (folder / name).stat().st_size) != stored[name][0]:
            raise Damaged(f"{name} has {size} bytes; {stored[name][0]} were written")
    for name, (_, digest) in stored.items():
        with (folder / name).open("rb") as stream:
            if _digest(stream) != digest:
                raise Damaged(f"{name} has another SHA-256 than when it was written")
    return contents["about"]


def _files(folder: Path) -> list[str]:
    """Lists all files below a folder but the manifest; what is neither a file nor a folder is damage."""
    names = []
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink() or not (path.is_dir() or path.is_file()):
            raise Damaged(f"{name} is no plain file")
        if path.is_file() and name != NAME:
            names.append(name)
    return names


def _digest(stream: Any) -> str:
    return hashlib.file_digest(stream, "sha256").hexdigest()


def _render(contents: dict[str, Any]) -> str:
    """Writes a manifest with its own SHA-256, always in the same way."""
    inner = json.dumps(contents, sort_keys=True, allow_nan=False)
    digest = hashlib.sha256(inner.encode()).hexdigest()
    return json.dumps({"contents": contents, "sha256": digest}, sort_keys=True, allow_nan=False, indent=1) + "\n"
