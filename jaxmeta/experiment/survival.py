"""Signals and checkpoints of a run: when it stops, when it saves, and what happens if saving fails."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from typing import Any, TextIO

import numpy as np

GRACE_SECONDS = 8.0
"""Seconds that a device call may take after a signal; a stop then takes at most ten seconds in total."""
MAX_FAILURES = 3
"""Failed checkpoints in a row that end a run."""
SCORE = "return/last"
"""The metric that determines the best checkpoint."""


class Stopped(Exception):
    """A signal has stopped training after a checkpoint was saved."""

    def __init__(self, update: int, number: int):
        super().__init__(f"stopped at update {update}")
        self.update, self.number = update, number


class SaveError(Exception):
    """A checkpoint could not be saved."""


class StopSignals:
    """A context manager that records Ctrl-C and SIGTERM until the device call ends; a second one exits immediately.

    Python runs signal handlers between bytecode instructions, so not while the main thread waits for a compilation or a
    long device call. A separate thread therefore listens for signals and ends the process if the call takes longer than
    `GRACE_SECONDS`; then the last checkpoint remains.
    """

    number: int = 0
    """The signal that was received; 0 if none."""

    def __init__(self):
        self._in_time = threading.Event()

    def __enter__(self) -> StopSignals:
        self._in_time.clear()
        # only the main thread may set handlers
        self._active = threading.current_thread() is threading.main_thread()
        if self._active:
            self._heard, told = os.pipe()
            self._told = told
            os.set_blocking(told, False)
            self._fd_before = signal.set_wakeup_fd(told, warn_on_full_buffer=False)
            handlers = (signal.SIGINT, signal.SIGTERM)
            self._before = {number: signal.signal(number, self._note) for number in handlers}
            self._listener = threading.Thread(target=self._listen, name="signals", daemon=True)
            self._listener.start()
        return self

    def __exit__(self, *exception) -> None:
        self._in_time.set()
        if self._active:
            for number, handler in self._before.items():
                signal.signal(number, handler)
            signal.set_wakeup_fd(self._fd_before)
            os.close(self._told)  # the listener reads the end of the pipe
            self._listener.join()
            os.close(self._heard)

    def reached(self) -> None:
        """Marks that the main thread handles the signal; from here on there is no time limit."""
        self._in_time.set()

    def _note(self, number: int, frame: Any) -> None:
        self.number = number

    def _listen(self) -> None:
        number = self._next_signal()
        if not number:
            return
        _tell(b"\njaxmeta: stopping after this device call (once more to quit at once)\n")
        threading.Thread(target=self._count_down, args=(number,), daemon=True).start()
        if number := self._next_signal():
            os._exit(128 + number)

    def _next_signal(self) -> int:
        """Waits for a signal that stops the run; returns 0 when the context ends."""
        while heard := os.read(self._heard, 1):
            if heard[0] in (signal.SIGINT, signal.SIGTERM):
                return heard[0]
        return 0

    def _count_down(self, number: int) -> None:
        if not self._in_time.wait(GRACE_SECONDS):
            _tell(b"jaxmeta: the device call takes too long; what was saved before it stays\n")
            os._exit(128 + number)


class Saver:
    """A callback that saves checkpoints asynchronously, and stops training after a signal.

    A process that is killed loses at most `every` updates: a save starts after every `every / 2` updates, and training
    waits for it before more than `every` would be lost. The last update is always saved. If device calls take so long
    that a signal could interrupt one, every call is saved. A failed save is reported and training continues; the third
    in a row ends training with a `SaveError`.

    Args:
      total: updates of the finished run.
      every: updates that may be lost, or those of one device call if it has more.
      about: metadata of every checkpoint.
    """

    def __init__(
        self,
        checkpointer: Any,
        signals: StopSignals,
        done: int,
        total: int,
        every: int,
        about: dict[str, Any] | None = None,
        stream: TextIO | None = None,
    ):
        self._checkpointer, self._signals, self._stream = checkpointer, signals, stream or sys.stderr
        self._done, self._total, self._every, self._about = done, total, every, about
        self._failures, self._begun, self._saved = 0, done, done
        self._scores: list[float] = []
        self._clock: float | None = None

    def __call__(self, update: int, state: Any, metrics: dict[str, np.ndarray]) -> None:
        from jaxmeta import devices
        from jaxmeta.core import guard

        if guard.has_given_up(metrics.get("skipped", (0,))[-1]):
            return  # training ends after this call: the state is dumped, and `--resume` starts before it
        self._scores += [float(score) for score in np.asarray(metrics.get(SCORE, ())).reshape(-1)]
        # all processes stop, and save, at the same update
        urgent = devices.largest_of_processes(2 * self._signals.number + self._is_slow())
        stop, last = urgent // 2, update >= self._total
        if stop or last:
            self._signals.reached()
        half = max(1, self._every // 2)
        due, length = update // half > self._done // half, update - self._done
        self._done = update
        if due or urgent or last:
            self._save(update, state, final=bool(stop or last))
        if not self._checkpointer.saving or update + length > self._saved + self._every:
            self._settle(final=False)
        if stop:
            raise Stopped(update, stop)

    def _is_slow(self) -> bool:
        """Returns whether device calls take more than half of `GRACE_SECONDS`, except for the first, which compiles."""
        before, self._clock = self._clock, time.monotonic()
        return before is not None and self._clock - before > GRACE_SECONDS / 2

    def _save(self, update: int, state: Any, final: bool) -> None:
        self._settle(final=False)
        score = float(np.mean(self._scores)) if self._scores else None
        self._scores, self._begun = [], update
        score = score if score is not None and np.isfinite(score) else None
        try:
            self._checkpointer.save(update, state, score=score, about=self._about, wait=False)
        except Exception as error:  # a full disk raises an OSError or a ValueError
            self._failed(error, final)
        else:
            if final:
                self._settle(final)

    def _settle(self, final: bool) -> None:
        """Waits for the save in progress and records whether it succeeded."""
        try:
            if self._checkpointer.wait():
                self._failures, self._saved = 0, self._begun
        except Exception as error:
            self._failed(error, final)

    def _failed(self, error: Exception, final: bool) -> None:
        self._failures += 1
        what = f"the checkpoint of update {self._begun} cannot be saved: {error}"
        if final or self._failures >= MAX_FAILURES:
            times = f", the {MAX_FAILURES}rd in a row" if self._failures >= MAX_FAILURES else ""
            raise SaveError(what + times) from error
        stays = f"update {latest}" if (latest := self._checkpointer.latest()) is not None else "none so far"
        message = " ".join(what.split())
        say(f"jaxmeta: {message}; training goes on, the last checkpoint is {stays}", self._stream)


def say(message: str, stream: TextIO | None = None) -> None:
    """Prints a line on standard error; ignores a closed pipe and a full disk."""
    with contextlib.suppress(OSError, ValueError):
        print(message, file=stream or sys.stderr, flush=True)


def _tell(message: bytes) -> None:
    """Writes to standard error where `print` is not safe, such as in a signal handler."""
    with contextlib.suppress(OSError):
        os.write(2, message)
