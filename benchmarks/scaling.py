"""Weak scaling on one and two CPU devices, and an estimate of communication on many accelerators.

    python -m benchmarks.scaling [--estimate-only] [--json] [--out benchmarks/results/scaling.json]

Every number of devices runs in its own process, with the same number of tasks per device; the processes alternate.
Efficiency is the time of an update on one device over that on several.

The estimate compares the traced all-reduces of an update with its arithmetic, where every accelerator does the work of
a recipe's whole default update; one attempt of a line search is counted. An all-reduce of B bytes among n devices takes
2 (n - 1) / n B / bandwidth + 2 (n - 1) latency in a ring and 2 B / bandwidth + 2 log2(n) latency in a tree; the faster
one is used. The arithmetic is two operations per param, step and pass of the networks, at a rate that small networks
sustain. Physics, kernel launches and sequential dependencies are not counted, so computation takes longer and
communication has a smaller share. Overlap and congestion are not counted either.
"""

from __future__ import annotations

import dataclasses
import json
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import tyro

from benchmarks.record import publish
from jaxmeta.core import train
from jaxmeta.devices import Execution, tree_bytes, use_cpu_cores
from jaxmeta.experiment import registry
from jaxmeta.experiment.provenance import provenance


@dataclasses.dataclass(frozen=True)
class ScalingConfig:
    """Sizes of the measurement: second-order MAML with TRPO."""

    tasks: str = "half-cheetah-vel"
    """Registered task family."""
    horizon: int = 50
    """Steps per episode."""
    tasks_per_device: int = 10
    """Tasks per update and device."""
    counts: tuple[int, ...] = (1, 2)
    """Numbers of devices."""
    repeats: int = 3
    """Turns of every process; the median is reported."""
    estimate_only: bool = False
    """Only estimate communication, from sizes alone, without timing."""
    bandwidth: float = 50e9
    """Bandwidth of an accelerator in bytes per second, for the estimate."""
    latency: float = 10e-6
    """Latency of a message between two accelerators in seconds, for the estimate."""
    rate: float = 1e12
    """Operations per second of an accelerator on small networks, for the estimate."""
    json: bool = False
    """Print one JSON object and nothing else."""
    out: Path | None = None
    """Also write the JSON to this file."""


def time_updates(tasks: str, horizon: int, tasks_per_device: int, count: int) -> None:
    """Prints, as JSON, the seconds of an update on `count` devices and the bytes of the params; run in a subprocess."""
    use_cpu_cores(count)
    make_family, family_config = registry.TASKS[tasks].load()
    make_algo, algo_config = registry.ALGOS["maml"].load()
    config = algo_config(num_tasks=tasks_per_device * count)
    meta = make_algo(make_family(family_config(horizon=horizon)), config)
    assert Execution().mesh(meta.info.spread).size == count
    state = train.init_state(meta, jax.random.key(0))
    update, seconds = train.make_chunk(meta, 1), []
    for _ in range(3):
        begun = time.perf_counter()
        state, metrics = update(state)
        jax.block_until_ready((state.params, metrics))
        seconds.append(time.perf_counter() - begun)
    print(json.dumps({"seconds": min(seconds[1:])}))


def measure(config: ScalingConfig) -> dict[str, Any]:
    """Times all numbers of devices, and estimates communication; returns the record that is printed."""
    record = {} if config.estimate_only else time_counts(config)
    record["estimate"] = {f"{algo} {tasks}": estimate(config, algo, tasks) for algo, tasks in RECIPES}
    sizes = {name: value for name, value in dataclasses.asdict(config).items() if name not in ("json", "out")}
    return record | {"sizes": sizes} | provenance()


def time_counts(config: ScalingConfig) -> dict[str, Any]:
    """Times an update on every number of devices, alternating."""
    turns: dict[int, list[float]] = {count: [] for count in config.counts}
    for _ in range(config.repeats):
        for count, done in turns.items():
            call = f"time_updates({config.tasks!r}, {config.horizon}, {config.tasks_per_device}, {count})"
            line = [sys.executable, "-W", "ignore", "-c", f"from benchmarks import scaling; scaling.{call}"]
            child = subprocess.run(line, capture_output=True, text=True, check=True)
            done.append(json.loads(child.stdout.splitlines()[-1])["seconds"])
    seconds = {count: statistics.median(done) for count, done in turns.items()}
    efficiency = {count: seconds[config.counts[0]] / value for count, value in seconds.items()}
    return {"update_s": seconds, "efficiency": efficiency, "repeats_s": turns}


