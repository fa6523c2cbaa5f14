"""RL² with each sequence model: return after equal training time, and steps per second beside the GRU.

    python -m benchmarks.cells --tasks bandit --seconds 300 [--json]

All cells train in turns in one process, so that they share whatever else the machine does: a turn is some updates of
each, until a cell has trained for its time. Compilation is not counted. The speed of a cell over that of the GRU is the
median over the turns of both.
"""

from __future__ import annotations

import dataclasses
import statistics
import time
from pathlib import Path
from typing import Any, Literal

import jax
import tyro

import jaxmeta as jm
from benchmarks.record import publish
from benchmarks.turns import peak_memory
from jaxmeta import devices
from jaxmeta.config import checks
from jaxmeta.core.rollout import carry_bytes
from jaxmeta.core.train import make_chunk
from jaxmeta.experiment.provenance import provenance

CELLS = ("gru", "associative", "transformer", "s5", "mamba", "mlstm")
LEARNING_RATES = {"gru": 3e-3, "associative": 4e-3}
"""As in the reproduction of the bandits; by default 1e-3."""
ENTROPY = {"bandit": 0.05, "tabular": 0.2}
"""Weight of the entropy bonus, not annealed: the number of updates is not known beforehand."""


@dataclasses.dataclass(frozen=True)
class CellsBenchmark:
    """Sizes of the measurement."""

    tasks: Literal["bandit", "tabular"] = "bandit"
    """bandit: 5 arms, 100 pulls. tabular: 10 states, 5 actions, 10 episodes of 10 steps."""
    seconds: float = 300.0
    """Training time of each cell."""
    cells: tuple[str, ...] = CELLS
    """The first is the one that the others are compared with."""
    num_tasks: int = 256
    """Trials per update."""
    episodes: int | None = None
    """Episodes per trial; by default those of the tasks."""
    hidden: int = 64
    """Size of the recurrent state, or width of the layers."""
    updates: int = 5
    """Updates per turn."""
    eval_tasks: int = 4096
    """Held-out tasks, with one trial each."""
    seed: int = 0
    """Seed of training; that of the evaluation is fixed."""
    json: bool = False
    """Print one JSON object and nothing else."""
    out: Path | None = None
    """Also write the JSON to this file."""

    def __post_init__(self):
        checks.positive(self, "seconds")
        checks.at_least_one(self, "num_tasks", "episodes", "hidden", "updates", "eval_tasks")


class _Cell:
    """One RL² agent in training."""

    def __init__(self, cell: str, family: jm.TaskFamily, config: CellsBenchmark):
        ppo = dataclasses.replace(
            jm.RL2Config.ppo,
            minibatches=4,
            learning_rate=LEARNING_RATES.get(cell, 1e-3),
            entropy_weight=ENTROPY[config.tasks],
        )
        algo = jm.RL2Config(
            cell=cell,  # pyright: ignore[reportArgumentType]  checked when it is built
            hidden=config.hidden,
            num_tasks=config.num_tasks,
            episodes=config.episodes,
            ppo=ppo,
        )
        self.family, self.meta, self.turn = family, jm.rl2(family, algo), config.updates
        self.done, self.turns_s = 0, list[float]()
        # not `jm.train`: it keeps few compiled programs, and in turns it would compile each again and again
        self.program = make_chunk(self.meta, self.turn)
        begun = time.perf_counter()
        jax.block_until_ready(self.program(self.start(config), self.turn))
        self.first_turn_s = time.perf_counter() - begun
        self.state = self.start(config)

    def start(self, config: CellsBenchmark) -> jm.TrainState:
        """Returns the state before the first update."""
        return jm.init_state(self.meta, jax.random.key(config.seed))

    def train(self) -> None:
        """Trains for one turn."""
        begun = time.perf_counter()
        self.state, _ = jax.block_until_ready(self.program(self.state, self.turn))
        self.done += self.turn
        self.turns_s.append(time.perf_counter() - begun)

    def record(self, config: CellsBenchmark) -> dict[str, Any]:
        """Evaluates the agent, with sampled actions as in training."""
        params, plan, learner = self.state.params, self.meta.plan, self.meta.learner
        task_key, key = jax.random.split(jax.random.key(1))
        tasks = jax.vmap(self.family.sample_test)(jax.random.split(task_key, config.eval_tasks))
        steps = config.num_tasks * plan.episodes * self.family.env.spec.horizon
        return {
            "return": jm.evaluate(learner, params, self.family, tasks, key, plan).trial_return(),
            "updates": self.done,
            "env_steps": self.done * steps,
            "train_s": sum(self.turns_s),
            "first_turn_s": self.first_turn_s,
            "steps_per_s": self.turn * steps / statistics.median(self.turns_s),
            "memory_bytes": carry_bytes(learner, params),
            "params": sum(leaf.size for leaf in jax.tree.leaves(params)),
        }


def measure(config: CellsBenchmark) -> dict[str, Any]:
    """Trains all cells; returns the record that is printed."""
    family = jm.tasks.tabular()
    if config.tasks == "bandit":
        family = jm.tasks.bandit(jm.tasks.BanditConfig(num_arms=5, num_pulls=100))
    cells = {cell: _Cell(cell, family, config) for cell in config.cells}
    while waiting := [cell for cell in cells.values() if sum(cell.turns_s) < config.seconds]:
        for cell in waiting:
            cell.train()
    record = {name: cell.record(config) for name, cell in cells.items()}
    first = cells[config.cells[0]]
    for name, cell in cells.items():
        both = zip(first.turns_s, cell.turns_s, strict=False)  # a slow cell has fewer turns
        record[name][f"speed_over_{config.cells[0]}"] = statistics.median(one / other for one, other in both)
    sizes = {name: value for name, value in dataclasses.asdict(config).items() if name not in ("json", "out")}
    turns = {name: cell.turns_s for name, cell in cells.items()}
    return {"cells": record, "sizes": sizes, "peak_memory_bytes": peak_memory(), "repeats_s": turns} | provenance()


def main(argv: list[str] | None = None) -> None:
    config = tyro.cli(CellsBenchmark, args=argv, description=__doc__)
    devices.use_cpu_cores()
    record = measure(config)
    if publish(record, config.out, config.json):
        return
    for name, one in record["cells"].items():
        print(
            f"{name:12} return {one['return']['mean']:7.1f} after {one['updates']:5} updates,"
            f" {one['steps_per_s']:9,.0f} steps/s, {one['memory_bytes']:7,} bytes per stream"
        )


if __name__ == "__main__":
    main()
