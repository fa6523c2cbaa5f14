"""Provenance of a measurement: device, versions, commit, time."""

from __future__ import annotations

import functools
import os
import platform
import subprocess
import time
from importlib import metadata
from pathlib import Path
from typing import Any

ORIGIN = ("device", "platform", "processor", "cores", "versions", "commit")
"""Keys of `origin`."""


def provenance() -> dict[str, Any]:
    """Returns `origin` and the current time of this process, for records of measurements."""
    return origin() | {"time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}


def origin() -> dict[str, Any]:
    """Returns devices, processor, versions and commit of this process; see `ORIGIN`."""
    import jax

    from jaxmeta import __version__

    devices = jax.devices()
    return {
        "device": f"{len(devices)} x {devices[0].device_kind}",
        "platform": jax.default_backend(),
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "versions": {"python": platform.python_version(), "jaxmeta": __version__}
        | {name: metadata.version(name) for name in ("jax", "jaxlib", "brax")},
        "commit": commit(),
    }


def continued(before: str | None, now: str | None) -> str | None:
    """Combines the commit, device or platform of the earlier and the later part of a run, such as `abc, def`.

    It returns None if the earlier one is unknown.
    """
    if before is None:
        return None
    return ", ".join(dict.fromkeys([*before.split(", "), now or "unknown"]))


@functools.cache  # later edits do not affect this process
def commit() -> str | None:
    """Returns the package's commit, with `-dirty` if its files are modified; None outside a git repository."""
    # a copy in site-packages may lie inside another repository, which does not track it
    if _git("ls-files", "--error-unmatch", "__init__.py") is None:
        return None
    head = _git("rev-parse", "--short", "HEAD")
    return head and head + ("-dirty" if _git("status", "--porcelain", "-uno", "--", ".") else "")


def _git(*arguments: str) -> str | None:
    """Returns the output of git in the package's folder; None if it fails."""
    command = ["git", "-C", str(Path(__file__).parents[1]), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None
