"""`python -m benchmarks.peers`: its protocol with workers, what it leaves out, and its ratios. No peer is needed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.peers import __main__ as peers
from benchmarks.peers.protocol import Turn, Worker, WorkerError
from benchmarks.peers.ratios import speed_ratio, spread
from benchmarks.peers.rows import ROWS, Peer
from benchmarks.peers.table import table

ROOT = Path(__file__).parents[1]
WORKER = """
import sys, time
from benchmarks.peers.protocol import Session, arguments
session = Session("pytest")
print("a peer prints what it likes")
given = arguments()
calls = 0
def work():
    global calls
    calls += 1
    if calls > given["calls"]:
        raise ValueError("the peer's own error")
    time.sleep(given["sleep"])
    return given["units"]
if given["inside"]:
    session.begin()
    while True:
        session.did(work())
session.serve(work)
"""


def fake(calls=1000, units=3, sleep=0.001, inside=False, patience=60.0):
    given = {"calls": calls, "units": units, "sleep": sleep, "inside": inside}
    command = [sys.executable, "-c", WORKER, json.dumps(given)]
    return Worker(command, os.environ | {"PYTHONPATH": str(ROOT)}, patience)


@pytest.mark.parametrize("inside", [False, True])
def test_a_worker_takes_turns_and_ends_with_its_input(inside):
    worker = fake(inside=inside)
    assert worker.versions == {"python": sys.version.split()[0], "pytest": pytest.__version__}
    for wanted in (0.0, 0.03):
        turn = worker.go(wanted)
        assert turn.seconds >= max(wanted, 0.001) and turn.units > 0 and turn.units % 3 == 0
        # a piece of work takes at least 1 ms, and none is begun after the turn is over
        assert turn.units <= 3 * (turn.seconds / 0.001)
    assert worker.go(0.0).units == 3
    worker.close()
    assert worker._process.returncode == 0


def test_the_last_line_of_a_failing_worker_is_its_message():
    with pytest.raises(WorkerError, match="^ValueError: the peer's own error$"):
        fake(calls=0)
    worker = fake(calls=2)
    assert worker.go(0.0).units == 3
    with pytest.raises(WorkerError, match="^ValueError: the peer's own error$"):
        worker.go(0.0)


def test_a_worker_that_does_not_answer_is_ended():
    with pytest.raises(WorkerError, match="^no answer in 1 s; "):
        fake(sleep=1000, patience=1.0)


def test_ratios_are_of_neighbouring_turns():
    one, other = [Turn(1.0, 10), Turn(2.0, 10), Turn(1.0, 60)], [Turn(1.0, 5), Turn(2.0, 10), Turn(2.0, 20)]
    ratio = speed_ratio(one, other)
    assert (ratio["lowest"], ratio["median"], ratio["highest"]) == (1.0, 2.0, 6.0)
    np.testing.assert_allclose([ratio["lower_quartile"], ratio["upper_quartile"]], [1.5, 4.0])
    assert set(spread([7.0]).values()) == {7.0}
    with pytest.raises(ValueError, match="shorter"):
        speed_ratio(one, other[:2])


def test_what_is_missing_is_left_out_with_a_line(tmp_path):
    config = peers.PeersBenchmark(environments=tmp_path, checkout=(f"oyster={tmp_path}/none",))
    expected = [
        (Peer("torch_pearl", "torch"), "it is not installed; run benchmarks/peers/environment.sh torch"),
        (Peer("a", "gym", checkout="varibad"), "it is on no registry; name a checkout with --checkout varibad=PATH"),
        (Peer("b", "gym", checkout="oyster"), f"--checkout oyster: {tmp_path}/none is not a folder"),
    ]
    for peer, why in expected:
        assert peers.why_missing(peer, config) == why
    assert peers.why_missing(Peer("jax_sinusoid"), config) is None


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"rows": "pearl,perl"}, "rows has 'perl'; known rows are sinusoid-25, "),
        ({"checkout": ("oyster",)}, "checkout is 'oyster'; it must be NAME=PATH, NAME one of oyster, "),
        ({"checkout": ("rlkit=/tmp",)}, "checkout is 'rlkit=/tmp'; it must be NAME=PATH"),
        ({"turns": 0}, "turns is 0; it must be at least 1"),
    ],
)
def test_what_cannot_be_measured_is_refused(given, message):
    with pytest.raises(ValueError, match=message):
        peers.PeersBenchmark(**given)


def test_a_row_is_written_with_its_ratios_and_what_was_left_out(tmp_path, capsys, monkeypatch):
    def start(driver, python, given):
        if driver == "torch_sinusoid" and given.get("compiled"):
            raise WorkerError("no compiler")
        return fake(units=6 if driver == "ours" else 2)

    monkeypatch.setattr(peers, "start", start)
    monkeypatch.setattr(peers, "interpreter", lambda peer, config: Path(sys.executable))
    path = tmp_path / "peers.json"
    path.write_text(json.dumps({"pearl": "from before"}))
    arguments = ["--rows", "sinusoid-25", "--turns", "3", "--seconds", "0.01", "--out", str(path)]
    assert peers.main([*arguments, "--json"]) == 0
    printed, record = json.loads(capsys.readouterr().out), json.loads(path.read_text())
    assert record == {"pearl": "from before"} | printed
    row = record["sinusoid-25"]
    assert row.keys() >= {"work", "unit", "sizes", "device", "commit", "versions", "time", "quick"}
    assert row["skipped"] == {"torch.func, compiled": "it fails: no compiler"}
    assert row["speeds"].keys() == {"jaxmeta", "torch.func", "plain JAX"}
    for name, ratio in row["ratios"].items():
        turns = [np.array(row["speeds"][one]["turns"]) for one in ("jaxmeta", name)]
        ours, theirs = (turn[:, 1] / turn[:, 0] for turn in turns)
        np.testing.assert_allclose(ratio["median"], np.median(ours / theirs))
        assert ratio["met"] == (ratio["median"] >= ratio["asked"])
    text = peers.lines("sinusoid-25", row)
    assert len(text) == 4 and text[-1] == "  skipped torch.func, compiled: it fails: no compiler"


def test_the_table_has_a_line_per_peer():
    spread_of = lambda ratio: dict.fromkeys(("lower_quartile", "median", "upper_quartile"), ratio)  # noqa: E731
    row = {
        "work": "work",
        "unit": "steps",
        "speeds": {"jaxmeta": {"per_s": {"median": 1234.5}}},
        "ratios": {"one": spread_of(2.0) | {"asked": 1.5}, "other": spread_of(0.5) | {"asked": None}},
        "skipped": {"third": "it fails"},
    }
    assert table({"row": row}).split("\n")[2:] == [
        "| work | 1,234 steps | one | 2.00 (2.00 to 2.00) | 1.5 |",
        "|  |  | other | 0.50 (0.50 to 0.50) |  |",
        "|  |  | third | not measured | |",
    ]


def test_every_driver_exists_and_every_environment_is_installed_by_the_script():
    every = [peer for row in ROWS.values() for peer in row.peers.values()]
    for peer in every:
        assert (ROOT / "benchmarks" / "peers" / "drivers" / f"{peer.driver}.py").exists()
    script = ROOT / "benchmarks" / "peers" / "environment.sh"
    for name in {peer.environment for peer in every} - {None}:
        assert f"\n{name}() {{" in script.read_text()
    assert subprocess.run(["bash", "-n", script]).returncode == 0
    for name, row in ROWS.items():
        assert row.quick.keys() <= row.sizes.keys(), name
