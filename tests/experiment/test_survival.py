"""When states are saved, what happens if that fails, and how a run ends when it is told to."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmeta.core import manifest
from jaxmeta.core.checkpoint import Checkpointer
from jaxmeta.experiment import logging, survival
from jaxmeta.types import TrainState

STATE = TrainState(params=jnp.ones(2), opt_state=(), key=jax.random.key(0), step=jnp.zeros((), jnp.int32))


class Disk:
    """Makes the writing of manifests fail at will, as a full disk does."""

    full, seconds = False, 0.0

    def __init__(self, monkeypatch):
        self._write = manifest.write
        monkeypatch.setattr(manifest, "write", self)

    def __call__(self, folder, about):
        if self.full:
            raise OSError(28, "No space left on device")
        time.sleep(self.seconds)
        self._write(folder, about)


@pytest.fixture
def disk(monkeypatch):
    return Disk(monkeypatch)


def make_saver(tmp_path, total=100, every=20):
    signals, said = survival.StopSignals(), io.StringIO()
    checkpointer = Checkpointer(tmp_path / "checkpoints")
    return survival.Saver(checkpointer, signals, 0, total, every, stream=said), signals, said, checkpointer


def finish(checkpointer):
    """Lets a save that is under way end, without hearing what became of it."""
    if checkpointer._thread is not None:
        checkpointer._thread.join()


def run_to(saver, first, last, score=0.0):
    for update in range(first, last + 1):
        saver(update, STATE, {"return/last": np.array([score])})


def test_a_full_disk_is_reported_and_training_continues(tmp_path, disk):
    saver, _, said, checkpointer = make_saver(tmp_path)
    run_to(saver, 1, 10)
    finish(checkpointer)
    disk.full = True
    run_to(saver, 11, 30)
    finish(checkpointer)
    disk.full = False
    run_to(saver, 31, 50)
    told = said.getvalue().splitlines()
    assert [line.split(":")[1] for line in told] == [
        " the checkpoint of update 20 cannot be saved",
        " the checkpoint of update 30 cannot be saved",
    ]
    assert "No space left on device; training goes on, the last checkpoint is update 10" in told[0]
    checkpointer.wait()
    assert checkpointer.updates() == [40, 50]


def test_a_killed_process_loses_at_most_the_promised_updates(tmp_path, disk):
    saver, *_, checkpointer = make_saver(tmp_path, every=4)
    disk.seconds = 0.05
    lost = []
    for update in range(1, 25):
        time.sleep(0.001)
        lost.append(update - (checkpointer.latest() or 0))  # to be killed now, with this update done
        saver(update, STATE, {})
    assert max(lost) <= 4
    checkpointer.wait()
    assert checkpointer.updates() == [22, 24]


def test_the_third_failure_in_a_row_ends_the_run(tmp_path, disk):
    saver, *_, checkpointer = make_saver(tmp_path)
    run_to(saver, 1, 10)
    finish(checkpointer)
    disk.full = True
    with pytest.raises(survival.SaveError, match="of update 40 cannot be saved.*No space left.*3rd in a row"):
        run_to(saver, 11, 60)
    assert checkpointer.updates() == [10]


def test_an_unwritable_folder_is_reported(tmp_path):
    (tmp_path / "checkpoints").write_text("in the way")
    saver, _, said, _ = make_saver(tmp_path)
    run_to(saver, 1, 20)
    assert said.getvalue().count("cannot be saved") == 2 and "the last checkpoint is none so far" in said.getvalue()


def test_a_last_checkpoint_that_fails_is_an_error_at_once(tmp_path, disk):
    saver, *_ = make_saver(tmp_path, total=10)
    disk.full = True
    with pytest.raises(survival.SaveError, match="of update 10 cannot be saved"):
        run_to(saver, 1, 10)


def test_the_best_is_that_of_the_highest_mean_since_the_last_save(tmp_path):
    saver, *_, checkpointer = make_saver(tmp_path)
    run_to(saver, 1, 10, score=1.0)
    run_to(saver, 11, 20, score=5.0)
    run_to(saver, 21, 29, score=2.0)
    run_to(saver, 30, 30, score=20.0)  # a lucky one does not make a good policy
    run_to(saver, 31, 50, score=3.0)
    checkpointer.wait()
    assert checkpointer.best() == 20
    assert checkpointer.updates() == [20, 40, 50]


def test_a_signal_saves_and_stops_at_the_end_of_the_device_call(tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    saver, signals, _, checkpointer = make_saver(tmp_path)
    with signals:
        run_to(saver, 1, 3)
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(survival.Stopped) as stopped:
            run_to(saver, 4, 10)
    assert (stopped.value.update, stopped.value.number) == (4, signal.SIGTERM)
    assert checkpointer.updates() == [4]
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_signal_in_the_last_device_call_stops_too(tmp_path):
    saver, signals, _, checkpointer = make_saver(tmp_path, total=4)
    with signals:
        run_to(saver, 1, 3)
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(survival.Stopped):
            run_to(saver, 4, 4)
    assert checkpointer.updates() == [4]


@pytest.mark.parametrize("skipped", [[4.0], [5.0], [[0.0, 5.0]]])
def test_a_nonfinite_state_is_not_saved_as_a_checkpoint(tmp_path, skipped):
    saver, *_, checkpointer = make_saver(tmp_path)
    saver(10, STATE, {"skipped": np.array(skipped)})
    finish(checkpointer)
    assert checkpointer.updates() == ([10] if skipped == [4.0] else [])


def test_failing_to_print_does_not_end_a_run(tmp_path, disk):
    class Full(io.StringIO):
        def write(self, text):
            raise OSError(28, "No space left on device")

    checkpointer = Checkpointer(tmp_path / "checkpoints")
    saver = survival.Saver(checkpointer, survival.StopSignals(), 0, 100, 20, stream=Full())
    disk.full = True
    run_to(saver, 1, 10)
    finish(checkpointer)
    disk.full = False
    run_to(saver, 11, 20)
    finish(checkpointer)
    assert checkpointer.updates() == [20]
    logging.Guarded(lambda *_: 1 / 0, stream=Full())(1, STATE, {})


def test_slow_device_calls_are_each_saved(tmp_path, monkeypatch):
    saver, *_, checkpointer = make_saver(tmp_path)
    clock = iter([0.0, 60.0, 120.0, 121.0, 122.0])  # the first one also compiles
    monkeypatch.setattr(survival, "time", types.SimpleNamespace(monotonic=lambda: next(clock)))
    run_to(saver, 1, 5)
    checkpointer.wait()
    assert checkpointer.updates() == [2, 3]


LONG_CALL = """
import os, signal, jax
from jaxmeta.experiment import survival
survival.GRACE_SECONDS = 0.5
spin = jax.jit(lambda x: jax.lax.while_loop(lambda x: x < 2.0, lambda x: (x * 3.0) % 1.0, x))
with survival.StopSignals():
    print("begun", flush=True)
    jax.block_until_ready(spin(0.5))
"""


@pytest.mark.parametrize("signals", [1, 2])
def test_a_device_call_that_does_not_end_is_abandoned(signals):
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", LONG_CALL], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "begun\n"
    for _ in range(signals):
        process.send_signal(signal.SIGTERM)
        if signals > 1:
            assert process.stderr is not None
            process.stderr.readline(), process.stderr.readline()
    _, said = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert ("takes too long" in said) == (signals == 1)
