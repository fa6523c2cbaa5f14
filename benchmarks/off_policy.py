"""Gradient steps per second of PEARL's update phase, and the memory of a stored transition.

    python -m benchmarks.off_policy [--json]

The sizes are those of the paper on half-cheetah. The environment is a dummy with observations and actions of the same
sizes, so that the update phase dominates: one compiled scan that samples batches and updates all networks, without
communication with the host. It is timed in turns with the matrix products between hidden layers alone, a lower bound.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import tyro

import jaxmeta as jm
from benchmarks.record import publish
from benchmarks.turns import peak_memory, stateful, take_turns
from jaxmeta import devices, outer
from jaxmeta.core import train
from jaxmeta.experiment.provenance import provenance
from jaxmeta.rl import replay
from jaxmeta.tasks.base import TaskFamily
from jaxmeta.types import Array, Continuous, Key, Spec, Step


@dataclasses.dataclass(frozen=True)
class OffPolicyBenchmark:
    """Sizes of the measurement; the defaults are PEARL's on half-cheetah-vel."""

    meta_batch: int = 16
    """Tasks per gradient step."""
    batch_size: int = 256
    """Transitions per task."""
    context_batch: int = 100
    """Transitions per task for the encoder."""
    hidden: int = 300
    """Width of the three hidden layers of actor and critics."""
    observation: int = 20
    """Length of an observation."""
    action: int = 6
    """Length of an action."""
    num_train_tasks: int = 100
    """Training tasks."""
    replay_capacity: int = 10_000
    """Transitions stored per task; with 100 tasks, a million in all."""
    gradient_steps: int = 20
    """Gradient steps per update."""
    devices: int | None = None
    """CPU devices; by default one per core."""
    repeats: int = 5
    """Timed updates; the median is reported."""
    json: bool = False
    """Print one JSON object and nothing else."""
    out: Path | None = None
    """Also write the JSON to this file."""


LAYERS = 3
PASSES = (1 + 3) + 2 * (1 + 3 + 2)
"""Passes of all transitions through a network per gradient step; a backward pass counts as two. The policy has one
pass at the next observation and three for its gradient; each critic has one for the target, three for its gradient, and
two for the policy's gradient."""


@dataclasses.dataclass(frozen=True)
class StandIn:
    """A dummy environment with observations and actions of the right sizes and negligible cost."""

    observation: int
    action: int

    @property
    def spec(self) -> Spec:
        return Spec(observation=(self.observation,), action=Continuous(self.action), horizon=200)

    def reset(self, key: Key, task: Array) -> tuple[Array, Array]:
        obs = jax.random.normal(key, (self.observation,))
        return obs, obs

    def step(self, key: Key, state: Array, action: Array, task: Array) -> tuple[Array, Step]:
        obs = 0.9 * state + action.mean()
        return obs, Step(obs=obs, reward=-jnp.abs(obs[0] - task), terminated=jnp.array(False))


def num_products(config: OffPolicyBenchmark) -> int:
    """Counts the matrix products between hidden layers in an update, each of all transitions of a gradient step."""
    return config.gradient_steps * PASSES * (LAYERS - 1)


def bare_products(config: OffPolicyBenchmark, mesh: jax.sharding.Mesh) -> Callable[[], object]:
    """Builds a program of only the matrix products between hidden layers in an update."""
    count = num_products(config)
    weights = jnp.eye(config.hidden)

    def multiply(weights: Array, rows: Array) -> tuple[Array, tuple[()]]:
        rows = rows.reshape(-1, config.hidden)
        return devices.task_mean(jax.lax.fori_loop(0, count, lambda _, rows: rows @ weights, rows).mean(0)), ()

    program = jax.jit(lambda weights, rows: devices.over_tasks(multiply, weights, rows)[0])
    rows = jax.random.normal(jax.random.key(0), (config.meta_batch, config.batch_size, config.hidden))

    def run() -> object:
        with jax.set_mesh(mesh):
            return jax.block_until_ready(program(weights, rows))

    return run


def products_flop(config: OffPolicyBenchmark) -> int:
    """Returns the operations of `bare_products`."""
    return 2 * num_products(config) * config.meta_batch * config.batch_size * config.hidden**2


def filled(config: OffPolicyBenchmark) -> tuple[jm.MetaLearner, Callable[[], None]]:
    """Compiles PEARL and fills its replay buffers; returns it, and a function that does one update."""
    env = StandIn(config.observation, config.action)
    family = TaskFamily(env, jax.random.normal, jax.random.normal, lambda task: task[None])
    meta = jm.pearl(
        family,
        jm.PEARLConfig(
            num_train_tasks=config.num_train_tasks,
            tasks_per_update=4,
            hidden=(config.hidden,) * LAYERS,
            context_batch=config.context_batch,
            sac=outer.OffPolicyConfig(
                gradient_steps=config.gradient_steps,
                meta_batch=config.meta_batch,
                batch_size=config.batch_size,
                replay_capacity=config.replay_capacity,
            ),
        ),
    )
    state = train.init_state(meta, jax.random.key(0))
    compiled = train.make_chunk(meta, 1)
    while int(state.step) < config.num_train_tasks // 4:  # the warm-up visits every task once
        state, _ = compiled(state)
    return meta, stateful(compiled, state)


def measure(config: OffPolicyBenchmark) -> dict[str, Any]:
    """Times updates; returns the record that is printed."""
    meta, update = filled(config)
    mesh = jm.Execution().mesh(meta.info.spread)
    turns = take_turns({"update": update, "products": bare_products(config, mesh)}, config.repeats)
    seconds, bare = (statistics.median(turns[name]) for name in ("update", "products"))
    flop = products_flop(config)
    layout = replay.transition_rows(StandIn(config.observation, config.action).spec)
    return {
        "gradient_steps_per_s": config.gradient_steps / seconds,
        "most_gradient_steps_per_s": config.gradient_steps / bare,
        "products_flop_per_s": flop / bare,
        "bytes_per_transition": replay.bytes_per_transition(layout),
        "replay_bytes": devices.tree_bytes(jm.state_form(meta).source["transitions"]),
        "update_s": seconds,
        "repeats_s": turns,
        "peak_memory_bytes": peak_memory(),
        "num_devices": mesh.size,
        "sizes": {
            name: value for name, value in dataclasses.asdict(config).items() if name not in ("json", "out", "repeats")
        },
    } | provenance()


def main(argv: list[str] | None = None) -> None:
    config = tyro.cli(OffPolicyBenchmark, args=argv, description=__doc__)
    devices.use_cpu_cores(config.devices)
    record = measure(config)
    if publish(record, config.out, config.json):
        return
    print(f"{record['gradient_steps_per_s']:.1f} meta-gradient steps/s on {record['num_devices']} devices")
    speed = f"{record['products_flop_per_s'] / 1e9:.0f} GFLOP/s"
    print(
        f"{record['most_gradient_steps_per_s']:.1f} if there were only the products of hidden layers, done at {speed}"
    )
    print(f"{record['bytes_per_transition']} bytes per transition, {record['replay_bytes'] / 1e6:.0f} MB in all")


if __name__ == "__main__":
    main()
