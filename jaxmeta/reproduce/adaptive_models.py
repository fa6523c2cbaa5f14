"""Models that adapt online (GrBAL, ReBAL) on pendulums of unknown physics: predictions, and returns of planning.

`crippled` has the rows on half-cheetahs with a dead joint.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jaxmeta as jm
from jaxmeta.reproduce import crippled, windows
from jaxmeta.reproduce.base import Computed, Required, Row, Run, Table
from jaxmeta.reproduce.statistics import named, worst_seed

SEEDS = 3
HORIZON = 100
HELD_OUT = 64
"""Held-out tasks whose transitions are predicted."""
PLANNED = 16
"""Held-out tasks that agents plan in, per kind of tasks."""
HALVES = (slice(windows.WINDOW), slice(windows.WINDOW, None))
ADAM_STEPS = 100
ADAM_RATES = (1e-3, 3e-3, 1e-2)
"""Step sizes of Adam that the models without meta-learning are fitted to a window with; the best one counts."""
PREDICTION_UPDATES, PLANNING_UPDATES = 20, 10
MOST = {"unadapted": 0.2, "finetuned": 0.6, "scratch": 0.05}
"""Largest ratio of the error of an adapted model to that of another."""
REACH = (20, 30)
"""Steps before and after a change in the picture."""


def tasks() -> Any:
    """Builds the pendulums: the motor is up to 2.4 times as strong as gymnasium's, and reversed in half of them."""
    return jm.tasks.pendulum(jm.tasks.PendulumConfig(horizon=HORIZON, gain=(1.4, 2.4), reverse=True))


def reversing() -> Any:
    """Builds the same pendulums, the motor of which is reversed once in every episode."""
    return jm.tasks.changing(tasks(), lambda key, task: task.replace(gain=-task.gain))


def config(name: str, updates: int, plans: bool) -> Any:
    """Returns the config of an agent: grbal, rebal, or unadapted, the same model without an adaptation.

    Args:
      plans: whether it collects by planning; else by random actions, so that all agents learn from the same data.
    """
    from jaxmeta.algos.models import planning

    planner = planning.PlannerConfig("mppi", horizon=20, candidates=100, iterations=1, temperature=0.2)
    training = jm.outer.WindowConfig(windows.WINDOW, windows.WINDOW, learning_rate=2e-3, anneal_over=updates)
    fields: dict[str, Any] = {"planner": planner, "windows": training, "explore": 1 if plans else updates}
    if name == "rebal":
        return jm.ReBALConfig(**fields)
    return jm.GrBALConfig(**fields, inner_steps=int(name == "grbal"))


def online(name: str, family: Any, agent: Any) -> Any:
    """Builds the online model of an agent from its config."""
    from jaxmeta.algos.models import grbal, rebal

    return (rebal if name == "rebal" else grbal).model(family, agent)


@functools.cache
def algorithm(name: str, updates: int, plans: bool) -> Any:
    """Builds the meta-learner of an agent; it is compiled once for all seeds."""
    return (jm.rebal if name == "rebal" else jm.grbal)(tasks(), config(name, updates, plans))


@functools.cache
def trained(name: str, updates: int, plans: bool, seed: int) -> Any:
    """Meta-trains an agent, and returns its params."""
    import jax

    meta = algorithm(name, updates, plans)
    return jm.train(meta, jm.init_state(meta, jax.random.key(seed)), updates).params


@functools.cache
def predictions(seeds: int, updates: int) -> dict[str, list[float]]:
    """Computes errors of one-step predictions after a window, on held-out pendulums under random actions.

    Returns:
      By name, lists of one number per seed: the mean squared error of normalised predictions, and ratios of them.
    """
    import jax

    found: dict[str, list[float]] = {}
    for seed in range(seeds):
        params = {name: trained(name, updates, False, seed) for name in ("grbal", "rebal", "unadapted")}
        streams = random_streams(jax.random.key(1000 + seed))
        models = {name: online(name, tasks(), config(name, updates, False)) for name in params}
        errors = {name: windows.error(models[name], one, streams) for name, one in params.items()}
        errors["finetuned"], errors["scratch"] = (
            fitted_error(updates, params["unadapted"], streams, seed, fresh) for fresh in (False, True)
        )
        for name, error in errors.items():
            found.setdefault(name, []).append(float(error))
        for name in ("grbal", "rebal"):
            for other in ("unadapted", "finetuned", "scratch"):
                found.setdefault(f"{name} / {other}", []).append(float(errors[name] / errors[other]))
    return found


