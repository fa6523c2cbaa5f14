"""All measurements of one session on an accelerator, in at most 12 minutes.

    python -m benchmarks.accelerator --out benchmarks/results
    python -m benchmarks.accelerator --out /tmp/short --short    # on a CPU, to see that everything runs

Each measurement is a process of its own and writes its own record, so what has been measured is kept when the time is
over. Those that come first matter most. A measurement that fails, or for which no time is left, is named at the end,
and the exit code is then 1.
"""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import time
from pathlib import Path

import tyro

LEAST_S = 20.0
"""Seconds below which no further measurement is started."""


@dataclasses.dataclass(frozen=True)
class Measurement:
    """One call of a benchmark."""

    name: str
    module: str
    flags: str
    short: str
    """The flags of the short form, for a CPU."""
    environment: dict[str, str] = dataclasses.field(default_factory=dict)

    def command(self, file: Path, short: bool) -> list[str]:
        """Returns the words of the command that writes its record to a file."""
        flags = (self.short if short else self.flags).split()
        return [sys.executable, "-m", self.module, *flags, "--json", "--out", str(file)]


SHORT = "--tasks bandit --num-tasks 8 --episodes 2 --updates 1 --repeats 1"


def _throughput(name: str, tasks: str, num_tasks: int, **environment: str) -> Measurement:
    flags = f"--tasks {tasks} --num-tasks {num_tasks}"
    return Measurement(name, "benchmarks.throughput", f"{flags} --repeats 3", SHORT, environment)


MEASUREMENTS = (
    _throughput("half-cheetah-vel-20", "half-cheetah-vel", 20),
    _throughput("half-cheetah-vel-200", "half-cheetah-vel", 200),
    _throughput("half-cheetah-vel-2000", "half-cheetah-vel", 2000),
    _throughput("ant-dir-200", "ant-dir", 200),
    Measurement(
        "xland-4096",
        "benchmarks.xland",
        "--num-tasks 4096 --minibatches 32 --repeats 2",
        "--num-tasks 2 --episodes 1 --hidden 4 --minibatches 1 --repeats 1",
    ),
    Measurement(
        "off-policy",
        "benchmarks.off_policy",
        "--repeats 3",
        "--meta-batch 2 --batch-size 4 --context-batch 4 --hidden 4 --num-train-tasks 2 --replay-capacity 1600"
        " --gradient-steps 2 --repeats 1",
    ),
    Measurement(
        "inner-steps-64",
        "benchmarks.inner_steps",
        "--steps 64 --widths 512 --repeats 3",
        "--steps 2 --widths 4 --examples 4 --repeats 1",
    ),
    _throughput("half-cheetah-vel-200-tf32", "half-cheetah-vel", 200, JAX_DEFAULT_MATMUL_PRECISION="tensorfloat32"),
)


@dataclasses.dataclass(frozen=True)
class AcceleratorBenchmark:
    """Runs all measurements, one after the other."""

    out: Path
    """Folder of the records, `accelerator-NAME.json`."""
    seconds: float = 720.0
    """Time for all of them together."""
    short: bool = False
    """Measure the smallest sizes: the numbers mean nothing."""


def main(argv: list[str] | None = None) -> int:
    """Runs the measurements for which there is time; returns 0 if none is missing."""
    config = tyro.cli(AcceleratorBenchmark, args=argv)
    config.out.mkdir(parents=True, exist_ok=True)
    end, missing = time.monotonic() + config.seconds, []
    for one in MEASUREMENTS:
        left, begun = end - time.monotonic(), time.monotonic()
        outcome = "no time left" if left < LEAST_S else run(one, config.out, config.short, left)
        if outcome != "done":
            missing.append(one.name)
        print(f"{one.name}: {outcome}, {time.monotonic() - begun:.0f} s", flush=True)
    if missing:
        print(f"missing: {', '.join(missing)}")
    return 1 if missing else 0


def run(one: Measurement, folder: Path, short: bool, limit_s: float) -> str:
    """Runs a measurement for at most `limit_s` seconds; returns "done", or what went wrong in one line."""
    command = one.command(folder / f"accelerator-{one.name}.json", short)
    try:
        done = subprocess.run(
            command, env=os.environ | one.environment, capture_output=True, text=True, timeout=limit_s
        )
    except subprocess.TimeoutExpired:
        return f"stopped after {limit_s:.0f} s"
    if done.returncode == 0:
        return "done"
    lines = done.stderr.strip().splitlines() or ["no message"]
    return f"failed with exit code {done.returncode}: {lines[-1]}"


if __name__ == "__main__":
    raise SystemExit(main())
