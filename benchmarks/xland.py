"""Environment steps per second of RL² on XLand-MiniGrid, against the suite's own RL² baseline in the same process.

    git clone https://github.com/dunnolab/xland-minigrid
    python -m benchmarks.xland --suite xland-minigrid [--json]

Both train on the same rulesets, with as many trials of the same length, a GRU and heads of the same width, one pass
over the data and as many minibatches. They differ as the algorithms do: the baseline encodes the view by embeddings and
convolutions, has separate heads, updates after every `segment` steps and starts a new episode at once; jaxmeta
differentiates through whole trials. Steps after the end of an episode are not counted. Both programs are compiled first
and then timed in turns. Of the suite, the folder `training` is imported; wandb and pyrallis, which it uses, need not be
installed.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import statistics
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import tyro

import jaxmeta as jm
from benchmarks.record import publish
from benchmarks.turns import peak_memory, take_turns
from jaxmeta import devices, outer
from jaxmeta.core import train
from jaxmeta.experiment.provenance import provenance
from jaxmeta.tasks.adapters.xland import XLandConfig, xland


@dataclasses.dataclass(frozen=True)
class XLandBenchmark:
    """Sizes of the measurement."""

    suite: Path | None = None
    """Checkout of dunnolab/xland-minigrid; without it, jaxmeta alone is timed."""
    benchmark: str = "small"
    """Rulesets: trivial, small, medium or high."""
    num_tasks: int = 128
    """Trials in parallel, each on a ruleset of its own."""
    episodes: int = 4
    """Episodes per trial, of 243 steps each."""
    segment: int = 27
    """Steps between updates of the baseline, which must divide the length of a trial."""
    hidden: int = 64
    """Size of the recurrent state and width of the layer above it."""
    minibatches: int = 8
    """Minibatches per pass."""
    updates: int = 1
    """Meta-updates per turn."""
    repeats: int = 3
    """Timed turns; medians are reported."""
    json: bool = False
    """Print one JSON object and nothing else."""
    out: Path | None = None
    """Also write the JSON to this file."""


def measure(config: XLandBenchmark) -> dict[str, Any]:
    """Compiles and times both programs; returns the record that is printed."""
    family = rulesets(config)
    programs, compile_s, steps = {}, {}, {}
    builders = {"jaxmeta": our_training} | ({"suite": suite_training} if config.suite else {})
    for name, build in builders.items():
        begun = time.perf_counter()
        programs[name], steps[name] = build(family, config)
        compile_s[name] = time.perf_counter() - begun
    seconds = take_turns(programs, config.repeats)
    median = {name: statistics.median(turns) for name, turns in seconds.items()}
    speed = {name: steps[name]() / median[name] for name in programs}
    sizes = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    sizes = {name: value for name, value in sizes.items() if name not in ("suite", "json", "out", "repeats")}
    record = {f"{name}_steps_per_s": value for name, value in speed.items()}
    if config.suite:
        record["speedup"] = speed["jaxmeta"] / speed["suite"]
    record |= {"compile_s": compile_s, "peak_memory_bytes": peak_memory(), "repeats_s": seconds}
    return record | {"tasks": "xland", "sizes": sizes | {"horizon": family.env.spec.horizon}} | provenance()


def rulesets(config: XLandBenchmark) -> jm.TaskFamily:
    """Returns the family of the rulesets that both train on."""
    return xland(XLandConfig(benchmark=config.benchmark, num_episodes=config.episodes))  # pyright: ignore


def our_training(family: jm.TaskFamily, config: XLandBenchmark) -> tuple[Callable[[], None], Callable[[], float]]:
    """Builds meta-updates of RL², and a function that returns the steps of one turn."""
    optimiser = outer.ActorCriticConfig(
        learning_rate=1e-3, epochs=1, minibatches=config.minibatches, value_weight=0.5, entropy_weight=0.01
    )
    sizes = {"hidden": config.hidden, "readout": (config.hidden,), "num_tasks": config.num_tasks}
    meta = jm.rl2(family, jm.RL2Config(episodes=config.episodes, separate_value=False, ppo=optimiser, **sizes))
    compiled = train.make_chunk(meta, config.updates)
    state, _ = jax.block_until_ready(compiled(train.init_state(meta, jax.random.key(0)), 0))
    holder, counts = [state], []

    def run() -> None:
        holder[0], metrics = compiled(holder[0])
        counts.append(float(jax.block_until_ready(metrics)["env_steps"].sum()))

    return run, lambda: statistics.mean(counts)


def suite_training(family: jm.TaskFamily, config: XLandBenchmark) -> tuple[Callable[[], None], Callable[[], float]]:
    """Builds the suite's training of the same length, and a function that returns its steps."""
    assert config.suite is not None
    suite = _import_training(config.suite / "training")
    length = config.episodes * family.env.spec.horizon
    steps = config.num_tasks * length * config.updates
    sizes = suite.TrainConfig(
        rnn_hidden_dim=config.hidden,
        head_hidden_dim=config.hidden,
        num_envs=config.num_tasks,
        num_steps_per_env=length,
        num_steps_per_update=config.segment,
        num_minibatches=config.minibatches,
        total_timesteps=steps,
        eval_num_envs=jax.local_device_count(),  # next to nothing: it cannot be switched off
        eval_num_episodes=1,
    )
    suite.xminigrid.load_benchmark = lambda name: types.SimpleNamespace(sample_ruleset=family.sample)
    keys, env, params, rulesets, memory, state = suite.make_states(sizes)
    keys = jax.random.split(keys, jax.local_device_count())
    state, memory = suite.replicate(state, jax.local_devices()), suite.replicate(memory, jax.local_devices())
    program = suite.make_train(env, params, rulesets, sizes).lower(keys, state, memory).compile()

    def run() -> None:
        jax.block_until_ready(program(keys, state, memory))

    return run, lambda: float(steps)


def _import_training(folder: Path) -> Any:
    """Imports the suite's script of its RL² baseline; what it needs for logging and flags is replaced if missing."""
    for name in ("wandb", "pyrallis"):
        if importlib.util.find_spec(name) is None:
            stand_in: Any = types.ModuleType(name)
            stand_in.wrap = lambda: lambda function: function
            sys.modules[name] = stand_in
    sys.path.insert(0, str(folder))
    # arrays as defaults of a dataclass, which Python refuses since 3.11, become numbers
    with mock.patch.object(jax.numpy, "asarray", lambda value: value):
        importlib.import_module("utils")
    return importlib.import_module("train_meta_task")


def main(argv: list[str] | None = None) -> None:
    config = tyro.cli(XLandBenchmark, args=argv, description=__doc__)
    devices.use_cpu_cores()
    record = measure(config)
    if publish(record, config.out, config.json):
        return
    for name, value in record.items():
        if name != "repeats_s":
            print(f"{name:>24}  {value:,.3f}" if isinstance(value, float) else f"{name:>24}  {value}")


if __name__ == "__main__":
    main(sys.argv[1:])
