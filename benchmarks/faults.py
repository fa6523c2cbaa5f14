"""Fault injection: every row provokes a fault in training and checks how jaxmeta handles it.

    python -m benchmarks.faults [--quick] [--rows resume,flips] [--json] [--out benchmarks/results/faults.json]

Each row has the requirement `must`, the result `found`, and whether the requirement is `met`. A row that raises an
error is reported as not met and does not stop the others. `--quick` runs smaller versions, for continuous integration.
"""

from __future__ import annotations

import dataclasses
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tyro

from jaxmeta.core import train
from jaxmeta.core.checkpoint import Checkpointer, keys_as_data
from jaxmeta.devices import Execution, use_cpu_cores
from jaxmeta.experiment import loading, registry, runs
from jaxmeta.experiment.provenance import provenance
from tests import tiny

PROGRAM = "from jaxmeta.cli import main; raise SystemExit(main())"
SMALL = ["rl2", "bandit", "--tasks.num-pulls", "3", "--algo.num-tasks", "8", "--algo.hidden", "8", "--eval-tasks", "0"]
SMALL += ["--algo.ppo.epochs", "1", "--algo.ppo.minibatches", "1"]
INVALID = """maml navigation --out {new} --algo.inner-lr -1|maml navigation --out {new} --algo.inner-lr nan
maml navigation --out {new} --algo.num-tasks 0|maml navigation --out {new} --algo.streams 0
maml navigation --out {new} --algo.rounds -1|maml navigation --out {new} --algo.trpo.max-kl 0
maml navigation --out {new} --algo.trpo.backtrack 1|maml navigation --out {new} --tasks.horizon 0
maml navigation --out {new} --tasks.extent inf|maml navigation --out {new} --algo.outer-loop sgd
maml navigation --out {new} --algo.hidden a|maml navigation --out {new} --algo.num-task 3
maml navigation --out {new} extra|maml navigation|maml --out {new}|mamml navigation --out {new}
maml navigatoin --out {new}|maml navigation --out {file}|maml navigation --out {file}/run
maml navigation --out {new} --resume|maml navigation --out {new} --seed -1|maml navigation --out {new} --updates 0
maml navigation --out {new} --chunk 0|maml navigation --out {new} --num-seeds 0
maml navigation --out {new} --checkpoint-every 0|maml navigation --out {new} --eval-tasks -1
maml navigation --out {new} --devices 0|maml navigation --out {new} --process-id 1
maml navigation --out {new} --distributed --process-id 1|maml navigation --out {new} --heartbeat 0
maml navigation --out {new} --distributed --coordinator a:1 --num-processes 2 --process-id 2
rl2 bandit --out {new} --tasks.num-arms 0|rl2 bandit --out {new} --algo.num-tasks 3
rl2 bandit --out {new} --algo.episodes few|rl2 bandit --out {new} --algo.ppo.clip -1
pearl bandit --out {new}|pearl navigation --out {new} --updates 1
maml navigation --out {new} --algo.num-tasks 3 --devices 2"""


MAX_EXIT_SECONDS = 10.0
"""Largest time from a signal to the end of the process, in seconds."""
TINIEST = float(np.nextafter(0.0, 1.0))
"""Difference between equal numbers with different bits, such as zeros of different sign."""
MAX_REFUSAL_SECONDS = 2.0
"""Largest CPU time to reject an invalid configuration, in seconds."""


@dataclasses.dataclass(frozen=True)
class FaultsConfig:
    """Faults to provoke."""

    rows: str | None = None
    """Only these rows, by name, such as resume,flips."""
    algos: str | None = None
    """Only these algorithms, in the rows resume and devices."""
    quick: bool = False
    """Run smaller versions of all rows."""
    json: bool = False
    """Print one JSON object and nothing else."""
    out: Path | None = None
    """Also write the JSON to this file; rows that are not run are kept."""
    seed: int = 0
    """Seed of the random damage and of the times of kills."""

    def names(self, quick: str) -> list[str]:
        """Returns the algorithms of a row."""
        return self.algos.split(",") if self.algos else [quick] if self.quick else list(registry.ALGOS)


