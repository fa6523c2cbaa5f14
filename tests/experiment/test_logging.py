"""Loggers: what they write, and that none of them holds up training."""

from __future__ import annotations

import io
import struct
import subprocess
import threading

import numpy as np
import pytest
from tensorboardX.proto.event_pb2 import Event, SessionLog

from jaxmeta import cli
from jaxmeta.experiment import logging, runs, survival

TRAIN = ["train", "ppo", "bandit", "--tasks.num-pulls", "1", "--algo.num-tasks", "2", "--algo.hidden", "4"]
TRAIN += ["--algo.ppo.epochs", "1", "--algo.ppo.minibatches", "1", "--eval-tasks", "0"]


def events(folder):
    """Reads what TensorBoard reads: a length, its checksum, an event, its checksum, and so on."""
    found = []
    for file in sorted((folder / runs.TENSORBOARD).glob("events*")):
        data = file.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            found.append(Event.FromString(data[12 : 12 + length]))
            data = data[16 + length :]
    return found


def scalars(folder):
    return [(event.step, value.tag, value.simple_value) for event in events(folder) for value in event.summary.value]


def test_tensorboard_has_every_metric_of_every_update_at_once(tmp_path):
    log = logging.TensorBoard(tmp_path)
    log(2, None, {"a/b": np.array([1.0, 2.0]), "c": np.array([[1.0, 3.0], [4.0, 6.0]])})
    assert scalars(tmp_path) == [(1, "a/b", 1.0), (1, "c", 2.0), (2, "a/b", 2.0), (2, "c", 5.0)]
    log(3, None, {"a/b": np.array([7.0])})
    assert scalars(tmp_path)[4:] == [(3, "a/b", 7.0)]
    log.close()


def test_tensorboard_hides_what_comes_after_the_checkpoint_that_a_run_is_resumed_from(tmp_path):
    log = logging.TensorBoard(tmp_path, done=5)
    log(6, None, {"a": np.array([1.0])})
    log.close()
    assert [event.step for event in events(tmp_path) if event.session_log.status == SessionLog.START] == [6]


def test_tensorboard_ends_with_its_first_failure(tmp_path, monkeypatch):
    """After half a record nothing in the file can be read."""
    log, said = logging.TensorBoard(tmp_path), io.StringIO()
    guarded = logging.Guarded(log, said)
    guarded(1, None, {"a": np.array([1.0])})

    def full(event):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(log._writer, "write_event", full)
        guarded(2, None, {"a": np.array([2.0])})
    guarded(3, None, {"a": np.array([3.0])})
    assert scalars(tmp_path) == [(1, "a", 1.0)]
    assert said.getvalue().splitlines() == [
        "jaxmeta: TensorBoard failed, training goes on without it: [Errno 28] No space left on device"
    ]


class Recorder:
    """A logger that may be held up."""

    def __init__(self):
        self.go_on, self.seen, self.closed = threading.Event(), [], threading.Event()

    def __call__(self, update, state, metrics):
        self.go_on.wait()
        self.seen.append((update, state, metrics))

    def close(self):
        self.closed.set()


def test_a_logger_in_the_background_gets_all_in_order_and_is_closed():
    log = Recorder()
    log.go_on.set()
    background = logging.Background(log)
    for update in (1, 2, 3):
        background(update, "state", {"a": update})
    background.close()
    assert log.seen == [(update, None, {"a": update}) for update in (1, 2, 3)] and log.closed.is_set()


def test_a_hanging_logger_does_not_block_training(monkeypatch):
    monkeypatch.setattr(logging, "MAX_PENDING", 2)
    monkeypatch.setattr(logging, "CLOSE_SECONDS", 0.01)
    log, said = Recorder(), io.StringIO()
    behind, slow = (logging.Background(log, said) for _ in range(2))
    for update in range(1, 10):
        behind(update, None, {})
    behind.close()
    slow(1, None, {})
    slow.close()
    assert said.getvalue().splitlines() == [
        "jaxmeta: Recorder is 2 calls behind; training goes on without it",
        "jaxmeta: Recorder did not finish within 0.01 seconds; what it had not written is lost",
    ]
    log.go_on.set()


def test_failure_of_a_background_logger_is_reported_once():
    said = io.StringIO()
    log = logging.Background(Failing(), said)
    for update in (1, 2):
        log(update, None, {})
    log.close()
    assert said.getvalue() == "jaxmeta: Failing failed, training goes on without it: of two lines\n"


class Failing:
    def __call__(self, update, state, metrics):
        raise RuntimeError("of two\nlines")

    def close(self):
        pass


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 300 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    try:
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", folder], capture_output=True, text=True
        )
    except OSError as error:
        pytest.skip(f"no file system can be mounted: {error}")
    if done.returncode:
        pytest.skip(f"no file system can be mounted: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def test_tensorboard_raises_and_does_not_block_where_the_disk_is_really_full(small_disk):
    """The writers of tensorboardX would block for ever once their queue is full."""
    log = logging.TensorBoard(small_disk)
    many = {"a": np.zeros(2000)}  # more than there is room for
    with pytest.raises(OSError, match="No space left on device"):
        for update in (2000, 4000, 6000, 8000):
            log(update, None, many)
    for update in range(8001, 8100):
        log(update, None, {"a": np.zeros(1)})
    log.close()


def test_a_run_on_a_disk_that_is_really_full_ends_and_keeps_what_was_saved(small_disk, capfd):
    run = small_disk / "run"
    long = [*TRAIN, "--out", str(run), "--updates", "2000", "--chunk", "10", "--checkpoint-every", "100"]
    assert cli.main(long) == 1
    told = [line for line in capfd.readouterr().err.splitlines() if line.startswith("jaxmeta: ")]
    failed = [line for line in told if "failed, training goes on without it" in line]
    assert len(failed) == len(
        set(failed)
    )  # which loggers the disk is full for depends on when it is; each says so once
    assert "No space left on device" in told[-1] and f"the {survival.MAX_FAILURES}rd in a row" in told[-1]
    saved = runs.last_checkpoint(run)
    assert saved is not None
    # with room again it goes on from there
    for file in (run / runs.TENSORBOARD).iterdir():
        file.write_bytes(b"")
    (run / runs.METRICS).write_bytes(b"")
    resume = [
        "train",
        "ppo",
        "bandit",
        "--out",
        str(run),
        "--resume",
        "--eval-tasks",
        "0",
        "--updates",
        str(saved + 10),
    ]
    assert cli.main([*resume, "--chunk", "10"]) == 0
    assert runs.last_checkpoint(run) == saved + 10
