"""Speed of second-order MAML on sine waves, compared with a minimal program in plain JAX.

    python -m benchmarks.few_shot [--json]

Ten shots, one inner step, two hidden layers of 40, Adam. The minimal program runs on one device. Both are timed in wall
time and in CPU time, which counts all threads of the process and is independent of other processes.
"""

from __future__ import annotations

import dataclasses
import itertools
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
import tyro

import jaxmeta as jm
from benchmarks.record import publish
from benchmarks.turns import stateful, take_turns
from jaxmeta import devices
from jaxmeta.core import train
from jaxmeta.experiment.provenance import provenance

SHOTS, WIDTH, INNER_LR, OUTER_LR = 10, 40, 0.01, 1e-3


@dataclasses.dataclass(frozen=True)
class FewShotBenchmark:
    """Sizes of the measurement."""

    batches: tuple[int, ...] = (25, 1024)
    """Tasks per meta-update."""
    tasks_per_turn: int = 10_000
    """Smallest number of tasks per turn; it determines the number of updates."""
    devices: int | None = None
    """CPU devices; by default one per core."""
    repeats: int = 9
    """Timed turns; the median is reported."""
    json: bool = False
    """Print one JSON object and nothing else."""
    out: Path | None = None
    """Also write the JSON to this file."""


def measure(config: FewShotBenchmark) -> dict[str, Any]:
    """Compiles and times both programs at every batch; returns the record that is printed."""
    return {
        "table": [_measure_batch(batch, config) for batch in config.batches],
        "devices": len(jax.devices()),
    } | provenance()


def _measure_batch(batch: int, config: FewShotBenchmark) -> dict[str, Any]:
    updates = -(-config.tasks_per_turn // batch)
    meta = second_order(batch)
    programs = {
        "ours": stateful(train.make_chunk(meta, updates), train.init_state(meta, jax.random.key(0))),
        "plain": stateful(*plain(batch, updates)),
    }
    row: dict[str, Any] = {
        "num_tasks": batch,
        "updates_per_turn": updates,
        "num_devices": jm.Execution().mesh(meta.info.spread).size,
    }
    for clock, read in (("wall", time.perf_counter), ("cpu", time.process_time)):
        seconds = take_turns(programs, config.repeats, read)
        ratios = [theirs / ours for ours, theirs in zip(seconds["ours"], seconds["plain"], strict=True)]
        row[clock] = {
            name: {
                "ms_per_update": 1e3 * statistics.median(turns) / updates,
                "tasks_per_s": batch * updates / statistics.median(turns),
                "best_ms_per_update": 1e3 * min(turns) / updates,
            }
            for name, turns in seconds.items()
        } | {"plain_over_ours": statistics.median(ratios), "repeats_s": seconds}
    return row


def second_order(batch: int) -> jm.MetaLearner:
    """Returns MAML as jaxmeta builds it."""
    family = jm.tasks.sinusoid(jm.tasks.SinusoidConfig(shots=SHOTS, queries=SHOTS))
    return jm.maml(family, jm.FewShotMAMLConfig(inner_lr=INNER_LR, hidden=(WIDTH, WIDTH), num_tasks=batch))


def plain(batch: int, updates: int) -> tuple[Callable[[Any], tuple[Any, Any]], Any]:
    """Returns a minimal implementation of MAML: a program of many updates, and its initial state."""
    tx = optax.adam(OUTER_LR)

    def predict(params, x):
        for weight, bias in params[:-1]:
            x = jax.nn.relu(x @ weight + bias)
        weight, bias = params[-1]
        return x @ weight + bias

    def error(params, x, y):
        return jnp.mean((predict(params, x) - y) ** 2)

    def task_loss(params, x, y):
        gradient = jax.grad(error)(params, x[:SHOTS], y[:SHOTS])
        adapted = jax.tree.map(lambda leaf, step: leaf - INNER_LR * step, params, gradient)
        return error(adapted, x[SHOTS:], y[SHOTS:])

    def loss(params, key):
        amplitude_key, phase_key, input_key = jax.random.split(key, 3)
        amplitude = jax.random.uniform(amplitude_key, (batch, 1, 1), minval=0.1, maxval=5.0)
        phase = jax.random.uniform(phase_key, (batch, 1, 1), maxval=jnp.pi)
        x = jax.random.uniform(input_key, (batch, 2 * SHOTS, 1), minval=-5.0, maxval=5.0)
        return jnp.mean(jax.vmap(task_loss, (None, 0, 0))(params, x, amplitude * jnp.sin(x - phase)))

    def update(state, _):
        params, opt_state, key = state
        key, task_key = jax.random.split(key)
        value, gradient = jax.value_and_grad(loss)(params, task_key)
        change, opt_state = tx.update(gradient, opt_state)
        return (optax.apply_updates(params, change), opt_state, key), value

    def layer(key, before, after):
        return jax.random.normal(key, (before, after)) / before**0.5, jnp.zeros(after)

    sizes = (1, WIDTH, WIDTH, 1)
    keys = jax.random.split(jax.random.key(0), len(sizes) - 1)
    params = [layer(key, *pair) for key, pair in zip(keys, itertools.pairwise(sizes), strict=True)]
    state = (params, tx.init(params), jax.random.key(1))
    return jax.jit(lambda state: jax.lax.scan(update, state, None, updates)), state


def main(argv: list[str] | None = None) -> None:
    config = tyro.cli(FewShotBenchmark, args=argv, description=__doc__)
    devices.use_cpu_cores(config.devices)
    record = measure(config)
    if publish(record, config.out, config.json):
        return
    for row in record["table"]:
        for clock in ("wall", "cpu"):
            for name in ("ours", "plain"):
                one = row[clock][name]
                speed = f"{one['ms_per_update']:8.3f} ms per update, {one['tasks_per_s']:9,.0f} tasks/s"
                print(f"{row['num_tasks']:5} tasks, {clock:4} {name:5} {speed}")


if __name__ == "__main__":
    main()
