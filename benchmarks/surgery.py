"""Cost of gradient surgery: time of an update of multi-task PPO by aggregate, over that with the mean gradient.

    python -m benchmarks.surgery [--json]

Point navigation with K tasks per update. All aggregates are timed in turns in one process; the ratio is the median over
the turns.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tyro

import jaxmeta as jm
from benchmarks.record import publish
from benchmarks.turns import take_turns
from jaxmeta import devices, inner, nets, outer, rl, tasks
from jaxmeta.experiment.provenance import provenance

AGGREGATES: dict[str, Callable[[], outer.Aggregate]] = {
    "mean": outer.mean,
    "pcgrad": lambda: outer.combined(outer.surgery.pcgrad),
    "cagrad": lambda: outer.combined(outer.surgery.cagrad(0.5)),
    "min_norm": lambda: outer.combined(outer.surgery.min_norm),
}


@dataclasses.dataclass(frozen=True)
class SurgeryBenchmark:
    """Sizes of the measurement."""

    num_tasks: int = 10
    """K, the tasks of an update."""
    streams: int = 20
    """Episodes per task."""
    horizon: int = 100
    """Steps per episode."""
    hidden: tuple[int, ...] = (64, 64)
    """Widths of the hidden layers."""
    epochs: int = 4
    """Gradient steps per update, each on all tasks."""
    updates: int = 10
    """Updates per turn."""
    repeats: int = 15
    """Turns; the median is reported."""
    json: bool = False
    """Print one JSON object and nothing else."""
    out: Path | None = None
    """Also write the JSON to this file."""


def built(config: SurgeryBenchmark, aggregate: outer.Aggregate) -> jm.MetaLearner:
    """Builds PPO with a value function on navigation."""
    family = tasks.navigation(tasks.NavigationConfig(horizon=config.horizon))
    policy = inner.policy(nets.actor_critic(family.env.spec, config.hidden, value=True))
    ppo, plan = outer.ActorCriticConfig(epochs=config.epochs), jm.Plan(streams=config.streams)
    return outer.meta_update(
        policy,
        plan,
        outer.uniform(family),
        outer.fresh(policy, family, plan),
        outer.policy_gradient(policy, rl.value_baseline(0.99, 0.95), ppo, aggregate=aggregate),
        outer.Info(config.num_tasks, plan, spread=config.num_tasks),
    )


def measure(config: SurgeryBenchmark) -> dict[str, Any]:
    """Times the updates with every aggregate; returns the record that is printed."""

    def program(aggregate: Callable[[], outer.Aggregate]) -> Callable[[], object]:
        meta = built(config, aggregate())
        state = jm.init_state(meta, jax.random.key(0))
        # the same state in every turn: all turns take the same steps
        return lambda: jax.block_until_ready(jm.train(meta, state, config.updates, chunk=config.updates))

    seconds = take_turns({name: program(aggregate) for name, aggregate in AGGREGATES.items()}, config.repeats)
    mean = np.array(seconds["mean"])
    sizes = {
        name: value for name, value in dataclasses.asdict(config).items() if name not in ("json", "out", "repeats")
    }
    return {
        "update_s": {name: statistics.median(turns) / config.updates for name, turns in seconds.items()},
        "time_over_mean": {name: float(np.median(np.array(turns) / mean)) for name, turns in seconds.items()},
        "repeats_s": seconds,
        "tasks": "navigation",
        "sizes": sizes,
    } | provenance()


def main(argv: list[str] | None = None) -> None:
    config = tyro.cli(SurgeryBenchmark, args=argv, description=__doc__)
    devices.use_cpu_cores()
    record = measure(config)
    if publish(record, config.out, config.json):
        return
    for name, seconds in record["update_s"].items():
        print(f"{name:10} {seconds * 1e3:9.2f} ms / update {record['time_over_mean'][name]:6.3f} of the mean's")


if __name__ == "__main__":
    main()
