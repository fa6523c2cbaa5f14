"""Environment steps per second of half-cheetahs: Brax's spring and mjx physics, and MuJoCo Playground's.

    pip install "jaxmeta[playground]"
    python -m benchmarks.cheetahs [--json]

Episodes under random actions, vmapped over tasks with a hidden speed, on one device. The bodies differ: Playground's
cheetah is that of the DeepMind Control Suite and advances 0.01 s per step, Brax's 0.05 s. Programs are compiled first
and then timed in turns.
"""

from __future__ import annotations

import dataclasses
import statistics
from pathlib import Path
from typing import Any, Literal

import jax
import tyro

import jaxmeta as jm
from benchmarks.record import publish
from benchmarks.turns import peak_memory, take_turns
from jaxmeta.experiment.provenance import provenance
from jaxmeta.tasks.adapters.playground import PlaygroundConfig, playground


@dataclasses.dataclass(frozen=True)
class CheetahBenchmark:
    """Sizes of the measurement."""

    num_tasks: int = 64
    """Episodes in parallel."""
    steps: int = 50
    """Steps of each."""
    impl: tuple[Literal["jax", "warp"], ...] = ("jax",)
    """Physics of Playground; warp needs a GPU."""
    repeats: int = 3
    """Timed turns; medians are reported."""
    json: bool = False
    """Print one JSON object and nothing else."""
    out: Path | None = None
    """Also write the JSON to this file."""


def measure(config: CheetahBenchmark) -> dict[str, Any]:
    """Compiles and times all simulators; returns the record that is printed."""
    cheetah = jm.tasks.half_cheetah_vel
    families = {name: cheetah(jm.tasks.HalfCheetahVelConfig(backend=name)) for name in ("spring", "mjx")}
    families |= {f"playground-{impl}": playground(PlaygroundConfig(impl=impl)) for impl in config.impl}
    programs = {name: _episodes(family, config) for name, family in families.items()}
    seconds = take_turns(programs, config.repeats)
    steps = config.num_tasks * config.steps
    return {
        "steps_per_s": {name: steps / statistics.median(turns) for name, turns in seconds.items()},
        "sizes": {"num_tasks": config.num_tasks, "steps": config.steps},
        "repeats_s": seconds,
        "peak_memory_bytes": peak_memory(),
    } | provenance()


def _episodes(family: jm.TaskFamily, config: CheetahBenchmark) -> Any:
    """Compiles episodes of random actions; returns a function that runs them and waits."""
    env = family.env

    def episode(key):
        task_key, reset_key, steps_key = jax.random.split(key, 3)
        task = family.sample(task_key)

        def step(state, key):
            action = jax.random.uniform(key, (env.spec.action.size,), minval=-1.0)
            state, outcome = env.step(key, state, action, task)
            return state, outcome.reward

        state, _ = env.reset(reset_key, task)
        return jax.lax.scan(step, state, jax.random.split(steps_key, config.steps))[1].sum()

    program = jax.jit(lambda: jax.vmap(episode)(jax.random.split(jax.random.key(0), config.num_tasks)))
    return lambda: jax.block_until_ready(program())


def main(argv: list[str] | None = None) -> None:
    config = tyro.cli(CheetahBenchmark, args=argv, description=__doc__)
    record = measure(config)
    if not publish(record, config.out, config.json):
        for name, speed in record["steps_per_s"].items():
            print(f"{name:18} {speed:10.0f} steps/s")


if __name__ == "__main__":
    main()
