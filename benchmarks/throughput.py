"""Environment steps per second of whole meta-updates, compared with the bare physics in the same process.

    python -m benchmarks.throughput --algo maml --tasks half-cheetah-vel [--json]
    python -m benchmarks.throughput --tasks bandit --episodes 100
    python -m benchmarks.throughput --tasks sequence

All programs are compiled first and then timed in turns, so that other load on the machine affects them equally; medians
are reported. `--tasks sequence` measures gradients over long trials instead: SNAIL's parallel form against stepping,
the LRU and fast weights against the GRU, and how the memory of each grows with the length of the trial.
"""

from __future__ import annotations

import dataclasses
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import tyro

from benchmarks.record import publish
from benchmarks.sequence import SequenceConfig, measure_sequence
from benchmarks.turns import peak_memory, stateful, take_turns
from jaxmeta import devices
from jaxmeta.core import train
from jaxmeta.core.rollout import stepping_chunk
from jaxmeta.experiment import registry
from jaxmeta.experiment.provenance import provenance


@dataclasses.dataclass(frozen=True)
class ThroughputConfig:
    """Sizes of the measurement; by default MAML on half-cheetah, RL² on bandits and MDPs, VariBAD on GridNavi."""

    algo: str | None = None
    """Registered algorithm; by default rl2 on bandit and tabular, varibad on grid-navigation, else maml."""
    tasks: str = "half-cheetah-vel"
    """Registered task family, or `sequence` for gradients over long trials."""
    num_tasks: int | None = None
    """Tasks per meta-update; by default 1,024 on bandit and tabular, 128 on grid-navigation, else 20."""
    streams: int = 20
    """Streams per task, for algorithms with this field."""
    episodes: int | None = None
    """Episodes per trial, for algorithms with this field; by default the family's."""
    horizon: int | None = None
    """Steps per episode, for families with this field; by default the family's for these algorithms, else 100."""
    updates: int = 2
    """Meta-updates per turn."""
    repeats: int = 5
    """Timed turns of every program."""
    json: bool = False
    """Print one JSON object and nothing else."""
    out: Path | None = None
    """Also write the JSON to this file."""
    sequence: SequenceConfig = SequenceConfig()
    """Sizes with `--tasks sequence`."""

    def filled(self) -> ThroughputConfig:
        """Fills in the defaults that depend on the family."""
        usual: dict[str, Any] = {"algo": "maml", "num_tasks": 20, "horizon": 100}
        if self.tasks in ("bandit", "tabular"):
            usual = {"algo": "rl2", "num_tasks": 1024}
        if self.tasks == "grid-navigation":
            usual = {"algo": "varibad", "num_tasks": 128}
        return dataclasses.replace(self, **{name: usual[name] for name in usual if getattr(self, name) is None})


def with_fields(config: Any, **values: Any) -> Any:
    """Sets the given values that are not None, where the config has the field."""
    names = {field.name for field in dataclasses.fields(config)}
    given = {name: value for name, value in values.items() if name in names and value is not None}
    return dataclasses.replace(config, **given)


def raw_program(env: Any, plan: Any, num_tasks: int, spread: bool) -> Callable:
    """Builds the bare physics of one round of a meta-update: random actions, no policy, nothing stored.

    Args:
      spread: whether to use the engine (tasks sharded over devices, streams in cache-sized chunks); else one jitted
        scan of `vmap(env.step)` over the whole batch, with Brax's own step for Brax families.
    """

    def random_action(key, batch):
        example = env.spec.action.example()
        if example.dtype == jnp.int32:
            return jax.random.randint(key, batch, 0, env.spec.action.num)
        return jax.random.uniform(key, (*batch, *example.shape), minval=-1.0, maxval=1.0)

    length = plan.episodes * env.spec.horizon

    def roll(task, key):
        reset_key, steps_key = jax.random.split(key)
        state, _ = jax.vmap(env.reset, (0, None))(jax.random.split(reset_key, plan.streams), task)

        def step(state, key):
            action_key, env_key = jax.random.split(key)
            action, keys = random_action(action_key, (plan.streams,)), jax.random.split(env_key, plan.streams)
            state, outcome = jax.vmap(env.step, (0, 0, 0, None))(keys, state, action, task)
            return state, outcome.reward.sum() + outcome.obs.sum()

        return jax.lax.scan(step, state, jax.random.split(steps_key, length))[1].sum()

    def plain(tasks, keys):
        batch = num_tasks * plan.streams
        body = getattr(env, "body", None)
        keys = jax.random.split(keys[0], batch)
        spread_tasks = jax.tree.map(lambda leaf: jnp.repeat(leaf, plan.streams, 0), tasks)
        state = jax.vmap(body.reset)(keys) if body else jax.vmap(env.reset)(keys, spread_tasks)[0]

        def step(state, key):
            action = random_action(key, (batch,))
            if body:
                state = jax.vmap(body.step)(state, action)
                return state, state.reward.sum() + state.obs.sum()
            state, outcome = jax.vmap(env.step)(jax.random.split(key, batch), state, action, spread_tasks)
            return state, outcome.reward.sum() + outcome.obs.sum()

        return jax.lax.scan(step, state, jax.random.split(keys[0], length))[1].sum()

    if not spread:
        return jax.jit(plain)

    def engine(tasks, keys):
        chunk = stepping_chunk(env, tasks, plan)
        mesh = devices.Execution().mesh(num_tasks)
        return devices.map_over_tasks(lambda _, one: roll(*one), mesh, chunk)((), (tasks, keys))

    return jax.jit(engine)


