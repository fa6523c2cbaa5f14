"""Models that adapt online on half-cheetahs with a dead joint: errors and returns where another joint is dead."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import jaxmeta as jm
from jaxmeta.reproduce import windows
from jaxmeta.reproduce.base import Computed, Required, Row, Run
from jaxmeta.reproduce.statistics import named, worst_seed

HORIZON, UPDATES = 200, 12
STREAMS = 16
"""Streams with the held-out joint dead, per agent."""
NAMES = ("grbal", "unadapted")


def tasks() -> Any:
    """Builds the half-cheetahs: any of five joints is dead in training, the sixth in the evaluation."""
    return jm.tasks.half_cheetah_crippled(jm.tasks.HalfCheetahCrippledConfig(horizon=HORIZON))


def config(name: str) -> Any:
    """Returns the config of grbal, or of unadapted, the same model without an adaptation."""
    from jaxmeta.algos.models import planning

    return jm.GrBALConfig(
        num_tasks=10,
        hidden=(128, 128),
        activation="swish",
        explore=2,
        planner=planning.PlannerConfig("mppi", horizon=12, candidates=128, iterations=1, temperature=0.03),
        windows=jm.outer.WindowConfig(windows.WINDOW, windows.WINDOW, steps=600, anneal_over=UPDATES),
        inner_steps=int(name == "grbal"),
    )


@functools.cache
def measured(seeds: int) -> dict[str, list[float]]:
    """Meta-trains both agents with equal numbers of steps, and measures them with the held-out joint dead.

    Returns:
      By name, lists of one number per seed. `adapted` and `unadapted` are the errors of GrBAL's model on the next 16
      transitions after and without its adaptation to the last 16, `never adapted` that of the other model, all on the
      streams that GrBAL acts in; then the returns of an episode.
    """
    import jax

    from jaxmeta.algos.models import grbal

    family, found = tasks(), {}
    agents = {name: jm.grbal(family, config(name)) for name in NAMES}
    models = {name: grbal.model(family, config(name)) for name in NAMES}
    test = jax.vmap(family.sample_test)(jax.random.split(jax.random.key(0), STREAMS))
    for seed in range(seeds):
        key = jax.random.key(seed)
        params = {
            name: jm.train(meta, jm.init_state(meta, key), UPDATES, chunk=1).params for name, meta in agents.items()
        }
        streams = _acted(agents["grbal"], family, params["grbal"], test, jax.random.fold_in(key, 1))
        for name, one in params.items():
            report = jm.evaluate(agents[name].learner, one, family, test, jax.random.fold_in(key, 2), jm.Plan())
            found.setdefault(f"return: {name}", []).append(float(report.returns.mean()))
        adapted, unadapted, never = (
            float(windows.error(models[model], params[whose], streams))
            for model, whose in (("grbal", "grbal"), ("unadapted", "grbal"), ("unadapted", "unadapted"))
        )
        errors = {"adapted": adapted, "unadapted": unadapted, "never adapted": never}
        for name, error in (errors | {"adapted / unadapted": adapted / unadapted}).items():
            found.setdefault(name, []).append(error)
    both = (found[f"return: {name}"] for name in NAMES)
    found["return: grbal less unadapted"] = [ours - other for ours, other in zip(*both, strict=True)]
    return found


def _acted(meta: Any, family: Any, params: Any, tasks: Any, key: Any) -> Any:
    """Returns the rows of one stream of an agent on each task, [N, T, ...]."""
    import jax

    def stream(task: Any, key: Any) -> Any:
        rounds = jm.collect(meta.learner, params, family.env, task, key, jm.Plan()).rounds
        return windows.rows(family.env.spec, jax.tree.map(lambda leaf: leaf[0], rounds), learns_reward=True)

    return jax.jit(jax.vmap(stream))(tasks, jax.random.split(key, STREAMS))


def runs(seeds: int) -> Iterator[Run]:
    """Yields the rows of the table."""
    kinds = (
        ("error", ("adapted", "unadapted", "never adapted"), ("adapted / unadapted", True, Required(most=1.0))),
        (
            "return",
            tuple(f"return: {name}" for name in NAMES),
            ("return: grbal less unadapted", False, Required(least=0.0)),
        ),
    )
    for kind, names, (name, largest, required) in kinds:
        judged = Row(worst_seed(name, largest=largest), f"{name} (worst seed)", required=required)
        rows = (*(Row(named(one), one) for one in (*names, name)), judged)
        yield Computed(f"crippled-half-cheetah/{kind}", measured, {"seeds": seeds}, seeds * STREAMS, rows=rows)
