"""Locks, so that only one process writes to a run folder."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from jaxmeta.config.codec import RunError
from jaxmeta.experiment import survival

LOCK = ".lock"
"""The file that is locked. It is never deleted, as a lock on a deleted file would not exclude others."""


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Locks a run folder; the operating system releases the lock when this process ends.

    Raises:
      RunError: if another process, or another call in this one, is writing to it.
    """
    file = folder / LOCK
    handle = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(handle, 200, 0).decode(errors="replace").strip()
            who = f" ({holder})" if holder else ""
            raise RunError(
                f"{folder} is being written by another process{who}; wait until it ends, or choose another folder"
            ) from None
        except OSError as error:  # some network file systems have no locks
            survival.say(f"jaxmeta: {folder} cannot be locked ({error.strerror}); do not write to it twice at once")
        with contextlib.suppress(OSError):  # only for the error message of other processes
            os.ftruncate(handle, 0)
            os.pwrite(handle, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)
        yield
    finally:
        os.close(handle)