def measure(config: ThroughputConfig) -> dict[str, Any]:
    """Compiles and times all programs; returns the record that is printed."""
    config = config.filled()
    assert config.algo is not None and config.num_tasks is not None
    algo, algo_config = registry.find_algo(config.algo, config.tasks).load()
    make_family, family_config = registry.find("task family", registry.TASKS, config.tasks).load()
    family = make_family(with_fields(family_config(), horizon=config.horizon))
    base = with_fields(algo_config(), num_tasks=config.num_tasks, streams=config.streams, episodes=config.episodes)
    # by the order of the meta-gradient, for algorithms with this field
    variants = {"update": base}
    if hasattr(base, "backward"):
        variants = {"second": base, "first": dataclasses.replace(base, backward="first-order")}
    whole = next(iter(variants))

    compile_s, programs = {}, {}
    for name, variant in variants.items():
        meta = algo(family, variant)
        state = train.init_state(meta, jax.random.key(0))
        begun = time.perf_counter()
        compiled = train.make_chunk(meta, config.updates)
        state, _ = jax.block_until_ready(compiled(state, 0))  # compiles, without an update
        compile_s[name] = time.perf_counter() - begun
        programs[name] = stateful(compiled, state)
    plan = algo(family, base).plan
    tasks = jax.vmap(family.sample)(jax.random.split(jax.random.key(1), config.num_tasks))
    keys = jax.random.split(jax.random.key(2), config.num_tasks)
    for name in ("raw", "plain"):
        program = raw_program(family.env, plan, config.num_tasks, spread=name == "raw")
        programs[name] = lambda program=program: jax.block_until_ready(program(tasks, keys))

    seconds = take_turns(programs, config.repeats)
    median = {name: statistics.median(values) for name, values in seconds.items()}
    round_steps = config.num_tasks * plan.streams * plan.episodes * family.env.spec.horizon
    meta_steps = round_steps * (plan.rounds + 1) * config.updates
    record = {
        "meta_steps_per_s": meta_steps / median[whole],
        "raw_steps_per_s": round_steps / median["raw"],
        "plain_raw_steps_per_s": round_steps / median["plain"],
        "physics_share": (meta_steps / median[whole]) / (round_steps / median["raw"]),
        "raw_over_plain": median["plain"] / median["raw"],
        "second_order_ratio": median["second"] / median["first"] if "first" in median else None,
        "compile_s": compile_s[whole],
        "peak_memory_bytes": peak_memory(),
        "update_s": median[whole] / config.updates,
        "repeats_s": seconds,
    }
    sizes = {"rounds": plan.rounds + 1, "episodes": plan.episodes, "horizon": family.env.spec.horizon}
    sizes |= {"num_tasks": config.num_tasks, "streams": plan.streams, "updates_per_turn": config.updates}
    return record | {"algo": config.algo, "tasks": config.tasks, "sizes": sizes} | provenance()


def main(argv: list[str] | None = None) -> None:
    config = tyro.cli(ThroughputConfig, args=argv, description=__doc__)
    devices.use_cpu_cores()
    sequence = config.tasks == "sequence"
    record = measure_sequence(config.sequence, config.repeats) if sequence else measure(config)
    if publish(record, config.out, config.json):
        return
    lines = _lines({name: value for name, value in record.items() if name != "repeats_s"})
    width = max(map(len, lines))
    for name, value in lines.items():
        print(f"{name:>{width}}  {value:,.3f}" if isinstance(value, float) else f"{name:>{width}}  {value}")


def _lines(record: dict[str, Any]) -> dict[str, Any]:
    """Flattens groups of measurements, so that each has its own line and full name."""
    lines = {}
    for name, value in record.items():
        group = isinstance(value, dict) and any(isinstance(one, dict | float) for one in value.values())
        lines |= {f"{name}.{inner}": one for inner, one in _lines(value).items()} if group else {name: value}
    return lines


if __name__ == "__main__":
    main(sys.argv[1:])