def resume(config: FaultsConfig, folder: Path) -> dict[str, Any]:
    """Interrupts and resumes every algorithm, and compares the final state with that of an uninterrupted run."""
    metas = {name: tiny.algo(name) for name in config.names("rl2")}
    if not (config.quick or config.algos):
        metas |= {f"{name} on sinusoid": tiny.supervised(name) for name in registry.SUPERVISED_ALGOS}
    stops, total = ([2], 4) if config.quick else ([1, 7, 10], 20)
    different = []
    for name, meta in metas.items():
        update, checkpointer = train.make_chunk(meta, 1), Checkpointer(folder / name, keep=len(stops))
        state = train.init_state(meta, jax.random.key(config.seed))
        for done in range(1, total + 1):
            state, _ = update(state)
            if done in stops:
                checkpointer.save(done, state, wait=False)
        checkpointer.wait()
        for stop in stops:
            resumed = checkpointer.restore(train.state_form(meta), stop)
            for _ in range(total - stop):
                resumed, _ = update(resumed)
            if not equal(state, resumed):
                different.append(f"{name} at {stop}")
        checkpointer.close()
    found = {"algorithms": list(metas), "stops": stops, "updates": total, "different": different}
    return {"must": "all leaves bit-equal to the uninterrupted run", "found": found, "met": not different}


def kills(config: FaultsConfig, folder: Path) -> dict[str, Any]:
    """Kills a run at random times, also during saves, restarts it, and compares it with an uninterrupted run."""
    count, every, run = 1 if config.quick else 20, 10, folder / "killed"
    chance, restarts, cut, lost, resume = random.Random(config.seed), 0, 0, [], []
    for index in range(count):
        begun = runs.last_checkpoint(run) or 0
        drafts = set((run / runs.CHECKPOINTS).glob("*.partial"))
        line = [*SMALL, "--updates", "1000000", "--checkpoint-every", str(every), "--out", str(run), *resume]
        process = begin("train", *line)
        # a third of the kills during start-up, the others around the first checkpoints
        if index % 3 == 2:
            time.sleep(6.0 * chance.random())
        else:
            while process.poll() is None and (runs.last_checkpoint(run) or 0) <= begun + 2 * every * (index % 3):
                time.sleep(0.01)
            time.sleep(0.3 * chance.random())
        restarts += bool(resume) and process.poll() is None
        process.kill()
        process.communicate()
        cut += bool(set((run / runs.CHECKPOINTS).glob("*.partial")) - drafts)  # killed during a save
        lost.append(last_update(run) - (runs.last_checkpoint(run) or 0))
        resume = ["--resume"]
    total = str(runs.last_checkpoint(run) + 5)
    codes = [
        command("train", *SMALL, "--updates", total, "--out", str(out), *more)[0]
        for out, more in ((run, resume), (folder / "whole", []))
    ]
    restarts += codes[0] == 0
    same = codes == [0, 0] and equal(loading.load(folder / "whole").state, loading.load(run).state)
    found = {
        "kills": count,
        "amid_a_save": cut,
        "restarts": restarts,
        "updates_lost": lost,
        "save_interval": every,
        "updates": int(total),
    }
    met = restarts == count and same and max(lost) <= every
    must = "all restart, at most one save interval lost, final state bit-equal"
    return {"must": must, "found": found | {"bit_equal": same}, "met": met}


def two_checkpoints(folder: Path) -> tuple[Any, Path]:
    """Saves two states of an algorithm with replay buffers; the second will be damaged."""
    meta = tiny.algo("pearl")
    checkpointer, state = Checkpointer(folder), train.init_state(meta, jax.random.key(0))
    for update in (1, 2):
        checkpointer.save(update, state)
    checkpointer.close()
    return train.state_form(meta), folder / "2"


