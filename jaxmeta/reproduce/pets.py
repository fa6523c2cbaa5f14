"""PETS on cart-poles of unknown length and mass, beside the same planner with the true dynamics and random actions."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jaxmeta as jm
from jaxmeta.reproduce.base import Computed, Required, Row, Run, Table
from jaxmeta.reproduce.statistics import named, worst_seed

SEEDS = 3
TRIALS = 10
"""Episodes of a trial; the first explores."""
TOLD = (1, 2, 3, 5, 8, 10)
"""Episodes in the table, from 1."""
NAMES = ("position (m)", "velocity (m/s)", "cos of the angle", "sin of the angle", "angular velocity (rad/s)")
PICTURED = 5
"""Episodes of the trial that is drawn."""
AHEAD = 25
"""Steps of the pictures' predictions."""


class Setting(NamedTuple):
    """One group of the table."""

    family: Any
    config: Any
    num_tasks: int


def setting(name: str) -> Setting:
    """Returns the tasks and the agent of a group."""
    if name == "double-integrator":
        planner = dataclasses.replace(jm.PETSConfig.planner, horizon=4, candidates=100, iterations=8)
        config = jm.PETSConfig(episodes=6, members=3, hidden=(32, 32), planner=planner)
        return Setting(jm.tasks.double_integrator(), config, 3)
    # a step of 0.04 s and an episode of 4 s, as PILCO's
    tasks = jm.tasks.CartPoleSwingUpConfig(horizon=100, reward="angle", repeat=2)
    config = jm.PETSConfig(episodes=TRIALS, learn_reward=name == "learned-reward")
    return Setting(jm.tasks.cart_pole_swing_up(tasks), config, 10)


def measure(name: str, seeds: int) -> dict[str, list[float]]:
    """Computes the returns of a group, a mean over tasks for every seed.

    Returns:
      By name, lists of one number per seed: the returns of every episode of PETS, and in the swing-up those of the
      planner with the true dynamics and of random actions, and the last episode relative to them.
    """
    import jax

    from jaxmeta.algos.models import pets
    from jaxmeta.references import base, planner

    family, config, num_tasks = setting(name)
    agent, _ = pets.agent(family, config)
    spec = family.env.spec
    oracle = planner.oracle(family.env, config.planner.build(family))
    agents = {
        "episode": (agent, family, jm.Plan(config.rounds, config.streams)),
        "true dynamics": (oracle, planner.with_state(family), jm.Plan()),
        "random": (base.undirected(spec.action), family, jm.Plan()),
    }
    found: dict[str, list[float]] = {}
    for seed in range(seeds):
        init_key, task_key, key = jax.random.split(jax.random.key(seed), 3)
        tasks = jax.vmap(family.sample_test)(jax.random.split(task_key, num_tasks))
        for what, (learner, seen, plan) in agents.items():
            report = jm.evaluate(learner, learner.init(init_key), seen, tasks, key, plan)
            for index, value in enumerate(report.returns.mean((0, 2, 3))):
                found.setdefault(f"episode {index + 1}" if what == "episode" else what, []).append(float(value))
    last = found[f"episode {config.episodes}"]
    found["share of the true dynamics"] = [ours / best for ours, best in zip(last, found["true dynamics"], strict=True)]
    found["gain over random"] = [ours - other for ours, other in zip(last, found["random"], strict=True)]
    found["times random"] = [ours / other for ours, other in zip(last, found["random"], strict=True)]
    return found


def _rows(told: tuple[int, ...], others: dict[str, Required | None]) -> tuple[Row, ...]:
    rows = [Row(named(f"episode {episode}"), f"episode {episode}") for episode in told]
    for name, required in others.items():
        rows.append(Row(named(name), name))
        if required is not None:
            rows.append(Row(worst_seed(name, largest=False), f"{name} (worst seed)", required=required))
    return tuple(rows)


def _runs() -> Iterator[Run]:
    beside: dict[str, Required | None] = {"true dynamics": None, "random": None}
    groups: dict[str, tuple[tuple[int, ...], dict[str, Required | None]]] = {
        "known-reward": (
            TOLD,
            beside | {"share of the true dynamics": Required(least=0.7), "times random": Required(least=10.0)},
        ),
        "learned-reward": (TOLD, beside | {"gain over random": Required(least=0.0)}),
        "double-integrator": (tuple(range(1, 6)), beside | {"episode 6": Required(least=-0.0005)}),
    }
    for name, (told, others) in groups.items():
        count = SEEDS * setting_size(name)
        yield Computed(f"{name}/pets", measure, {"name": name, "seeds": SEEDS}, count, rows=_rows(told, others))


def setting_size(name: str) -> int:
    """Returns the number of tasks of a group, without building it."""
    return 3 if name == "double-integrator" else 10


def _pictures(folders: Mapping[str, Path]) -> dict[str, Any]:
    """Draws true and imagined trajectories of one swing-up, of the model after the first and the last refit."""
    from jaxmeta.viz import dynamics

    true, imagined = _imagined()
    note = f"{AHEAD} steps of an episode, from step {AHEAD} on, as predicted from the observation before"
    return {"predictions": dynamics.predictions(true, imagined, NAMES, "Cart-pole swing-up: ensemble of PETS", note)}


@functools.cache
def _imagined() -> tuple[Any, list[tuple[str, Any]]]:
    import jax
    import numpy as np

    from jaxmeta.algos.models import pets
    from jaxmeta.core.rollout import collect, replay_fast
    from jaxmeta.viz import dynamics

    family, config, _ = setting("known-reward")
    config = dataclasses.replace(config, episodes=PICTURED)
    agent, model = pets.agent(family, config)

    @jax.jit
    def run(key):
        task_key, init_key, key = jax.random.split(key, 3)
        params = agent.init(init_key)
        trial = collect(agent, params, family.env, family.sample_test(task_key), key, jm.Plan(config.rounds))
        fast = replay_fast(agent, params, trial)
        last = jax.tree.map(lambda leaf: leaf[-1, :, 0], trial.rounds.replace(output=(), reset_key=()))
        start = last.inputs.obs[AHEAD]
        actions = last.action[AHEAD : 2 * AHEAD]

        def paths(index):
            model_then, statistics = jax.tree.map(lambda leaf: leaf[index], (fast.model, fast.statistics))
            return dynamics.imagined_trajectories(family.env.spec, model, model_then, statistics, start, actions, key)

        return last.next_obs[AHEAD : 2 * AHEAD], [paths(index) for index in (1, config.rounds)]

    true, paths = jax.device_get(run(jax.random.key(0)))
    labels = ("after 1 episode", f"after {config.rounds} episodes")
    return true, list(zip(labels, map(np.asarray, paths), strict=True))


TABLE = Table(
    "pets",
    title="PETS: return by episode of a trial, mean over tasks of unknown physics",
    source="no published numbers for these tasks; required of every seed: 0.7 of the same planner with the true"
    " dynamics and 10 times random actions; optimum of the double integrator: 0",
    runs=tuple(_runs()),
    quick=("double-integrator",),
    pictures=_pictures,
)
