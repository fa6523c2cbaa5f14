"""What makes a measurement checkable: device, versions, commit, time."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from importlib import metadata
from pathlib import Path
from typing import Any


def provenance() -> dict[str, Any]:
    """Says on what, and with what, this process computes."""
    import jax

    devices = jax.devices()
    return {
        "device": f"{len(devices)} x {devices[0].device_kind}",
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "versions": {"python": platform.python_version()}
        | {name: metadata.version(name) for name in ("jax", "jaxlib", "brax", "jaxmeta")},
        "commit": commit(),
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def commit() -> str | None:
    """Returns the commit that the package stands at, with `-dirty` if its tree is modified; None outside of a clone."""
    # a copy in site-packages may lie within a repository of somebody else: there it is not tracked
    if _git("ls-files", "--error-unmatch", "__init__.py") is None:
        return None
    head = _git("rev-parse", "--short", "HEAD")
    return head and head + ("-dirty" if _git("status", "--porcelain", "-uno") else "")


def _git(*arguments: str) -> str | None:
    """Returns what git says of the package's folder, or None if it fails."""
    command = ["git", "-C", str(Path(__file__).parent), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None
