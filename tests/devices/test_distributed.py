"""Two real processes on this machine, over loopback: they train as one, and what ends one ends or saves both."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time

import chex
import jax
import pytest

import jaxmeta as jm
from jaxmeta.core.checkpoint import keys_as_data
from jaxmeta.experiment import runs

TRAIN = ["train", "rl2", "bandit", "--tasks.num-pulls", "3", "--algo.num-tasks", "8", "--algo.hidden", "8"]
TRAIN += ["--algo.ppo.epochs", "1", "--algo.ppo.minibatches", "1", "--eval-tasks", "0", "--deterministic"]
PROGRAM = "from jaxmeta.cli import main; raise SystemExit(main())"
HEARTBEAT = 10

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


def start(folder, *arguments, processes=2, resume=False):
    """Starts the processes of one training."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    line = [*TRAIN, "--out", str(folder), "--devices", "1", *arguments, *(["--resume"] if resume else [])]
    together = ["--distributed", "--coordinator", f"127.0.0.1:{port}", "--num-processes", str(processes)]
    together += ["--heartbeat", str(HEARTBEAT)]
    environment = os.environ | {"XDG_CACHE_HOME": str(folder.parent / "cache")}
    return [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", PROGRAM, *line]
            + ([*together, "--process-id", str(index)] if processes > 1 else []),
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for index in range(processes)
    ]


def finish(processes, timeout=600):
    """Waits for all and returns their exit codes and what they said."""
    said = [process.communicate(timeout=timeout)[0] for process in processes]
    return [process.returncode for process in processes], said


def wait_for_update(folder, update):
    until = time.monotonic() + 600
    while not any(record["update"] >= update for record in runs.read_metrics(folder)):
        assert time.monotonic() < until, "the processes do not train"
        time.sleep(0.05)


def states_equal(one, other):
    one, other = (jax.device_get(keys_as_data(jm.load(folder).state)) for folder in (one, other))
    chex.assert_trees_all_equal(one, other)


def test_two_processes_one_and_two_again_give_the_numbers_of_one(tmp_path):
    assert finish(start(tmp_path / "one", "--updates", "6", processes=1))[0] == [0]
    for updates, processes in (("2", 2), ("4", 1), ("6", 2)):
        codes, said = finish(start(tmp_path / "mixed", "--updates", updates, processes=processes, resume=updates > "2"))
        assert codes == [0] * processes, said
    states_equal(tmp_path / "one", tmp_path / "mixed")
    assert [record["update"] for record in runs.read_metrics(tmp_path / "mixed")] == [1, 2, 3, 4, 5, 6]


def test_a_signal_to_one_saves_both_and_the_loss_of_one_ends_the_other(tmp_path):
    folder = tmp_path / "run"
    processes = start(folder, "--updates", "100000", "--checkpoint-every", "20")
    wait_for_update(folder, 3)
    begun = time.monotonic()
    processes[1].send_signal(signal.SIGTERM)
    codes, said = finish(processes)
    assert codes == [143, 143], said
    assert time.monotonic() - begun < 10
    stopped = runs.last_checkpoint(folder)
    assert stopped == runs.read_metrics(folder)[-1]["update"]

    processes = start(folder, "--updates", "100000", "--checkpoint-every", "20", resume=True)
    wait_for_update(folder, stopped + 25)
    processes[1].kill()
    begun = time.monotonic()
    codes, said = finish(processes)
    # at once where the connection tells of it, else by the heartbeat, which is asked for twice
    assert time.monotonic() - begun < 3 * HEARTBEAT
    assert codes[0] != 0 and codes[1] == -signal.SIGKILL, said
    saved = runs.last_checkpoint(folder)
    assert saved is not None and saved > stopped
    codes, said = finish(start(folder, "--updates", str(saved + 3), resume=True))
    assert codes == [0, 0], said
    assert jm.load(folder).step == saved + 3
