"""How a run survives: what tells it to stop, when its state is saved, and what happens if that fails."""

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
"""How long a device call may go on after a signal; with the time to end, a stop takes at most ten seconds."""
MAX_FAILURES = 3
"""Checkpoints in a row that cannot be saved before a run gives up."""
SCORE = "return/last"
"""The metric by which a checkpoint is the best."""


class Stopped(Exception):
    """Training was told to stop and has saved a checkpoint."""

    def __init__(self, update: int, number: int):
        super().__init__(f"stopped at update {update}")
        self.update, self.number = update, number


class SaveError(Exception):
    """A checkpoint could not be saved."""


class StopSignals:
    """While it is entered, Ctrl-C and SIGTERM are noted for the end of the device call; a second one ends at once.

    Python runs a signal's handler between two of its own instructions, so not while the main thread waits for a
    compilation or a long device call. A thread of its own therefore listens, and ends the process where the call takes
    longer than `GRACE_SECONDS`: the last checkpoint is what remains then.
    """

    number: int = 0
    """The signal that came, 0 if none did."""

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
        """Says that the main thread sees the signal: from here on it takes the time that it needs."""
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
        """Waits for a signal that stops; returns 0 when there will be none."""
        while heard := os.read(self._heard, 1):
            if heard[0] in (signal.SIGINT, signal.SIGTERM):
                return heard[0]
        return 0

    def _count_down(self, number: int) -> None:
        if not self._in_time.wait(GRACE_SECONDS):
            _tell(b"jaxmeta: the device call takes too long; what was saved before it stays\n")
            os._exit(128 + number)


class Saver:
    """Saves checkpoints beside training and ends it if a signal asked for that.

    It saves so often that a process that is killed at any moment loses at most so many updates, and at the end; after
    every device call if those take so long that a signal might not wait for the end of one. As a save goes on beside
    training, it is begun when half of them are done, and waited for before more than all would be lost. A save that
    fails is told, and training goes on; the third in a row ends it.

    Args:
      total: updates that the run is to have.
      every: updates that may be lost; those of a device call, where that does more.
      about: noted with every checkpoint.
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
            return  # training ends with this call: its state is dumped, and `--resume` begins before it
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
        """Whether a device call takes so long that a signal might not wait for it; the first one also compiles."""
        before, self._clock = self._clock, time.monotonic()
        return before is not None and self._clock - before > GRACE_SECONDS / 2

    def _save(self, update: int, state: Any, final: bool) -> None:
        self._settle(final=False)
        score = float(np.mean(self._scores)) if self._scores else None
        self._scores, self._begun = [], update
        score = score if score is not None and np.isfinite(score) else None
        try:
            self._checkpointer.save(update, state, score=score, about=self._about, wait=False)
        except Exception as error:  # a full disk is an OSError here, a ValueError there
            self._failed(error, final)
        else:
            if final:
                self._settle(final)

    def _settle(self, final: bool) -> None:
        """Learns what became of the save that was under way."""
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
    """Prints a line on the standard error; that its reader has left, or its disk is full, is no reason to stop."""
    with contextlib.suppress(OSError, ValueError):
        print(message, file=stream or sys.stderr, flush=True)


def _tell(message: bytes) -> None:
    """Writes to the standard error from where print is not safe."""
    with contextlib.suppress(OSError):
        os.write(2, message)
