"""Multi-task SAC on half-cheetah at several speeds: heads against a task-conditioned network, return of every task.

    python -m benchmarks.multi_task_sac --seeds 0 --out benchmarks/results/multi-task-sac.json

Each network is trained for the same number of updates from every seed, and evaluated on all tasks by the mode of its
actor. The runs are added to those in the file that `--out` names, if that has the same sizes, so that seeds can be
measured one after another.
"""

from __future__ import annotations

import dataclasses
import json
import shlex
import sys
import time
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro

import jaxmeta as jm
from benchmarks.record import publish
from benchmarks.turns import peak_memory
from jaxmeta import devices, outer, tasks
from jaxmeta.core import train
from jaxmeta.experiment.provenance import provenance
from jaxmeta.tasks.brax.half_cheetah import VelocityTask


@dataclasses.dataclass(frozen=True)
class MultiTaskSACBenchmark:
    """Sizes of the measurement."""

    networks: tuple[Literal["conditioned", "heads"], ...] = ("conditioned", "heads")
    """Networks to train."""
    seeds: tuple[int, ...] = (0, 1)
    """Seeds of each."""
    speeds: tuple[float, ...] = (0.5, 1.0, 1.5, 2.0)
    """Goal velocities in m/s, one per task."""
    horizon: int = 100
    """Steps per episode."""
    updates: int = 100
    """Updates of each run."""
    evaluate_every: int = 20
    """Updates between evaluations."""
    streams: int = 2
    """Episodes per task and update."""
    gradient_steps: int = 200
    """Gradient steps per update."""
    batch_size: int = 64
    """Transitions per task and gradient step."""
    hidden: tuple[int, ...] = (128, 128)
    """Widths of the hidden layers, of actor and critics."""
    learning_rate: float = 1e-3
    """Of Adam."""
    surgery: Literal["mean", "pcgrad", "cagrad", "min-norm"] = "mean"
    """How the gradients of the tasks are combined."""
    json: bool = False
    """Print one JSON object and nothing else."""
    out: Path | None = None
    """Also write the JSON to this file."""


def cheetahs(config: MultiTaskSACBenchmark) -> jm.TaskFamily:
    """Builds half-cheetah with the goal velocities as tasks; the velocity is hidden, and the task ID is observed."""
    family = tasks.half_cheetah_vel(tasks.HalfCheetahVelConfig(horizon=config.horizon))
    return tasks.with_task_id(tasks.numbered(family, VelocityTask(jnp.array(config.speeds))))


def learn(config: MultiTaskSACBenchmark, network: Any, seed: int) -> dict[str, Any]:
    """Trains one agent; returns its returns of every task along training."""
    family = cheetahs(config)
    sac = outer.SoftActorCriticConfig(
        learning_rate=config.learning_rate,
        gradient_steps=config.gradient_steps,
        batch_size=config.batch_size,
        reward_scale=1.0,
        temperature=None,
        replay_capacity=100_000,
        warmup_passes=5,
    )
    meta = jm.multi_task(
        family,
        jm.MultiTaskConfig(
            network=network,
            surgery=config.surgery,
            visits=1,
            streams=config.streams,
            hidden=config.hidden,
            outer_loop="sac",
            sac=sac,
        ),
    )
    begun = time.perf_counter()
    state, chunk = train.init_state(meta, jax.random.key(seed)), train.make_chunk(meta, config.evaluate_every)
    curve, steps = [], 0.0
    while True:
        key = jax.random.key(99)
        report = jm.evaluate(meta.learner, state.params, family.env, family.train_tasks, key, jm.Plan(streams=8))
        point = {
            "update": int(state.step),
            "env_steps": steps,
            "minutes": (time.perf_counter() - begun) / 60,
            "return": np.asarray(report.returns).mean((1, 2, 3)).tolist(),
            "temperature": np.exp(state.params.log_temperature).tolist(),
        }
        curve.append(point)
        print(network, seed, point, file=sys.stderr, flush=True)
        if point["update"] >= config.updates:
            return {"network": network, "seed": seed, "curve": curve}
        state, metrics = chunk(state)
        steps += float(metrics["env_steps"].sum())


def measure(config: MultiTaskSACBenchmark) -> dict[str, Any]:
    """Trains every network from every seed; returns the record that is printed."""
    sizes = {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in dataclasses.asdict(config).items()
        if name not in ("networks", "seeds", "json", "out")
    }
    runs = _earlier(config.out, sizes)
    origin = provenance() | {"command": shlex.join(["python", "-m", "benchmarks.multi_task_sac", *sys.argv[1:]])}
    for seed in config.seeds:
        for network in config.networks:
            runs.append(learn(config, network, seed) | origin)
    table = {
        network: np.mean([run["curve"][-1]["return"] for run in runs if run["network"] == network], axis=0).tolist()
        for network in dict.fromkeys(run["network"] for run in runs)
    }
    return {
        "return_by_task": table,
        "return_standing_still": [-speed * config.horizon for speed in config.speeds],
        "runs": runs,
        "tasks": "half-cheetah-vel",
        "sizes": sizes,
        "peak_memory_bytes": peak_memory(),
    } | origin


def _earlier(out: Path | None, sizes: dict[str, Any]) -> list[dict[str, Any]]:
    """Returns the runs of a file that has the same sizes."""
    if out is None or not out.exists():
        return []
    record = json.loads(out.read_text())
    if record["sizes"] != sizes:
        raise ValueError(f"out is {out}, which was measured with other sizes; choose another file")
    return record["runs"]


def main(argv: list[str] | None = None) -> None:
    config = tyro.cli(MultiTaskSACBenchmark, args=argv, description=__doc__)
    devices.use_cpu_cores()
    record = measure(config)
    if publish(record, config.out, config.json):
        return
    print(f"{'m/s':18}" + "".join(f"{speed:9.2f}" for speed in config.speeds))
    rows = record["return_by_task"] | {"standing still": record["return_standing_still"]}
    for name, returns in rows.items():
        print(f"{name:18}" + "".join(f"{value:9.1f}" for value in returns))


if __name__ == "__main__":
    main()
