"""Speed of jaxmeta beside other libraries: whole updates, in alternating turns, each library in its own environment.

    benchmarks/peers/environment.sh
    python -m benchmarks.peers [--rows sinusoid-25,pearl] [--checkout oyster=PATH] [--json] [--out FILE]

Every library is a process of its own that compiles first and then takes turns, so that other load on the machine
affects all equally; while one has its turn, the others wait. A ratio is that of speeds in neighbouring turns; its
median and its spread over the turns are reported. A peer that is not there is left out, with a line that says why.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tyro

from benchmarks.peers.protocol import Turn, Worker, WorkerError
from benchmarks.peers.ratios import speed_ratio, spread
from benchmarks.peers.rows import ROWS, Peer, Row
from benchmarks.turns import alternate
from jaxmeta.config import checks
from jaxmeta.devices import use_cpu_cores
from jaxmeta.experiment.provenance import provenance

ROOT = Path(__file__).parents[2]
OURS = "jaxmeta"


@dataclasses.dataclass(frozen=True)
class PeersBenchmark:
    """What is measured, and for how long."""

    rows: str = ""
    """Rows, separated by commas; by default all."""
    turns: int = 5
    """Timed turns of every library, in some rows at most 3; one more warms up."""
    seconds: float = 1.0
    """Shortest turn; it ends with the update that is under way."""
    checkout: tuple[str, ...] = ()
    """NAME=PATH of repositories whose packages are on no registry: pytorch-maml-rl, varibad, oyster, purejaxrl and
    xland-minigrid."""
    environments: Path = Path(".venv-peers")
    """Folder of the peers' virtual environments, relative to the repository."""
    quick: bool = False
    """Small sizes and two short turns, which only show that everything runs."""
    json: bool = False
    """Print one JSON object and nothing else."""
    out: Path | None = None
    """Also write the JSON to this file, after every row; rows that it has from before stay."""

    def __post_init__(self):
        checks.positive(self, "seconds")
        checks.at_least_one(self, "turns")
        for name in self.names():
            if name not in ROWS:
                raise ValueError(f"rows has {name!r}; known rows are {', '.join(ROWS)}")
        known = {peer.checkout for row in ROWS.values() for peer in row.peers.values() if peer.checkout}
        for given in self.checkout:
            name, _, path = given.partition("=")
            if name not in known or not path:
                raise ValueError(f"checkout is {given!r}; it must be NAME=PATH, NAME one of {', '.join(sorted(known))}")

    def names(self) -> list[str]:
        """Returns the names of the rows to measure."""
        return self.rows.split(",") if self.rows else list(ROWS)

    def checkouts(self) -> dict[str, Path]:
        """Returns the folders of the repositories by name."""
        return {name: Path(path).resolve() for name, _, path in (given.partition("=") for given in self.checkout)}


def why_missing(peer: Peer, config: PeersBenchmark) -> str | None:
    """Returns in one line why a peer cannot be measured here; None if it can."""
    if peer.checkout is not None:
        folder = config.checkouts().get(peer.checkout)
        if folder is None:
            return f"it is on no registry; name a checkout with --checkout {peer.checkout}=PATH"
        if not folder.is_dir():
            return f"--checkout {peer.checkout}: {folder} is not a folder"
    if peer.environment is not None and not interpreter(peer, config).exists():
        return f"it is not installed; run benchmarks/peers/environment.sh {peer.environment}"
    return None


def interpreter(peer: Peer, config: PeersBenchmark) -> Path:
    """Returns the Python that a peer runs with."""
    if peer.environment is None:
        return Path(sys.executable)
    return ROOT / config.environments / peer.environment / "bin" / "python"


def start(driver: str, python: Path, given: dict[str, Any]) -> Worker:
    """Starts a worker and waits until it has compiled its program."""
    environ = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}
    return Worker([str(python), "-m", f"benchmarks.peers.drivers.{driver}", json.dumps(given)], environ)


