"""The same work per device on one and two CPU devices, and what an update would communicate on many accelerators.

    python -m benchmarks.scaling [--json] [--out benchmarks/results/scaling.json]

Every count of devices runs in a process of its own, with as many tasks per device; the processes take turns. Efficiency
is the time of an update on one device over that on several. The estimate counts the bytes of every all-reduce of an
update, from the measured size of the params, and says how long a ring would take for them. It assumes bandwidth and
latency as its record tells, and knows nothing of overlap or of congestion.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import tyro

from benchmarks.record import publish
from jaxmeta import registry
from jaxmeta.core import parallel, train
from jaxmeta.provenance import provenance


@dataclasses.dataclass(frozen=True)
class ScalingConfig:
    """Sizes of the measurement: second-order MAML with TRPO."""

    tasks: str = "half-cheetah-vel"
    """Registered task family."""
    horizon: int = 50
    """Steps of an episode."""
    tasks_per_device: int = 10
    """Tasks of an update, per device."""
    counts: tuple[int, ...] = (1, 2)
    """Numbers of devices."""
    repeats: int = 3
    """Turns of every process; the median counts."""
    bandwidth: float = 50e9
    """Bytes per second that an accelerator sends, for the estimate."""
    latency: float = 10e-6
    """Seconds that a message takes from one accelerator to the next, for the estimate."""
    json: bool = False
    """Print one JSON object and nothing else."""
    out: Path | None = None
    """Also write the JSON to this file."""


def time_updates(tasks: str, horizon: int, tasks_per_device: int, count: int) -> None:
    """Prints, as JSON, the seconds of an update on so many devices and the bytes of the params; runs in a child."""
    parallel.use_cpu_cores(count)
    make_family, family_config = registry.TASKS[tasks].load()
    make_algo, algo_config = registry.ALGOS["maml"].load()
    config = algo_config(num_tasks=tasks_per_device * count)
    meta = make_algo(make_family(family_config(horizon=horizon)), config)
    assert meta.num_devices == count
    state = train.init_state(meta, jax.random.key(0))
    update, seconds = train.make_chunk(meta, 1), []
    for _ in range(3):
        begun = time.perf_counter()
        state, metrics = update(state)
        jax.block_until_ready((state.params, metrics))
        seconds.append(time.perf_counter() - begun)
    # all-reduces of a gradient: the gradient itself and one per product of conjugate gradient
    reduces = 2 + config.trpo.cg_iterations
    size = parallel.tree_bytes(state.params)
    print(json.dumps({"seconds": min(seconds[1:]), "param_bytes": size, "reduces": reduces}))


def measure(config: ScalingConfig) -> dict[str, Any]:
    """Times all counts in turns; returns the record that is printed."""
    turns: dict[int, list[dict[str, Any]]] = {count: [] for count in config.counts}
    for _ in range(config.repeats):
        for count, done in turns.items():
            call = f"time_updates({config.tasks!r}, {config.horizon}, {config.tasks_per_device}, {count})"
            line = [sys.executable, "-W", "ignore", "-c", f"from benchmarks import scaling; scaling.{call}"]
            child = subprocess.run(line, capture_output=True, text=True, check=True)
            done.append(json.loads(child.stdout.splitlines()[-1]))
    seconds = {count: statistics.median(one["seconds"] for one in done) for count, done in turns.items()}
    first = turns[config.counts[0]][0]
    record: dict[str, Any] = {
        "update_s": seconds,
        "efficiency": {count: seconds[config.counts[0]] / value for count, value in seconds.items()},
        "repeats_s": {count: [one["seconds"] for one in done] for count, done in turns.items()},
        "param_bytes": first["param_bytes"],
        "all_reduces_per_update": first["reduces"],
        "estimate": {count: estimate(config, first["param_bytes"], first["reduces"], count) for count in (8, 64, 512)},
    }
    sizes = {name: value for name, value in dataclasses.asdict(config).items() if name not in ("json", "out")}
    return record | {"sizes": sizes} | provenance()


def estimate(config: ScalingConfig, size: int, reduces: int, count: int) -> dict[str, float]:
    """Estimates what the all-reduces of an update take in a ring of `count` accelerators.

    A ring sends 2 (n - 1) / n of the bytes, in 2 (n - 1) messages one after the other.
    """
    sent = reduces * 2 * (count - 1) / count * size
    waits = reduces * 2 * (count - 1) * config.latency
    return {"bytes_sent_per_device": sent, "seconds": sent / config.bandwidth + waits}


def main(argv: Sequence[str] | None = None) -> None:
    config = tyro.cli(ScalingConfig, args=argv, description=__doc__)
    record = measure(config)
    if publish(record, config.out, config.json):
        return
    for name in ("update_s", "efficiency", "param_bytes", "all_reduces_per_update", "estimate"):
        print(f"{name:>22}  {record[name]}")


if __name__ == "__main__":
    main(sys.argv[1:])
