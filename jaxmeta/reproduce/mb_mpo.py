"""MB-MPO on one pendulum, beside MAML with as many real steps."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jaxmeta as jm
from jaxmeta.reproduce.base import Computed, Row, Table
from jaxmeta.reproduce.statistics import named

SEEDS = 3
HORIZON = 100
REAL_STEPS = 3000
REAL_TRIALS = 3
"""Real episodes per update of MB-MPO."""
STREAMS = 10
"""Episodes that an evaluated policy adapts to."""
EPISODES = 16
"""Evaluated trials."""
LOGGED = {
    "return/last": "real",
    "imagined/return/first": "imagined",
    "imagined/return/last": "imagined, adapted",
    "loss/model": "model",
}
"""Curves by metric."""


def tasks() -> Any:
    """Builds the only task: gymnasium's pendulum with twice its torque, and episodes of half its length."""
    one = {name: (value, value) for name, value in (("mass", 1.0), ("length", 1.0), ("gain", 2.0))}
    return jm.tasks.pendulum(jm.tasks.PendulumConfig(horizon=HORIZON, **one))


@functools.cache
def agents() -> dict[str, tuple[Any, int]]:
    """Builds MB-MPO and MAML; returns by name the meta-learner, and updates that take `REAL_STEPS` real steps."""
    family = tasks()
    trpo = jm.outer.TrustRegionConfig(max_kl=0.02)
    policy: dict[str, Any] = {"inner_lr": 0.05, "hidden": (32, 32), "action_scale": 2.0, "trace": 0.95, "trpo": trpo}
    model_based = jm.MBMPOConfig(num_tasks=6, streams=STREAMS, real_trials=REAL_TRIALS, init_log_std=-0.5, **policy)
    # as many updates as the steps allow, of five episodes before and five after the adaptation
    model_free = jm.MAMLConfig(num_tasks=1, streams=5, init_log_std=-0.5, **policy)
    return {
        "mb-mpo": (jm.mb_mpo(family, model_based), REAL_STEPS // (REAL_TRIALS * HORIZON)),
        "maml": (jm.maml(family, model_free), REAL_STEPS // (10 * HORIZON)),
    }


@functools.cache
def trained(name: str, seed: int) -> tuple[Any, dict[str, list[float]]]:
    """Meta-trains an agent, and returns its params and the metrics of all updates."""
    import jax

    meta, updates = agents()[name]
    metrics: dict[str, list[float]] = {}

    def log(update: int, state: Any, found: Any) -> None:
        for metric, values in found.items():
            metrics.setdefault(metric, []).extend(float(value) for value in values)

    state = jm.train(meta, jm.init_state(meta, jax.random.key(seed)), updates, callbacks=[log])
    return state.params, metrics


def measure(seeds: int) -> dict[str, list[float]]:
    """Computes returns on the real pendulum, before and after an adaptation to `STREAMS` real episodes.

    Returns:
      By name, lists of one number per seed.
    """
    import jax

    from jaxmeta.algos.models import planning
    from jaxmeta.references import planner

    family, found = tasks(), {}
    plans = planning.PlannerConfig("cem").build(family)
    for seed in range(seeds):
        task_key, key = jax.random.split(jax.random.key(1000 + seed))
        some = jax.vmap(family.sample_test)(jax.random.split(task_key, EPISODES))
        oracle, shown = planner.oracle(family.env, plans), planner.with_state(family)
        report = jm.evaluate(oracle, (), shown, some, key, jm.Plan())
        found.setdefault("true dynamics", []).append(float(report.returns.mean()))
        plan = jm.Plan(rounds=1, streams=STREAMS)
        for name, (meta, _) in agents().items():
            params, metrics = trained(name, seed)
            if name == "mb-mpo":
                initial = meta.learner.init(jax.random.key(seed))
                report = jm.evaluate(meta.learner, initial, family, some, key, plan)
                found.setdefault("untrained", []).append(float(report.returns[:, 0].mean()))
            report = jm.evaluate(meta.learner, params, family, some, key, plan)
            before, after = report.returns.mean((0, 2, 3))
            found.setdefault(f"{name}, before", []).append(float(before))
            found.setdefault(f"{name}, after", []).append(float(after))
            found.setdefault(f"{name}, real steps", []).append(sum(metrics["env_steps"]))
    gains = zip(found["mb-mpo, after"], found["maml, after"], strict=True)
    return found | {"gain over maml": [ours - other for ours, other in gains]}


def _pictures(folders: Mapping[str, Path]) -> dict[str, Any]:
    """Draws returns and the loss of the models over real steps."""
    import numpy as np

    from jaxmeta.viz import canvas

    figure = canvas.figure((9.0, 3.6))
    figure.suptitle(f"MB-MPO on a pendulum, {SEEDS} seeds", fontweight="bold")
    returns, losses = figure.subplots(1, 2)
    runs = [trained("mb-mpo", seed)[1] for seed in range(SEEDS)]
    steps = np.cumsum(runs[0]["env_steps"])
    for (metric, label), colour in zip(LOGGED.items(), canvas.LINES, strict=False):
        axes = losses if metric == "loss/model" else returns
        for index, run in enumerate(runs):
            axes.plot(steps, run[metric], color=colour, label=None if index else label, marker=".")
    for axes, what in ((returns, "return of an episode"), (losses, "negative log-likelihood of the models")):
        canvas.plain(axes)
        axes.set_xlabel("real steps")
        axes.set_ylabel(what)
    returns.legend(fontsize=8)
    return {"curves": figure}


_NAMES = ("true dynamics", "untrained", "mb-mpo, before", "mb-mpo, after", "maml, before", "maml, after")
TABLE = Table(
    "mb-mpo",
    title=f"One pendulum: return after {REAL_STEPS:,} real steps, before and after an adaptation to real episodes",
    source="no published numbers for this task; true dynamics: planning by CEM",
    runs=(
        Computed(
            "pendulum/agents",
            measure,
            {"seeds": SEEDS},
            SEEDS * EPISODES,
            rows=tuple(
                Row(named(name), name) for name in (*_NAMES, "mb-mpo, real steps", "maml, real steps", "gain over maml")
            ),
        ),
    ),
    pictures=_pictures,
)