def measure_row(row: Row, config: PeersBenchmark) -> dict[str, Any]:
    """Starts all workers of a row, gives them turns, and compares their speeds."""
    sizes = row.sizes | (row.quick if config.quick else {})
    turns, seconds = (2, 0.05) if config.quick else (min(config.turns, row.most_turns or config.turns), config.seconds)
    skipped: dict[str, str] = {}
    workers: dict[str, Worker] = {}
    try:
        workers[OURS] = start("ours", Path(sys.executable), {"program": row.program} | sizes)
        for name, peer in row.peers.items():
            if why := why_missing(peer, config):
                skipped[name] = why
                continue
            folder = {"checkout": str(config.checkouts()[peer.checkout])} if peer.checkout else {}
            try:
                workers[name] = start(peer.driver, interpreter(peer, config), sizes | peer.options | folder)
            except WorkerError as error:
                skipped[name] = f"it fails: {error}"
        turn = functools.partial(take_turn, workers, skipped, seconds)
        done = alternate({name: functools.partial(turn, name) for name in workers}, turns)
        done = {name: taken for name, taken in done.items() if name not in skipped}
        found = {name: {"versions": one.versions, "start_s": one.start_s} for name, one in workers.items()}
    finally:
        for worker in workers.values():
            worker.close()
    return {"work": row.work, "unit": row.unit, "sizes": sizes} | compared(row, done, found) | {"skipped": skipped}


def take_turn(workers: dict[str, Worker], skipped: dict[str, str], seconds: float, name: str) -> Turn | None:
    """Gives a worker a turn; a peer that fails is left out from then on."""
    if name in skipped:
        return None
    try:
        return workers[name].go(seconds)
    except WorkerError as error:
        if name == OURS:
            raise
        skipped[name] = f"it fails: {error}"


def compared(row: Row, done: dict[str, list[Turn]], found: dict[str, Any]) -> dict[str, Any]:
    """Returns the speeds of all, and the ratios of jaxmeta's to those of its peers."""
    speeds = {
        name: found[name] | {"per_s": spread([turn.speed for turn in turns]), "turns": [list(turn) for turn in turns]}
        for name, turns in done.items()
    }
    ratios = {}
    for name, turns in done.items():
        if name != OURS:
            ratio, asked = speed_ratio(done[OURS], turns), row.peers[name].asked
            ratios[name] = ratio | {"asked": asked, "met": None if asked is None else ratio["median"] >= asked}
    return {"speeds": speeds, "ratios": ratios}


def lines(name: str, row: dict[str, Any]) -> list[str]:
    """Returns what is printed about a row."""
    ours = row["speeds"][OURS]["per_s"]["median"]
    text = [f"{name}: {row['work']}; jaxmeta {ours:,.0f} {row['unit']} per second"]
    for peer, ratio in row["ratios"].items():
        verdict = {None: "measured only", True: "met", False: "NOT met"}[ratio["met"]]
        asked = "" if ratio["asked"] is None else f" of {ratio['asked']:g} asked"
        span = f"{ratio['lower_quartile']:.2f} to {ratio['upper_quartile']:.2f}"
        text.append(f"  {ratio['median']:8.2f} times {peer} (quartiles {span}){asked}: {verdict}")
    return text + [f"  skipped {peer}: {why}" for peer, why in row["skipped"].items()]


def main(argv: Sequence[str] | None = None) -> int:
    config = tyro.cli(PeersBenchmark, args=argv, description=__doc__)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the workers are ended too
    use_cpu_cores()
    record = {}
    for name in config.names():
        record[name] = measure_row(ROWS[name], config) | {"quick": config.quick} | provenance()
        if config.out is not None:
            before = json.loads(config.out.read_text()) if config.out.exists() else {}
            config.out.parent.mkdir(parents=True, exist_ok=True)
            config.out.write_text(json.dumps(before | record, indent=2) + "\n")
        if not config.json:
            print("\n".join(lines(name, record[name])), flush=True)
    if config.json:
        print(json.dumps(record, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
