"""What makes a measurement checkable: device, versions, commit, time."""

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
"""What `origin` says."""


def provenance() -> dict[str, Any]:
    """Says on what, with what and when this process computes."""
    return origin() | {"time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}


def origin() -> dict[str, Any]:
    """Says on what, and with what, this process computes."""
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
    """Returns the commit, device or platform of what began at one and goes on at another: `abc, def`."""
    if before is None:
        return None  # not all of it is known
    return ", ".join(dict.fromkeys([*before.split(", "), now or "unknown"]))


@functools.cache  # what is edited while a process runs is not what it runs
def commit() -> str | None:
    """Returns the commit that the package stands at, with `-dirty` if its files are modified; None without git."""
    # a copy in site-packages may lie within a repository of somebody else: there it is not tracked
    if _git("ls-files", "--error-unmatch", "__init__.py") is None:
        return None
    head = _git("rev-parse", "--short", "HEAD")
    return head and head + ("-dirty" if _git("status", "--porcelain", "-uno", "--", ".") else "")


def _git(*arguments: str) -> str | None:
    """Returns what git says of the package's folder, or None if it fails."""
    command = ["git", "-C", str(Path(__file__).parents[1]), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None
