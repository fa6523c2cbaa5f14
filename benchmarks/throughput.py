"""How many environment steps per second whole meta-updates do, beside the bare physics in the same process.

    python -m benchmarks.throughput --algo maml --tasks half-cheetah-vel [--json]

All programs are compiled first; then they take turns, so that whatever else the machine does hits them alike, and the
median of the turns counts.
"""

from __future__ import annotations

import dataclasses
import json
import resource
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jaxmeta.provenance import provenance


@dataclasses.dataclass(frozen=True)
class ThroughputConfig:
    """Sizes of the measurement; the defaults are those of MAML on half-cheetah."""

    algo: str = "maml"
    """Registered algorithm."""
    tasks: str = "half-cheetah-vel"
    """Registered task family."""
    num_tasks: int = 20
    """Tasks per meta-update."""
    streams: int = 20
    """Streams per task, for algorithms that have them."""
    horizon: int = 100
    """Steps of an episode, for families that have it."""
    updates: int = 2
    """Meta-updates in one turn."""
    repeats: int = 5
    """Turns of every program."""
    json: bool = False
    """Print one JSON object and nothing else."""
    out: Path | None = None
    """Also write the JSON to this file."""


def with_fields(config: Any, **values: Any) -> Any:
    """Replaces those fields that a config has."""
    names = {field.name for field in dataclasses.fields(config)}
    return dataclasses.replace(config, **{name: value for name, value in values.items() if name in names})


def raw_program(env: Any, plan: Any, num_tasks: int, spread: bool) -> Callable:
    """Builds the bare physics of one round of a meta-update: random actions, no policy, nothing kept.

    Args:
      spread: through the engine (tasks over devices, streams in cache-sized chunks); else one plain jitted scan of
        `vmap(env.step)` over the whole batch, with Brax's own step for Brax families.
    """
    import jax
    import jax.numpy as jnp

    from jaxmeta.core import parallel
    from jaxmeta.core.rollout import stepping_chunk

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
        return parallel.map_over_tasks(lambda _, one: roll(*one), num_tasks, chunk)((), (tasks, keys))

    return jax.jit(engine)


def measure(config: ThroughputConfig) -> dict[str, Any]:
    """Compiles and times all programs; returns the record that is printed."""
    import jax

    from jaxmeta import registry
    from jaxmeta.core import train

    algo, algo_config = registry.find("algorithm", registry.ALGOS, config.algo).load()
    make_family, family_config = registry.find("task family", registry.TASKS, config.tasks).load()
    family = make_family(with_fields(family_config(), horizon=config.horizon))
    base = with_fields(algo_config(), num_tasks=config.num_tasks, streams=config.streams)
    variants = {"second": base}
    if hasattr(base, "first_order"):
        variants["first"] = dataclasses.replace(base, first_order=True)

    compile_s, programs = {}, {}
    for name, variant in variants.items():
        meta = algo(family, variant)
        state = train.init_state(meta, jax.random.key(0))
        begun = time.perf_counter()
        compiled = train.make_chunk(meta, config.updates).lower(state).compile()
        compile_s[name] = time.perf_counter() - begun
        programs[name] = _stateful(compiled, state)
    plan = algo(family, base).plan
    tasks = jax.vmap(family.sample)(jax.random.split(jax.random.key(1), config.num_tasks))
    keys = jax.random.split(jax.random.key(2), config.num_tasks)
    for name in ("raw", "plain"):
        program = raw_program(family.env, plan, config.num_tasks, spread=name == "raw")
        programs[name] = lambda program=program: jax.block_until_ready(program(tasks, keys))

    seconds: dict[str, list[float]] = {name: [] for name in programs}
    for turn in range(config.repeats + 1):
        for name, program in programs.items():
            begun = time.perf_counter()
            program()
            if turn:  # the first turn warms up
                seconds[name].append(time.perf_counter() - begun)
    median = {name: statistics.median(values) for name, values in seconds.items()}
    round_steps = config.num_tasks * plan.streams * plan.episodes * family.env.spec.horizon
    meta_steps = round_steps * (plan.rounds + 1) * config.updates
    record = {
        "meta_steps_per_s": meta_steps / median["second"],
        "raw_steps_per_s": round_steps / median["raw"],
        "plain_raw_steps_per_s": round_steps / median["plain"],
        "physics_share": (meta_steps / median["second"]) / (round_steps / median["raw"]),
        "raw_over_plain": median["plain"] / median["raw"],
        "second_order_ratio": median["second"] / median["first"] if "first" in median else None,
        "compile_s": compile_s["second"],
        "peak_memory_bytes": _peak_memory(),
        "update_s": median["second"] / config.updates,
        "repeats_s": seconds,
    }
    sizes = {"rounds": plan.rounds + 1, "episodes": plan.episodes, "horizon": family.env.spec.horizon}
    sizes |= {"num_tasks": config.num_tasks, "streams": plan.streams, "updates_per_turn": config.updates}
    return record | {"algo": config.algo, "tasks": config.tasks, "sizes": sizes} | provenance()


def _stateful(compiled: Callable, state: Any) -> Callable[[], None]:
    """Makes a program that goes on from where it stopped: meta-updates consume their state."""
    import jax

    holder = [state]

    def run() -> None:
        holder[0], metrics = compiled(holder[0])
        jax.block_until_ready((holder[0].params, metrics))

    return run


def _peak_memory() -> int:
    """Returns the device's peak where it tells, else that of the process."""
    import jax

    stats = jax.devices()[0].memory_stats() or {}
    return stats.get("peak_bytes_in_use") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main(argv: list[str] | None = None) -> None:
    import tyro

    config = tyro.cli(ThroughputConfig, args=argv, description=__doc__)
    from jaxmeta.core import parallel

    parallel.use_cpu_cores()
    record = measure(config)
    text = json.dumps(record, indent=2)
    if config.out is not None:
        config.out.parent.mkdir(parents=True, exist_ok=True)
        config.out.write_text(text + "\n")
    if config.json:
        print(text)
        return
    for name, value in record.items():
        if name != "repeats_s":
            print(f"{name:>22}  {value:,.3f}" if isinstance(value, float) else f"{name:>22}  {value}")


if __name__ == "__main__":
    main(sys.argv[1:])
