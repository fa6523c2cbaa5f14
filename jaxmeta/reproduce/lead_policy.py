"""Lead policies: goals in the far room from a corner, and random MDPs with a library by multi-task learning.

In four rooms the library are policies to the four hallways, tables that multi-task PPO learned from random starts, one
for each. New goals are in the far room. The lead policy decides every 10 steps who acts. It is evaluated before any
meta-training, where a task begins with a random new policy and a random lead policy, and after Reptile on the other
goals of that room. PPO from scratch has the same rounds and streams, and the best of three step sizes.

On random MDPs, the multi-task hierarchy has policies of MDPs that multi-task PPO learned, and composes them by
meta-learning. MAML has as many environment steps of meta-training as library and lead policy together, and PPO from
scratch has none.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

import jaxmeta as jm
from jaxmeta.reproduce.base import Computed, Required, Row, Run, Table
from jaxmeta.reproduce.options import HALLWAYS, policy_per_goal
from jaxmeta.reproduce.statistics import named, worst_seed

FAR_ROOM = (68, 69, 70, 71, 72, 78, 79, 80, 81, 82, 89, 90, 91, 92, 93, 99, 100, 101, 102, 103)
"""The 20 cells of the lower right room; every other is a new goal, and the rest are those of meta-training."""
CORNER = 0
ROUNDS, STREAMS, DURATION, UPDATES = 9, 20, 10, 10
AFTER = (5, ROUNDS)
"""Adaptations after which returns are reported."""
AGENTS = ("lead policy", "PPO from scratch")
RATES = (0.03, 0.1, 0.3)
"""Step sizes of PPO from scratch."""
KNOWN_MDPS, NEW_MDPS = 8, 200
BY_ROUND = {"round 0": 0, "round 1": 1, "round 4": 4, "last round": -1}

_drawn: dict[str, Any] = {}
"""What the pictures show, by name, from the last measurement in this process."""


def rooms(start: int | None, meta_trained: bool, seed: int, num_seeds: int, quick: bool) -> dict[str, list[float]]:
    """Computes returns on ten new goals in the far room, one number per seed.

    Args:
      start: cell that new episodes start at; None draws it.
      meta_trained: whether Reptile precedes, on the other goals of the room; if not, PPO from scratch is measured too.
    """
    import jax

    base = jm.tasks.with_task_id(jm.tasks.four_rooms(jm.tasks.FourRoomsConfig(goals=HALLWAYS)))
    multi_task = jm.multi_task(base, policy_per_goal(200))
    library = _trained(multi_task, 2 if quick else 200, seed, num_seeds)
    new, others = (
        jm.tasks.four_rooms(jm.tasks.FourRoomsConfig(goals=goals, start=start))
        for goals in (FAR_ROOM[::2], FAR_ROOM[1::2])
    )
    plan = jm.Plan(ROUNDS, STREAMS)

    def one_seed(params: Any, key: Any) -> Any:
        known = jm.outer.specialists(base, multi_task.learner, params)
        meta = jm.lead_policy(others, _lead_config(), library=known)
        begun = _updated(meta, key, (1 if quick else UPDATES) if meta_trained else 0).params
        found = {"lead policy": _evaluated(meta.learner, begun, new, plan, key)}
        if meta_trained:
            return found, ()
        shown = _who_acts(meta.learner, begun, new, plan, key), _known_alone(known, new, key)
        return found | _from_scratch(new, plan, key), shown

    keys = jax.random.split(jax.random.key(seed), num_seeds)
    found, shown = jax.device_get(jax.jit(jax.vmap(one_seed))(library, keys))
    if meta_trained:
        return _numbers(found)
    _drawn["corner" if start == CORNER else "random-start"] = jax.tree.map(lambda leaf: leaf[0], shown)
    best = max((f"PPO {rate}" for rate in RATES), key=lambda name: found[name][..., -1].mean())
    return _numbers({"lead policy": found["lead policy"], "PPO from scratch": found[best]})


def _numbers(found: Mapping[str, np.ndarray]) -> dict[str, list[float]]:
    """Returns the mean over goals, the number of goals above 0, and the ratio to PPO, for each seed.

    Args:
      found: returns by agent, seed, task and round, [S, N, R + 1].
    """
    numbers: dict[str, list[float]] = {}
    for after in AFTER:
        returns = {name: by_round[..., after] for name, by_round in found.items()}
        for name, each in returns.items():
            numbers[f"{name} after {after}"] = each.mean(1).tolist()
            numbers[f"{name} after {after}: goals above 0"] = (each > 0).sum(1).astype(float).tolist()
        if len(returns) > 1:
            scratch = np.maximum(returns["PPO from scratch"].mean(1), 1e-3)
            numbers[f"ratio after {after}"] = (returns["lead policy"].mean(1) / scratch).tolist()
    return numbers


def mdps(agent: str, seed: int, num_seeds: int, quick: bool) -> dict[str, list[float]]:
    """Computes returns of an episode on new random MDPs by round of adaptation, one number per seed.

    Args:
      agent: "hierarchy", "maml" or "ppo", which has no meta-training.
    """
    import jax

    family, plan = jm.tasks.tabular(), jm.Plan(ROUNDS, STREAMS)
    tasks = jax.vmap(family.sample_test)(jax.random.split(jax.random.key(seed + 1), 10 if quick else NEW_MDPS))
    new, keys = family._replace(train_tasks=tasks), jax.random.split(jax.random.key(seed), num_seeds)
    finite = jm.tasks.with_task_id(jm.finite(family, KNOWN_MDPS, 1, jax.random.key(seed)))
    multi_task, config = jm.multi_task(finite, policy_per_goal(200)), replace(_lead_config(), duration=1, num_tasks=20)
    library_updates, updates = (2, 1) if quick else (200, 50)
    episodes = {
        "library": library_updates * multi_task.info.num_tasks * multi_task.plan.streams,
        "update": config.num_tasks * (config.rounds + 1) * config.streams,
    }
    meta_trained = episodes["library"] + updates * episodes["update"]

    def hierarchy(params: Any, key: Any) -> Any:
        meta = jm.lead_policy(family, config, library=jm.outer.specialists(finite, multi_task.learner, params))
        return {"": _evaluated(meta.learner, _updated(meta, key, updates).params, new, plan, key)}

    def maml(key: Any) -> Any:
        shape = {"rounds": config.rounds, "num_tasks": config.num_tasks, "streams": config.streams, "hidden": ()}
        meta = jm.maml(family, jm.MAMLConfig(inner_lr=0.5, **shape))
        state = _updated(meta, key, round(meta_trained / episodes["update"]))
        return {"": _evaluated(meta.learner, state.params, new, plan, key)}

    if agent == "hierarchy":
        found = jax.jit(jax.vmap(hierarchy))(_trained(multi_task, library_updates, seed, num_seeds), keys)
    else:
        found = jax.jit(jax.vmap(maml if agent == "maml" else lambda key: _from_scratch(new, plan, key)))(keys)
    found = jax.device_get(found)
    returns = max(found.values(), key=lambda by_round: by_round[..., -1].mean()).mean(1)  # [S, R + 1]
    steps = meta_trained * family.env.spec.horizon if agent != "ppo" else 0
    numbers = {"steps of meta-training": [float(steps)] * num_seeds}
    return numbers | {name: returns[:, index].tolist() for name, index in BY_ROUND.items()}


def _lead_config() -> Any:
    return jm.LeadPolicyConfig(
        duration=DURATION,
        rounds=4,
        streams=STREAMS,
        num_tasks=10,
        hidden=(),
        lead_hidden=(),
        pull=0.02,
        lead=jm.inner.ProximalConfig(learning_rate=0.1),
        new=jm.inner.ProximalConfig(learning_rate=0.05),
    )


def _trained(meta: Any, updates: int, seed: int, num_seeds: int) -> Any:
    """Returns the params of every seed, [S, ...]."""
    import jax

    state = jm.init_state(meta, jax.random.key(seed), num_seeds)
    return jax.device_get(jm.train(meta, state, updates, chunk=updates, num_seeds=num_seeds).params)


def _updated(meta: Any, key: Any, updates: int) -> Any:
    """Returns the train state after some updates; to be traced."""
    import jax

    state = meta.init(key)
    if not updates:
        return state
    return jax.lax.scan(lambda state, _: (meta.update(state)[0], None), state, None, length=updates)[0]


def _evaluated(learner: Any, params: Any, family: Any, plan: Any, key: Any) -> Any:
    """Returns the mean return by task and round, [N, R + 1]; to be traced."""
    import jax

    tasks = family.train_tasks
    keys = jax.random.split(jax.random.fold_in(key, 1), jax.tree.leaves(tasks)[0].shape[0])
    trial = lambda task, key: jm.collect(learner, params, family.env, task, key, plan).rounds.reward  # noqa: E731
    return jax.vmap(trial)(tasks, keys).sum(2).mean(2)


def _who_acts(learner: Any, params: Any, family: Any, plan: Any, key: Any) -> tuple[Any, Any]:
    """Returns for each task who acts in the last round: shares of its steps [N, K + 1], and by cell [N, 104, K + 1]."""
    import jax
    import jax.numpy as jnp

    from jaxmeta.core.rollout import replay_fast
    from jaxmeta.viz import options

    tasks, num_options = family.train_tasks, len(HALLWAYS) + 1
    cells = jnp.eye(family.env.spec.observation[0])

    def one(task: Any, key: Any) -> tuple[Any, Any]:
        trial = jm.collect(learner, params, family.env, task, key, plan)
        fast = jax.tree.map(lambda leaf: leaf[-1], replay_fast(learner, params, trial))
        acts = jax.nn.one_hot(trial.rounds.output.aux.option[-1], num_options)
        return acts.mean((0, 1)), options.choice_probabilities(learner, params, fast, family.env.spec, cells)

    keys = jax.random.split(jax.random.fold_in(key, 1), jax.tree.leaves(tasks)[0].shape[0])
    return jax.vmap(one)(tasks, keys)


def _known_alone(library: Any, family: Any, key: Any) -> Any:
    """Returns the mean return of every known policy, alone for a whole episode, on each task, [K, N]."""
    import jax
    import jax.numpy as jnp

    def one(known: Any, task: Any) -> Any:
        return jm.rollout(known.learner, known.params, (), family.env, task, key, 200).reward.sum(0).mean()

    each = [jax.vmap(lambda task, known=known: one(known, task))(family.train_tasks) for known in library]
    return jnp.stack(each)


def _from_scratch(family: Any, plan: Any, key: Any) -> dict[str, Any]:
    """Evaluates PPO from scratch with each step size; to be traced."""
    found = {}
    for rate in RATES:
        scratch = jm.references.scratch.ppo(family, (), jm.inner.ProximalConfig(learning_rate=rate))
        found[f"PPO {rate}"] = _evaluated(scratch, scratch.init(key), family, plan, key)
    return found


def _rows(names: tuple[str, ...], required: Mapping[str, Required] = {}) -> tuple[Row, ...]:
    rows: list[Row] = []
    for name in names:
        rows.append(Row(named(name), name))
        if (one := required.get(name)) is not None:
            rows.append(Row(worst_seed(name, largest=False), f"{name} (worst seed)", required=one))
    return tuple(rows)


OF_LEAD = tuple(f"lead policy after {after}{what}" for after in AFTER for what in ("", ": goals above 0"))
OF_BOTH = tuple(
    text
    for after in AFTER
    for text in (
        *(f"{agent} after {after}{what}" for agent in AGENTS for what in ("", ": goals above 0")),
        f"ratio after {after}",
    )
)
REQUIRED = {
    f"lead policy after {ROUNDS}: goals above 0": Required(least=8.0),
    f"ratio after {ROUNDS}": Required(least=3.0),
}


def _runs() -> Iterator[Run]:
    for group, start, required in (("corner", CORNER, REQUIRED), ("random-start", None, {})):
        for name, trained, rows in (("untrained", False, _rows(OF_BOTH, required)), ("reptile", True, _rows(OF_LEAD))):
            arguments = {"start": start, "meta_trained": trained}
            yield Computed(f"{group}/{name}", rooms, arguments, 10 * STREAMS, rows=rows, trains=True)
    for agent in ("hierarchy", "maml", "ppo"):
        rows = _rows(("steps of meta-training", *BY_ROUND))
        yield Computed(f"random-mdps/{agent}", mdps, {"agent": agent}, NEW_MDPS * STREAMS, rows=rows, trains=True)


def _pictures(folders: Mapping[str, Any]) -> dict[str, Any]:
    """Draws, for the first seed of what was measured in this process, who acts on each goal and where."""
    from jaxmeta.viz import options

    goals = FAR_ROOM[::2]
    known, figures = [f"to {goal}" for goal in HALLWAYS], {}
    for name, ((shares, places), alone) in _drawn.items():
        every, labels = [*known, "new policy"], [f"goal {goal}" for goal in goals]
        figures[f"{name}-library"] = options.draw_returns(alone, known, labels, f"{name}: known policies alone")
        figures[f"{name}-choices"] = options.draw_returns(
            100 * shares.T, every, labels, f"{name}: who acts in the last round", 100.0, "% of steps"
        )
        panels = {f"goal {goal}": options.Acting(places[index], None, (goal,)) for index, goal in enumerate(goals[:4])}
        figures[f"{name}-rooms"] = options.draw_rooms(panels, every, f"{name}: whom the lead policy chooses")
    return figures


TABLE = Table(
    "lead-policy",
    title="Lead policies: return after 5 and 9 adaptations, on new goals in the far room and on new random MDPs",
    source="no published numbers; required of every seed from a corner: a return above 0 on 8 of 10 goals, and 3 times"
    " that of PPO from scratch",
    runs=tuple(_runs()),
    quick=("corner/untrained",),
    pictures=_pictures,
)