def random_streams(key: Any) -> Any:
    """Returns rows of streams of random actions on held-out tasks, [N, T, |inputs| + D + 1], not normalised."""
    import jax

    family = tasks()
    agent, params = random_agent()

    def stream(key: Any) -> Any:
        task_key, key = jax.random.split(key)
        experience = jm.rollout(agent, params, (), family.env, family.sample_test(task_key), key)
        return windows.rows(family.env.spec, experience, learns_reward=False)

    return jax.jit(jax.vmap(stream))(jax.random.split(key, HELD_OUT))


def random_agent() -> tuple[Any, Any]:
    """Returns an agent with uniformly random actions, and its params: it explores as long as it has learned nothing."""
    import jax

    agent = algorithm("unadapted", 1, True).learner
    return agent, agent.init(jax.random.key(0))


def fitted_error(updates: int, params: Any, streams: Any, seed: int, fresh: bool) -> Any:
    """Returns the same error of models that Adam fits to the first halves of windows; the best step size counts.

    Args:
      params: of the agent that does not adapt, from which Adam starts.
      fresh: whether it starts from random params instead.
    """
    import jax
    import jax.numpy as jnp
    import optax

    dynamics = online("unadapted", tasks(), config("unadapted", updates, False)).dynamics
    first = dynamics.init(jax.random.key(seed)) if fresh else params.model
    every = jnp.ones(windows.WINDOW)

    @jax.jit
    def error(model: Any, rate: Any, x: Any, y: Any) -> Any:
        tx = optax.adam(rate)

        def loss(model: Any, x: Any, y: Any) -> Any:
            return jm.nets.prediction_error(dynamics.apply(model.model, x), y, every)

        def one(window: Any) -> Any:
            past, future = (tuple(leaf[half] for leaf in window) for half in HALVES)

            def step(state: Any, _: None) -> tuple[Any, None]:
                model, moments = state
                change, moments = tx.update(jax.grad(loss)(model, *past), moments, model)
                return (optax.apply_updates(model, change), moments), None

            (fitted, _), _ = jax.lax.scan(step, (model, tx.init(model)), None, ADAM_STEPS)
            return loss(fitted, *future)

        return jax.lax.map(one, (x, y), batch_size=16).mean()

    cut = windows.cut(dynamics, params.statistics, streams)
    return min(float(error(first, rate, *cut)) for rate in ADAM_RATES)


@functools.cache
def returns(seeds: int, updates: int) -> dict[str, list[float]]:
    """Computes returns of planning agents on held-out pendulums that stay as they are, and that reverse in mid-episode.

    Returns:
      By name, lists of one number per seed: returns, and the share of the oracle's gain over random actions.
    """
    import jax

    from jaxmeta.references import planner

    family, names = reversing(), ("grbal", "unadapted")
    oracle = planner.oracle(family.env, config("grbal", updates, True).planner.build(family))
    shown, random = planner.with_state(family), random_agent()
    found: dict[str, list[float]] = {}
    for seed in range(seeds):
        task_key, key = jax.random.split(jax.random.key(2000 + seed))
        changed = jax.vmap(family.sample_test)(jax.random.split(task_key, PLANNED))
        agents: dict[str, Any] = {"oracle": (oracle, (), shown), "random": (*random, family)}
        for name in names:
            agents[name] = (algorithm(name, updates, True).learner, trained(name, updates, True, seed), family)
        for kind, some in (("fixed", changed.replace(after=changed.before)), ("reversed", changed)):
            value = {}
            for name, (agent, params, seen) in agents.items():
                report = jm.evaluate(agent, params, seen, some, key, jm.Plan())
                value[name] = float(report.returns.mean())
                found.setdefault(f"{kind}: {name}", []).append(value[name])
            gain = value["oracle"] - value["random"]
            shares = {name: (value[name] - value["random"]) / gain for name in names}
            for name, share in shares.items():
                found.setdefault(f"{kind}: {name}'s share of the oracle", []).append(share)
            found.setdefault(f"{kind}: unadapted / grbal, shares", []).append(shares["unadapted"] / shares["grbal"])
    return found


