"""Options in four rooms: one goal and four, each option's share of the steps, and the return against other agents.

Policies are tables. One goal is the hallway in the east, with both dynamics; four goals are the hallways. There the
options are shared, and each goal has a policy over options of its own. Beside it stand PPO with one policy, which does
not know the goal, and multi-task PPO with a policy for each goal.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

import jaxmeta as jm
from jaxmeta.reproduce.base import Computed, Evaluation, Point, Required, Row, Run, Table, Trained
from jaxmeta.reproduce.statistics import named, trial_return

EAST, HALLWAYS = (62,), (25, 51, 62, 88)
NUM_OPTIONS = 4
REACHED = 28 / 30.1
"""Required share of the optimal return with one goal."""
OPTIMUM = {"code": 42.607, "sutton": 23.717}
"""Optimal return on the goal in the east, with 50 steps from any other cell: `jm.references.rooms.optimal_return`."""
EVALUATION = Evaluation(num_tasks=500, streams=40)
STREAMS = 400
"""Episodes per goal, from which shares and the matrix are computed."""


def lowest_seed(report: Any) -> Point:
    """Computes the return of the last round of the seed where it is lowest."""
    returns = np.asarray(report.returns)
    each = returns[..., -1, :, :].reshape(len(returns) if returns.ndim == 5 else 1, -1).mean(-1)
    return {"mean": float(each.min()), "stderr": None, "ci95": [float(each.min())] * 2}


def use(folder: Path) -> dict[str, list[float]]:
    """Computes the share of steps of every option, most used first, and their mean length, one number per seed."""
    import jax
    import jax.numpy as jnp

    from jaxmeta.algos.hierarchy.use import option_use

    run = jm.load(folder)
    tasks = run.family.train_tasks

    @jax.jit
    def of_seed(params: Any, key: Any) -> dict[str, Any]:
        keys = jax.random.split(key, jax.tree.leaves(tasks)[0].shape[0])
        plan = jm.Plan(streams=STREAMS)
        collect = lambda task, key: jm.collect(run.learner, params, run.family.env, task, key, plan)  # noqa: E731
        return option_use(jax.vmap(collect)(tasks, keys), NUM_OPTIONS)

    found: dict[str, list[float]] = {}
    for seed, params in enumerate(run.params_by_seed):
        numbers = of_seed(params, jax.random.key(run.config.seed + seed))
        shares = jnp.sort(jnp.stack([numbers[f"use/option_{index}"] for index in range(NUM_OPTIONS)]))[::-1]
        row = {f"share {index + 1}": share for index, share in enumerate(shares)} | {"length": numbers["use/length"]}
        for name, value in row.items():
            found.setdefault(name, []).append(float(value))
    return found


def _ppo() -> Any:
    return jm.outer.ActorCriticConfig(
        learning_rate=2e-2, epochs=5, minibatches=1, value_weight=0.5, entropy_weight=0.01
    )


def _options(updates: int, **changes: Any) -> Any:
    return jm.OptionCriticConfig(num_options=NUM_OPTIONS, num_tasks=4, streams=40, hidden=(), ppo=_ppo(), **changes)


def _one_policy(updates: int) -> Any:
    return jm.PPOConfig(num_tasks=4, streams=40, hidden=(), ppo=_ppo())


def policy_per_goal(updates: int) -> Any:
    """Returns the config of an agent with a policy for each goal."""
    return jm.MultiTaskConfig(network="heads", visits=1, streams=40, hidden=(), ppo=_ppo())


def _rooms(goals: tuple[int, ...], dynamics: Any = "code") -> Any:
    return jm.tasks.FourRoomsConfig(goals=goals, dynamics=dynamics)


def _mean_optimum() -> float:
    return float(np.mean([jm.references.rooms.optimal_return(goal) for goal in HALLWAYS]))


def _use_rows() -> tuple[Row, ...]:
    names = (*(f"share {index + 1}" for index in range(NUM_OPTIONS)), "length")
    return tuple(Row(named(name), name) for name in names)


def _runs() -> Iterator[Run]:
    usual: dict[str, Any] = {"chunk": 50, "quick_chunk": 5, "evaluations": (EVALUATION,)}
    for dynamics, optimum in OPTIMUM.items():
        name = f"one-goal-{dynamics}/option-critic"
        required = Required(least=REACHED * optimum)
        yield Trained(
            name, "option-critic", "four-rooms", _options, updates=300, **usual,
            tasks_config=functools.partial(_rooms, EAST, dynamics),
            rows=(Row(trial_return, optimum=optimum), Row(lowest_seed, "lowest seed", required=required)),
        )  # fmt: skip
        yield Computed(f"one-goal-{dynamics}/use", use, {}, STREAMS, rows=_use_rows(), of=name)
    agents = (
        ("option-critic", "option-critic", functools.partial(_options, masters="per-task")),
        ("one-policy", "ppo", _one_policy),
        ("policy-per-goal", "multi-task", policy_per_goal),
    )
    for agent, algo, config in agents:
        yield Trained(
            f"four-goals/{agent}", algo, "four-rooms", config, updates=400, **usual,
            tasks_config=functools.partial(_rooms, HALLWAYS),
            rows=(Row(trial_return, optimum=_mean_optimum), Row(lowest_seed, "lowest seed")),
        )  # fmt: skip
    yield Computed("four-goals/use", use, {}, len(HALLWAYS) * STREAMS, rows=_use_rows(), of="four-goals/option-critic")


def _pictures(folders: Mapping[str, Path]) -> dict[str, Any]:
    """Draws for the first seed which option each goal's policy over options chooses where, and options on goals."""
    name = "four-goals/option-critic"
    if name not in folders:
        return {}
    import jax
    import jax.numpy as jnp

    from jaxmeta import inner
    from jaxmeta.tasks.four_rooms import CELLS, MOVES
    from jaxmeta.viz import options

    run = jm.load(folders[name])
    params, spec = run.first_params, run.family.env.spec
    network = run.config.algo_config.network(spec, len(HALLWAYS))
    each = (jax.tree.map(lambda leaf: jnp.stack([leaf] * NUM_OPTIONS), params), jnp.arange(NUM_OPTIONS))
    alone, names = inner.one_option(network), [f"option {index}" for index in range(NUM_OPTIONS)]
    cells, panels = jnp.eye(len(CELLS)), {}
    for index, goal in enumerate(HALLWAYS):
        code = jnp.broadcast_to(jax.nn.one_hot(index, len(HALLWAYS)), (len(CELLS), len(HALLWAYS)))
        obs = jnp.concatenate([cells, code], axis=1)
        chosen = options.choice_probabilities(run.learner, params, (), spec, obs)
        actions = options.action_probabilities(alone, each, spec, obs)
        panels[f"goal {goal}"] = options.acting(chosen, actions, MOVES, goals=(goal,))
    matrix = jax.jit(lambda each, key: options.policy_returns(alone, each, run.family.env, run.family.train_tasks, key))
    returns = np.asarray(matrix(each, jax.random.key(0)))
    goals = [f"goal {goal}" for goal in HALLWAYS]
    return {
        "rooms": options.draw_rooms(panels, names, "Options that are chosen in four rooms, by goal"),
        "returns": options.draw_returns(returns, names, goals, "Return of each option alone", _mean_optimum()),
    }


TABLE = Table(
    "options",
    title="Option-critic in four rooms: return of 50 steps, share of steps of each option, steps per option",
    source="no published numbers; required of every seed with one goal: 28/30.1 of the optimum (39.63 and 22.06)",
    runs=tuple(_runs()),
    quick=("four-goals/option-critic", "four-goals/use"),
    pictures=_pictures,
)