def estimate(config: ScalingConfig, algo: str, tasks: str) -> dict[str, Any]:
    """Estimates the time of an update's all-reduces among 8, 64 and 512 accelerators, and of its arithmetic."""
    make_family, family_config = registry.TASKS[tasks].load()
    make_algo, algo_config = registry.ALGOS[algo].load()
    family, recipe = make_family(family_config()), algo_config()
    meta = make_algo(family, recipe)
    form = train.state_form(meta)
    count = sum(leaf.size for leaf in jax.tree.leaves(form.params))
    num_tasks, plan = meta.info.num_tasks, meta.info.plan
    collected = num_tasks * (plan.rounds + 1) * plan.streams * plan.episodes * family.env.spec.horizon
    network_steps = RECIPES[algo, tasks](recipe, collected)
    compute = 2 * count * network_steps / config.rate
    with jax.set_mesh(Execution().mesh(meta.info.spread)):
        reduces = all_reduces(jax.make_jaxpr(meta.update)(form).jaxpr)
    among = {}
    for devices in (8, 64, 512):
        seconds = sum(times * all_reduce_seconds(config, size, devices) for size, times in reduces)
        among[devices] = {"communication_s": seconds, "share": seconds / (seconds + compute)}
    size = tree_bytes(form.params)
    return {
        "param_bytes": size,
        "all_reduces": sum(times for _, times in reduces),
        "of_gradients": sum(times for bytes_, times in reduces if bytes_ >= size / 2),
        "bytes": sum(bytes_ * times for bytes_, times in reduces),
        "network_steps_per_device": network_steps,
        "compute_s": compute,
        "devices": among,
    }


def all_reduces(jaxpr: Any, times: int = 1) -> list[tuple[int, int]]:
    """Lists the all-reduces of a program traced for several devices: bytes, and how often each runs.

    Consecutive all-reduces of the leaves of a tree count as one, as compilers combine them.
    """
    found, together = [], False
    for step in jaxpr.eqns:
        if step.primitive.name.startswith("psum"):
            size = sum(one.aval.size * one.aval.dtype.itemsize for one in step.invars)
            before = found.pop()[0] if together else 0
            found.append((before + size, times))
        together = step.primitive.name.startswith("psum")
        turns = times * step.params["length"] if step.primitive.name == "scan" else times
        for inner in jax.tree.leaves(list(step.params.values()), is_leaf=lambda node: hasattr(node, "eqns")):
            if hasattr(inner, "eqns"):
                found += all_reduces(inner, turns)
    return found


def all_reduce_seconds(config: ScalingConfig, size: int, count: int) -> float:
    """Returns the time of an all-reduce of `size` bytes among `count` accelerators, in a ring or a tree, in seconds."""
    ring = 2 * (count - 1) / count * size / config.bandwidth + 2 * (count - 1) * config.latency
    tree = 2 * size / config.bandwidth + 2 * math.log2(count) * config.latency
    return min(ring, tree)


def of_trust_region(recipe: Any, collected: int) -> int:
    """Counts nine passes for a gradient through an adaptation, and four to collect, adapt and search along the line.

    A Hessian-vector product of conjugate gradient, and one for the step size, takes four on part of the experience.
    """
    products = recipe.trpo.cg_iterations + 1
    return round(collected * (9 + 4 + 4 * products * recipe.trpo.curvature_fraction))


def of_epochs(recipe: Any, collected: int) -> int:
    """Counts one pass to collect, and three per epoch for the gradient."""
    return collected * (1 + 3 * recipe.ppo.epochs)


def of_replay(recipe: Any, collected: int) -> int:
    """Counts one pass to collect, and three per replayed batch for the gradient."""
    return collected + 3 * recipe.sac.gradient_steps * recipe.sac.meta_batch * recipe.sac.batch_size


RECIPES: dict[tuple[str, str], Callable[[Any, int], int]] = {
    ("maml", "half-cheetah-vel"): of_trust_region,
    ("rl2", "bandit"): of_epochs,
    ("pearl", "half-cheetah-vel"): of_replay,
}
"""By recipe, (recipe, collected steps) -> steps times passes of the networks per update."""


def main(argv: Sequence[str] | None = None) -> None:
    config = tyro.cli(ScalingConfig, args=argv, description=__doc__)
    use_cpu_cores(2)  # a single device has no all-reduces
    record = measure(config)
    if publish(record, config.out, config.json):
        return
    for name in ("update_s", "efficiency"):
        if name in record:
            print(f"{name:>22}  {record[name]}")
    for recipe, found in record["estimate"].items():
        shares = ", ".join(f"{count}: {one['share']:.1%}" for count, one in found["devices"].items())
        print(f"{recipe:>22}  communication of {shares} of an update")


if __name__ == "__main__":
    main(sys.argv[1:])
