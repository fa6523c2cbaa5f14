"""Meta-World in jaxmeta's engine: its speed compared with the bare simulator, and a learning curve on ML1.

    python -m benchmarks.metaworld [--env reach-v3] [--json] [--out benchmarks/results/metaworld.json]
    python -m benchmarks.metaworld --learn-minutes 40 --out benchmarks/results/metaworld-reach.json

It needs the environment that `examples/metaworld_environment.sh` makes. `bare` steps simulators in a Python loop with
random actions; `engine` collects trials with the policy of RL², on one device. Both reset their simulators and take
turns in one process. The ratio is of CPU seconds of the process, so that other load on the machine does not change it;
that of wall-clock time is recorded too.
"""

from __future__ import annotations

import dataclasses
import statistics
import sys
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro

import jaxmeta as jm
from benchmarks.record import publish
from benchmarks.turns import peak_memory, take_turns
from jaxmeta import outer
from jaxmeta.core import train
from jaxmeta.core.rollout import collect
from jaxmeta.experiment.provenance import provenance
from jaxmeta.tasks.adapters.metaworld import GOALS, MetaWorldConfig, MetaWorldTask, first_to_end, metaworld


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes of the measurement: RL² on ML1."""

    env: str = "reach-v3"
    """Environment of ML1."""
    num_tasks: int = 40
    """Tasks per collection and per update."""
    horizon: int = 100
    """Steps per episode."""
    episodes: int = 2
    """Episodes per trial."""
    repeats: int = 5
    """Timed turns of both programs."""
    learn_minutes: float = 0.0
    """Trains for about so many minutes and records success on held-out goals; 0 measures speed only."""
    evaluate_every: int = 20
    """Updates between evaluations."""
    hidden: int = 128
    """Size of the recurrent state."""
    learning_rate: float = 1e-3
    """Of PPO."""
    entropy_weight: float = 0.005
    """Of PPO."""
    seed: int = 0
    """Of the goals, the parameters and training."""
    json: bool = False
    """Print one JSON object and nothing else."""
    out: Path | None = None
    """Also write the JSON to this file."""


def build(config: Config, end_on_success: bool = False) -> tuple[jm.TaskFamily, jm.MetaLearner]:
    """Returns the family and RL² on it."""
    family = metaworld(
        MetaWorldConfig("ML1", config.env, horizon=config.horizon, seed=config.seed, end_on_success=end_on_success)
    )
    ppo = outer.ActorCriticConfig(
        learning_rate=config.learning_rate,
        epochs=4,
        minibatches=4,
        value_weight=0.5,
        entropy_weight=config.entropy_weight,
    )
    sizes = jm.RL2Config(num_tasks=config.num_tasks, episodes=config.episodes, hidden=config.hidden, ppo=ppo)
    return family, jm.rl2(family, sizes)


def measure(config: Config) -> dict[str, Any]:
    """Times both programs in turns; returns the record that is printed."""
    family, meta = build(config)
    steps = config.num_tasks * config.episodes * config.horizon
    programs = {"bare": bare(family, config), "engine": engine(family, meta, config)}
    seconds = {name: take_turns(programs, config.repeats, clock) for name, clock in CLOCKS.items()}
    record: dict[str, Any] = {}
    for name, turns in seconds.items():
        median = {program: statistics.median(values) for program, values in turns.items()}
        record |= {f"{program}_steps_per_{name}": steps / value for program, value in median.items()}
        ratios = [before / after for before, after in zip(turns["bare"], turns["engine"], strict=True)]
        record[f"engine_over_bare_{name}"] = statistics.median(ratios)
    return record | {"peak_memory_bytes": peak_memory(), "repeats_s": seconds}


CLOCKS = {"cpu_s": time.process_time, "wall_s": time.perf_counter}


def bare(family: jm.TaskFamily, config: Config) -> Callable[[], None]:
    """Steps one simulator per task in a loop, without JAX."""
    pool, rng = family.env.simulators, np.random.default_rng(config.seed)
    simulators = [pool._make(config.env) for _ in range(config.num_tasks)]

    def run() -> None:
        for _ in range(config.episodes):
            for simulator in simulators:
                simulator.reset(MetaWorldTask(rng.integers(GOALS)), 0)
            for _ in range(config.horizon):
                for simulator in simulators:
                    simulator.step(rng.uniform(-1, 1, 4))

    return run


def engine(family: jm.TaskFamily, meta: jm.MetaLearner, config: Config) -> Callable[[], None]:
    """Collects one trial per task, tasks in parallel."""
    params = meta.learner.init(jax.random.key(config.seed))
    one = lambda task, key: collect(meta.learner, params, family.env, task, key, meta.plan)  # noqa: E731
    program = jax.jit(lambda tasks, keys: jax.vmap(one)(tasks, keys).rounds.reward)
    keys = jax.random.split(jax.random.key(1), config.num_tasks)
    tasks = jax.vmap(family.sample)(keys)
    return lambda: jax.block_until_ready(program(tasks, keys))


def learn(config: Config) -> dict[str, Any]:
    """Trains RL² on ML1 and evaluates it on the held-out goals; returns the learning curve."""
    begun = time.perf_counter()
    family, meta = build(config)
    state = train.init_state(meta, jax.random.key(config.seed))
    update = train.make_chunk(meta, config.evaluate_every)
    held_out = MetaWorldTask(jnp.arange(GOALS, 2 * GOALS))

    def evaluated(family: jm.TaskFamily, plan: jm.Plan) -> Any:
        return jm.evaluate(meta.learner, state.params, family, held_out, jax.random.key(7), plan, deterministic=True)

    curve, steps = [], 0.0
    while True:
        report = evaluated(family, meta.plan)
        by_episode = {"success": report.success()[0], "return": report.by_round_and_episode()[0]}
        point = {name: [one["mean"] for one in values] for name, values in by_episode.items()}
        point |= {"update": int(state.step), "env_steps": steps, "minutes": (time.perf_counter() - begun) / 60}
        curve.append(point)
        print(point, file=sys.stderr, flush=True)
        if point["minutes"] > config.learn_minutes:
            break
        state, metrics = update(state)
        steps += float(jnp.sum(metrics["env_steps"]))
    return {"curve": curve, "skipped": int(state.skipped)} | both_rates(config, meta.plan, evaluated)


def both_rates(config: Config, plan: jm.Plan, evaluated: Callable[[jm.TaskFamily, jm.Plan], Any]) -> dict[str, Any]:
    """Returns the unbiased success rate of three episodes after a trial, and what Meta-World would report for it."""
    family, _ = build(config, end_on_success=True)
    report = evaluated(family, dataclasses.replace(plan, episodes=plan.episodes + 3))
    lengths, successes = (np.asarray(leaf)[:48, -1, 0, -3:] for leaf in (report.lengths, report.successes))
    return {"success_unbiased": float(successes.mean()), "success_first_to_end": first_to_end(lengths, successes)}


def main(argv: list[str] | None = None) -> None:
    config = tyro.cli(Config, args=argv, description=__doc__)
    record = learn(config) if config.learn_minutes else measure(config)
    sizes = {name: value for name, value in dataclasses.asdict(config).items() if name not in ("json", "out")}
    record |= {"algo": "rl2", "tasks": "metaworld ML1", "sizes": sizes} | provenance()
    record["versions"] |= {name: metadata.version(name) for name in ("metaworld", "mujoco", "gymnasium")}
    if not publish(record, config.out, config.json):
        for name, value in record.items():
            if name not in ("repeats_s", "curve"):
                print(f"{name:>24}  {value:,.3f}" if isinstance(value, float) else f"{name:>24}  {value}")


if __name__ == "__main__":
    main(sys.argv[1:])
