"""The line protocol between the benchmark and its workers, both sides of it.

A worker is a process that prepares one program and keeps it. It announces itself with one line of JSON on its standard
output, and answers every turn that it is given on its standard input with another. It exits at the end of its input.

    worker:    {"ready": {"torch": "2.13.0"}, "start_s": 4.2}
    benchmark: go 2.0
    worker:    {"seconds": 2.03, "units": 24000}

A turn of s seconds ends with the first piece of work that is finished after s seconds. What a peer prints itself goes
to the standard error, of which the last line is reported if the worker fails. Workers run with the interpreters of the
peers, so this file imports the standard library only.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from typing import Any, NamedTuple


class Turn(NamedTuple):
    """What a worker did in a turn."""

    seconds: float
    units: float

    @property
    def speed(self) -> float:
        """Units of work per second."""
        return self.units / self.seconds


class Session:
    """The worker's side. Make it before anything prints, for it redirects the standard output."""

    def __init__(self, *packages: str):
        """Takes the packages whose versions are announced."""
        self._packages, self._made = packages, time.perf_counter()
        self._out = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)
        self._wanted = self._begun = self._units = 0.0
        self._announced = False

    def begin(self) -> None:
        """Announces that everything is prepared and compiled, and waits for the first turn."""
        versions = {"python": sys.version.split()[0]} | {name: metadata.version(name) for name in self._packages}
        self._announced = True
        self._say({"ready": versions, "start_s": time.perf_counter() - self._made})
        self._wait()

    def did(self, units: float) -> None:
        """Counts a finished piece of work; at the end of the turn it waits for the next one.

        The first piece, unless `begin` was called, compiles and is not counted: it announces that all is prepared.
        """
        if not self._announced:
            return self.begin()
        self._units += units
        spent = time.perf_counter() - self._begun
        if spent >= self._wanted:
            self._say({"seconds": spent, "units": self._units})
            self._wait()

    def serve(self, work: Callable[[], float]) -> None:
        """Takes turns with a function that does a piece of work and returns its units; the first call compiles."""
        while True:
            self.did(work())

    def _say(self, answer: dict[str, Any]) -> None:
        print(json.dumps(answer), file=self._out, flush=True)

    def _wait(self) -> None:
        line = sys.stdin.readline()
        if not line:
            sys.exit()
        self._wanted, self._units = float(line.removeprefix("go ")), 0.0
        self._begun = time.perf_counter()


def arguments() -> dict[str, Any]:
    """Returns the sizes and options of a worker, from its command line."""
    return json.loads(sys.argv[1])


class WorkerError(RuntimeError):
    """A worker has ended or does not answer; the message is one line."""


class Worker:
    """The benchmark's side: starts a worker, gives it turns, and ends it with all processes that it started."""

    def __init__(self, command: Sequence[str], environ: Mapping[str, str] | None = None, patience: float = 600.0):
        """Starts the worker and waits until it is ready.

        Args:
          patience: seconds after which a worker that does not answer is ended.

        Raises:
          WorkerError: if it ends or does not answer.
        """
        self._patience = patience
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env=dict(environ) if environ is not None else None,
            start_new_session=True,
        )
        answer = self._answer()
        self.versions, self.start_s = answer["ready"], answer["start_s"]

    def go(self, seconds: float) -> Turn:
        """Gives the worker a turn; raises a WorkerError as on starting it."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # `_answer` says why it has ended
            print(f"go {seconds}", file=self._process.stdin, flush=True)
        return Turn(**self._answer())

    def close(self) -> None:
        """Ends the worker."""
        if self._process.poll() is None and self._process.stdin is not None:
            self._process.stdin.close()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(5)
        self._kill()
        self._process.wait()
        self._errors.close()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        timer = threading.Timer(self._patience, self._kill)
        timer.start()
        line = self._process.stdout.readline()
        timer.cancel()
        if line:
            return json.loads(line)
        self._process.wait()
        self._errors.seek(0)
        lines = [line.strip() for line in self._errors if line.strip()]
        last = lines[-1] if lines else "without a message"
        silent = f"no answer in {self._patience:.0f} s; " if self._process.returncode == -signal.SIGKILL else ""
        self.close()
        raise WorkerError(f"{silent}{last}"[:300])

    def _kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