def after_damage(form: Any, place: Path, damage: Callable[[Path], None]) -> tuple[bool, str]:
    """Damages a copy; returns whether the earlier checkpoint was restored instead, and the message about the later."""
    copy = place.parent.with_name("copy")
    shutil.copytree(place.parent, copy)
    damage(copy / place.name)
    checkpointer = Checkpointer(copy)
    restored = checkpointer.restore_last(form)
    checkpointer.close()
    shutil.rmtree(copy)
    return restored.update == 1, restored.skipped.get(2, "")


def flips(config: FaultsConfig, folder: Path) -> dict[str, Any]:
    """Flips one random bit of a checkpoint, in many copies."""
    form, place = two_checkpoints(folder / "whole")
    chance, count, detected = random.Random(config.seed), 5 if config.quick else 100, 0
    files = sorted(file.relative_to(place) for file in place.rglob("*") if file.is_file())
    sizes = [(place / file).stat().st_size for file in files]
    for _ in range(count):
        file = chance.choices(files, sizes)[0]
        bit = chance.randrange(8 * (place / file).stat().st_size)

        def flip(copy: Path, file: Path = file, bit: int = bit) -> None:
            content = bytearray((copy / file).read_bytes())
            content[bit // 8] ^= 1 << bit % 8
            (copy / file).write_bytes(content)

        fell_back, said = after_damage(form, place, flip)
        detected += fell_back and str(file) in said
    found = {"copies": count, "detected_and_named": detected, "files": len(files)}
    return {"must": "all detected, fallback used, file named", "found": found, "met": detected == count}


def cuts(config: FaultsConfig, folder: Path) -> dict[str, Any]:
    """Truncates, empties and deletes every file of a checkpoint, one at a time."""
    form, place = two_checkpoints(folder / "whole")
    files = sorted(file.relative_to(place) for file in place.rglob("*") if file.is_file())
    files, silent = files[:: 6 if config.quick else 1], []
    for file in files:
        for how in ("half", "empty", "gone"):

            def cut(copy: Path, file: Path = file, how: str = how) -> None:
                content = (copy / file).read_bytes()
                (copy / file).write_bytes(content[: len(content) // 2 if how == "half" else 0])
                if how == "gone":
                    (copy / file).unlink()

            fell_back, said = after_damage(form, place, cut)
            if not (fell_back and str(file) in said):
                silent.append(f"{file} {how}")
    return {"must": "no silent load", "found": {"damages": 3 * len(files), "silent": silent}, "met": not silent}


def signals(config: FaultsConfig, folder: Path) -> dict[str, Any]:
    """Sends signals to a run, and to one of two processes of a distributed run, and measures the time to exit."""
    cases = [(signal.SIGTERM, 1), (signal.SIGINT, 1), (signal.SIGTERM, 2)]
    found, met = {}, True
    for number, processes in cases[:1] if config.quick else cases:
        name = number.name + (f" to one of {processes}" if processes > 1 else "")
        run = folder / name.replace(" ", "-")
        line = ["train", *SMALL, "--updates", "1000000", "--checkpoint-every", "1000000", "--out", str(run)]
        started = [begin(*line, *more) for more in memberships(processes)]
        while started[-1].poll() is None and last_update(run) < 5:
            time.sleep(0.05)
        begun = time.monotonic()
        started[-1].send_signal(number)
        codes = [process.wait() for process in started]
        seconds = time.monotonic() - begun
        saved = runs.last_checkpoint(run) == last_update(run)
        found[name] = {"exit_codes": codes, "seconds": round(seconds, 2), "saved": saved}
        met &= codes == [128 + number] * processes and seconds < MAX_EXIT_SECONDS and saved
    return {"must": "saved, exit with 128 and the signal's number within 10 s", "found": found, "met": met}


def memberships(processes: int) -> list[list[str]]:
    """Returns the command-line flags of each process of a distributed run on this machine."""
    if processes == 1:
        return [[]]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        there = f"127.0.0.1:{free.getsockname()[1]}"
    together = ["--distributed", "--coordinator", there, "--num-processes", str(processes), "--devices", "1"]
    return [[*together, "--process-id", str(index)] for index in range(processes)]


def invalid(config: FaultsConfig, folder: Path) -> dict[str, Any]:
    """Starts runs with invalid configurations; seconds are CPU time."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "file").write_text("mine")
    lines = INVALID.replace("\n", "|").split("|")
    tried, wrong, slowest = lines[::12] if config.quick else lines, [], 0.0
    for line in tried:
        begun = processor_seconds()
        code, said = command("train", *line.format(new=folder / "new", file=folder / "file").split())
        seconds = processor_seconds() - begun
        slowest = max(slowest, seconds)
        if code != 2 or said.count("\n") != 1 or not said.startswith("jaxmeta: ") or seconds > MAX_REFUSAL_SECONDS:
            wrong.append({"line": line, "code": code, "seconds": round(seconds, 2), "said": said[-300:]})
    found = {"configurations": len(tried), "slowest_s": round(slowest, 2), "wrong": wrong}
    return {"must": "30 or more, one clear line each, under 2 s", "found": found, "met": not wrong}


def devices(config: FaultsConfig, folder: Path) -> dict[str, Any]:
    """Runs one update of every algorithm on 1, 2, 4 and 8 CPU devices."""
    names = config.names("ppo")
    counts = [1, 2] if config.quick else [1, 2, 4, 8]
    found = {}
    for name in names:
        program = f"from benchmarks import faults; faults.compare_counts({name!r}, {counts})"
        line = [sys.executable, "-W", "ignore", "-c", program]
        child = subprocess.run(line, stdout=subprocess.PIPE, text=True, check=True)
        found[name] = json.loads(child.stdout.splitlines()[-1])
    met = all(one <= 1e-5 for one in found.values())
    must = f"after one update on {counts} devices the params are equal within 1e-5 of their norm"
    return {"must": must, "found": found, "met": met}


def compare_counts(name: str, counts: list[int]) -> None:
    """Prints, as JSON, the differences of the params after the first update past the warm-up, by number of devices."""
    use_cpu_cores(max(counts))
    meta, params = sixteen_tasks(name), []
    for count in counts:
        execution = Execution(count)
        assert execution.mesh(meta.info.spread).size == count
        start = train.init_state(meta, jax.random.key(0), execution=execution)
        state = train.train(meta, start, meta.info.warmup + 1, execution=execution)
        params.append(jax.device_get(state.params))
    print(json.dumps(max(apart(params[0], other) for other in params[1:])))


def apart(one: Any, other: Any) -> float:
    """Returns the norm of the difference of two trees over that of the first."""
    first, second = (np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)]) for tree in (one, other))
    return float(np.linalg.norm(first - second) / np.linalg.norm(first))


def sixteen_tasks(name: str) -> Any:
    """Builds the smallest version of an algorithm, but with 16 tasks or visits, which eight devices can share."""
    config: Any = tiny.ALGOS[name]
    family = tiny.observed_by(name, tiny.family())
    if name in registry.WITH_TASK_ID:  # of three tasks
        config = dataclasses.replace(config, visits=16)
        return registry.ALGOS[name].load()[0](family, config)
    if hasattr(config, "num_tasks"):
        config = dataclasses.replace(config, num_tasks=16)
        if hasattr(config, "vae"):
            config = dataclasses.replace(config, vae=dataclasses.replace(config.vae, capacity=16))
    else:
        sac = dataclasses.replace(config.sac, meta_batch=8)
        config = dataclasses.replace(config, num_train_tasks=16, tasks_per_update=8, sac=sac)
    return registry.ALGOS[name].load()[0](family, config, **tiny.parts(name, family))


def soak(config: FaultsConfig, folder: Path) -> dict[str, Any]:
    """Trains for long on a small task with saving and logging, and monitors the memory of the process."""
    from jaxmeta.experiment import logging, survival

    total = 200 if config.quick else 10_000
    meta = tiny.algo("rl2")
    folder.mkdir(parents=True)
    checkpointer, sizes = Checkpointer(folder / "checkpoints"), {}

    def look(update: int, state: Any, metrics: Any) -> None:
        if update in (total // 10, total):
            sizes[update] = resident_bytes()

    saver = survival.Saver(checkpointer, survival.StopSignals(), 0, total, 50)
    callbacks = [logging.JsonLines(folder), logging.TensorBoard(folder), saver, look]
    train.train(meta, train.init_state(meta, jax.random.key(0)), total, callbacks=callbacks)
    checkpointer.close()
    early, late = sizes.values()
    found = {"updates": total, "bytes_after_a_tenth": early, "bytes_at_the_end": late, "growth": late / early - 1.0}
    return {"must": "memory grows by less than 5 %", "found": found, "met": late < 1.05 * early}


ROWS = {row.__name__: row for row in (resume, kills, flips, cuts, signals, invalid, devices, soak)}


def equal(one: Any, other: Any) -> bool:
    """Returns whether all leaves are equal bit for bit."""
    return difference(one, other) == 0.0


def difference(one: Any, other: Any) -> float:
    """Returns the largest difference between two states, 0.0 only if all bits are equal; infinity if one has a NaN.

    In leaves with magnitudes above one, it is relative to the largest magnitude.
    """
    leaves = (jax.tree.leaves(jax.device_get(keys_as_data(state))) for state in (one, other))
    worst = 0.0
    for a, b in zip(*leaves, strict=True):
        if a.tobytes() != b.tobytes():
            a, b = a.astype(np.float64), b.astype(np.float64)
            gap = float(np.max(np.abs(a - b)) / max(1.0, np.max(np.abs(a))))
            worst = max(worst, gap if np.isfinite(gap) else np.inf, TINIEST)  # zeros may differ in their sign
    return worst


def begin(*arguments: str) -> subprocess.Popen:
    """Starts the command line in a subprocess."""
    line = [sys.executable, "-W", "ignore", "-c", PROGRAM, *arguments]
    return subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def command(*arguments: str) -> tuple[int, str]:
    """Runs the command line in a subprocess; returns its exit code and its standard error."""
    process = begin(*arguments)
    _, said = process.communicate()
    return process.returncode, said


def last_update(run: Path) -> int:
    """Returns the last update that a run has logged."""
    records = runs.read_metrics(run)
    return records[-1]["update"] if records else 0


def processor_seconds() -> float:
    """Returns the CPU time of this process and of its finished children, in seconds."""
    return sum(os.times()[:4])


def resident_bytes() -> int:
    """Returns the resident memory of this process in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def measure(config: FaultsConfig) -> dict[str, Any]:
    """Runs all rows sequentially; returns the record that is printed."""
    names = config.rows.split(",") if config.rows else list(ROWS)
    record = {}
    for name in names:
        begun, cpu = time.monotonic(), processor_seconds()
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            try:
                row = ROWS[name](config, Path(folder) / name)
            except Exception as error:
                row = {"must": "", "found": f"{type(error).__name__}: {error}"[:500], "met": False}
        spent = {"seconds": round(time.monotonic() - begun, 1), "processor_s": round(processor_seconds() - cpu, 1)}
        origin = {"quick": config.quick} | spent | provenance()
        record[name] = row | {"about": (ROWS[name].__doc__ or "").split("\n")[0]} | origin
        if config.out is not None:  # after every row: some take long
            before = json.loads(config.out.read_text()) if config.out.exists() else {}
            config.out.parent.mkdir(parents=True, exist_ok=True)
            config.out.write_text(json.dumps(before | record, indent=2) + "\n")
        if not config.json:
            print(f"{'met ' if row['met'] else 'NOT '} {name:8} {row['must']}: {row['found']}", flush=True)
    return record


def main(argv: Sequence[str] | None = None) -> int:
    config = tyro.cli(FaultsConfig, args=argv, description=__doc__)
    use_cpu_cores(1)
    record = measure(config)
    if config.json:
        print(json.dumps(record, indent=2))
    return 0 if all(row["met"] for row in record.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
