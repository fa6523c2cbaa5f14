"""A run folder is written by one process at a time."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from jaxmeta import cli
from jaxmeta.config.codec import RunError
from jaxmeta.experiment import locks

HOLD = """
import pathlib, sys
from jaxmeta.experiment import locks
with locks.locked(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""
TRAIN = ["train", "ppo", "bandit", "--tasks.num-pulls", "1", "--algo.num-tasks", "2", "--algo.hidden", "4"]
TRAIN += ["--algo.ppo.epochs", "1", "--algo.ppo.minibatches", "1", "--eval-tasks", "0"]


@pytest.fixture
def hold():
    """Starts processes that write to a folder until they are told to end."""
    started = []

    def start(folder):
        process = subprocess.Popen(
            [sys.executable, "-c", HOLD, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        started.append(process)
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def stamps(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def test_a_folder_that_another_process_writes_to_is_refused_with_that_process(tmp_path, hold):
    process = hold(tmp_path)
    with pytest.raises(RunError, match=f"is being written by another process \\(process {process.pid} on "):
        locks.locked(tmp_path).__enter__()


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_lock_is_released_when_its_process_ends(tmp_path, hold, how):
    process = hold(tmp_path)
    process.send_signal(how)
    process.wait()
    assert (tmp_path / locks.LOCK).exists()
    with locks.locked(tmp_path):
        pass


def test_a_lock_is_released_after_its_block(tmp_path):
    for _ in range(2):
        with locks.locked(tmp_path), pytest.raises(RunError), locks.locked(tmp_path):
            pass


def test_a_file_system_without_locks_gives_a_warning(tmp_path, monkeypatch, capsys):
    def flock(handle, operation):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(locks.fcntl, "flock", flock)
    with locks.locked(tmp_path):
        pass
    assert "cannot be locked (No locks available)" in capsys.readouterr().err


def test_two_trainings_do_not_share_a_folder(tmp_path, hold, capsys):
    run = tmp_path / "run"
    run.mkdir()
    process = hold(run)
    before = stamps(tmp_path)
    assert cli.main([*TRAIN, "--out", str(run), "--updates", "1"]) == 2
    assert stamps(tmp_path) == before
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.count("\n") == 1
    assert printed.err.startswith(f"jaxmeta: {run} is being written by another process (process {process.pid} on ")

    # the lock that a killed process leaves behind is none, and its file is nothing that a new run would overwrite
    process.kill()
    process.wait()
    assert cli.main([*TRAIN, "--out", str(run), "--updates", "1"]) == 0
    hold(run)
    before = stamps(tmp_path)
    capsys.readouterr()
    assert cli.main([*TRAIN, "--out", str(run), "--updates", "2", "--resume"]) == 2
    assert stamps(tmp_path) == before and "is being written by another process" in capsys.readouterr().err


def test_what_another_run_wrote_while_this_one_started_is_not_overwritten(tmp_path, monkeypatch, capsys):
    """The folder is empty as the arguments are read, and another run has come and gone before training begins."""
    run = tmp_path / "run"

    def locked(folder, lock=locks.locked):
        (folder / "config.json").write_text("of another run")
        return lock(folder)

    monkeypatch.setattr(locks, "locked", locked)
    assert cli.main([*TRAIN, "--out", str(run), "--updates", "1"]) == 2
    assert "is not empty; add --resume" in capsys.readouterr().err
    assert (run / "config.json").read_text() == "of another run"