def _pictures(folders: Mapping[str, Path]) -> dict[str, Any]:
    """Draws the errors of predictions around a reversal of the motor, of one seed."""
    import jax
    import numpy as np

    from jaxmeta.viz import online as drawing

    family = reversing()
    agent, first = random_agent()

    def stream(key: Any) -> Any:
        task_key, key = jax.random.split(key)
        task = family.sample_test(task_key)
        experience = jm.rollout(agent, first, (), family.env, task, key)
        return task.time, experience.replace(output=(), reset_key=())

    times, streams = jax.jit(jax.vmap(stream))(jax.random.split(jax.random.key(0), HELD_OUT))
    errors = {}
    for name, label in (("grbal", "GrBAL"), ("rebal", "ReBAL"), ("unadapted", "not adapted")):
        model = online(name, tasks(), config(name, PREDICTION_UPDATES, False))
        params = trained(name, PREDICTION_UPDATES, False, 0)
        over_time = lambda one, model=model, params=params: drawing.errors_over_time(  # noqa: E731
            family.env.spec, model, params, one
        )[0]
        found = np.asarray(jax.jit(jax.vmap(over_time))(streams))[:, 0]
        errors[label] = drawing.around(found, np.asarray(times), *REACH)
    note = f"median and quartiles of {HELD_OUT} held-out pendulums under random actions"
    return {"change": drawing.draw_around_change(errors, REACH[0], "The motor is reversed", note)}


def _ratios(name: str) -> Iterator[Row]:
    for other, most in MOST.items():
        ratio = f"{name} / {other}"
        yield Row(named(ratio), ratio)
        yield Row(worst_seed(ratio, largest=True), f"{ratio} (worst seed)", required=Required(most=most))


def _shares(kind: str, least: float) -> Iterator[Row]:
    adapted, plain = (f"{kind}: {name}'s share of the oracle" for name in ("grbal", "unadapted"))
    yield Row(named(adapted), adapted)
    yield Row(worst_seed(adapted, largest=False), f"{adapted} (worst seed)", required=Required(least=least))
    yield Row(named(plain), plain)
    ratio, most = f"{kind}: unadapted / grbal, shares", Required(most=1 / 2.5) if kind == "reversed" else None
    yield Row(named(ratio), ratio)
    yield Row(worst_seed(ratio, largest=True), f"{ratio} (worst seed)", required=most)


def _runs() -> Iterator[Run]:
    trials = SEEDS * HELD_OUT
    models, agents = ({"seeds": SEEDS, "updates": updates} for updates in (PREDICTION_UPDATES, PLANNING_UPDATES))
    errors = tuple(Row(named(name), name) for name in ("grbal", "rebal", "unadapted", "finetuned", "scratch"))
    yield Computed("error/models", predictions, models, trials, rows=errors)
    yield Computed("ratio/models", predictions, models, trials, rows=(*_ratios("grbal"), *_ratios("rebal")))
    names = [f"{kind}: {name}" for kind in ("fixed", "reversed") for name in ("oracle", "grbal", "unadapted", "random")]
    rows = tuple(Row(named(name), name) for name in names)
    yield Computed("return/agents", returns, agents, SEEDS * PLANNED, rows=rows)
    rows = (*_shares("fixed", 0.8), *_shares("reversed", 0.5))
    yield Computed("share/agents", returns, agents, SEEDS * PLANNED, rows=rows)
    yield from crippled.runs(SEEDS)


TABLE = Table(
    "adaptive-models",
    title="Models that adapt online on pendulums whose motor may be reversed, and on half-cheetahs with a dead joint:"
    " squared error of one-step predictions after 16 transitions, and returns of planning",
    source="no published numbers; required of every seed, errors: 0.2 of the same model without adaptation, 0.6 of 100"
    " steps of Adam from it, 0.05 of such steps from scratch; returns: of the gain of the true dynamics over random"
    " actions 0.8 on fixed tasks, and where the motor is reversed in mid-episode 0.5, and 2.5 times that without"
    " adaptation; half-cheetah with another joint dead than in training: a lower error than without the adaptation, and"
    " a higher return than the model that never adapts",
    runs=tuple(_runs()),
    quick=("error/models",),
    pictures=_pictures,
)
