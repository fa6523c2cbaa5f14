"""Similarity of tasks: agreement with the true distance, and what a warm start from the most similar task gains.

On sine waves the true distance of two tasks is that of the functions, the root-mean-square difference on [-5, 5]; in
navigation it is the distance of the goals. Rank correlations are over all pairs of a known and a new task.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jaxmeta as jm
from jaxmeta.reproduce.base import Computed, Required, Row, Run, Table, Trained
from jaxmeta.reproduce.statistics import named, worst_seed

QUERIES = 100
"""Points of a wave at which errors, adapted functions and distances are measured."""
STEPS = 10
"""Gradient steps before adapted functions and params are compared, and to known waves."""
ROUNDS = 3
"""Adaptations to a known goal."""
EPOCHS = 75
"""Passes over the 256 tasks that the embedding is learned from, in one update."""
SIZES = {"sinusoid": {"known": 1000, "new": 500}, "navigation": {"known": 64, "new": 64}}


class Found(NamedTuple):
    """What is measured with the params of one seed."""

    numbers: dict[str, float]
    descriptions: dict[str, Any]
    """By kind of similarity, those of the known tasks, [K, D]."""
    alike: dict[str, Any]
    """By kind of similarity, of new and known tasks, [N, K]."""
    distance: Any
    """The true distance, [N, K]."""
    codes: Any
    """The known tasks as vectors, [K, P]."""


def measure(folder: Path, tasks: str, known: int, new: int) -> dict[str, list[float]]:
    """Computes all numbers of a table's group by name, one per seed.

    Args:
      folder: the run of the agent.
      tasks: "sinusoid" or "navigation".
      known: number of known tasks.
      new: number of new tasks.
    """
    found = [one.numbers for one in _found(folder, tasks, known, new)]
    return {name: [numbers[name] for numbers in found] for name in found[0]}


@functools.lru_cache(maxsize=4)
def _found(folder: Path, tasks: str, known: int, new: int) -> tuple[Found, ...]:
    """Measures every seed of a run; remembered, as the pictures show the same."""
    import jax

    run = jm.load(folder)
    one = {"sinusoid": _waves, "navigation": _goals}[tasks]
    return tuple(
        one(run, params, jax.random.key(run.config.seed + seed), known, new)
        for seed, params in enumerate(run.params_by_seed)
    )


def _waves(run: Any, params: Any, key: Any, known: int, new: int) -> Found:
    import jax
    import jax.numpy as jnp

    from jaxmeta import outer, similarity
    from jaxmeta.tasks.sinusoid import MAX_INPUT

    learner = run.learner
    family = jm.tasks.sinusoid(replace(run.config.tasks_config, queries=QUERIES))
    env = family.env
    x = jnp.linspace(-MAX_INPUT, MAX_INPUT, QUERIES)[:, None]
    # the support is empty: only the query is read when the adapted agent predicts
    question = jnp.concatenate([jnp.zeros((env.shots, 2)), jnp.concatenate([x, jnp.zeros_like(x)], axis=1)])
    probe = similarity.common_inputs(env.spec, question[None])
    kinds = {
        "adapted functions": similarity.adapted_functions(learner, probe, STEPS),
        "adapted params": similarity.adapted_params(learner, STEPS),
        "adaptation steps": similarity.adaptation_steps(learner),
        "meta-gradients": similarity.meta_gradients(outer.query_loss(learner, env, run.meta.plan.rounds)),
    }
    keys = jax.random.split(key, 4)
    waves = _drawn(family, keys[:2], (known, new))
    curves = [jax.vmap(lambda wave: wave(x[:, 0]))(some.generator) for some in waves]
    data = {"round": [jax.vmap(env.experience)(some) for some in waves], "trial": waves}
    compared = _compared(kinds, params, data, keys[2])
    distance = jnp.sqrt(jnp.square(curves[1][:, None] - curves[0][None]).mean(-1))
    library = similarity.library(
        learner, params, env, waves[0], keys[3], jm.Plan(rounds=STEPS), kinds["adapted functions"]
    )
    returns = _adapted(
        learner, params, family, waves[1], keys[3], jm.Plan(rounds=1), library, kinds["adapted functions"]
    )
    errors = {name: -value for name, value in returns.items()}
    return _result(compared, distance, errors, jax.vmap(family.encode)(waves[0]))


def _goals(run: Any, params: Any, key: Any, known: int, new: int) -> Found:
    import jax
    import jax.numpy as jnp

    from jaxmeta import outer, rl, similarity

    learner, family, plan = run.learner, run.family, replace(run.meta.plan, rounds=1)
    env, config = family.env, similarity.ContrastiveConfig(streams=plan.streams, epochs=EPOCHS)
    side = jnp.linspace(-0.5, 0.5, 9)
    probe = similarity.common_inputs(env.spec, jnp.stack(jnp.meshgrid(side, side), -1).reshape(-1, 2))
    keys = jax.random.split(key, 9)
    meta = similarity.contrastive(learner, params, family, config)
    state = jm.train(meta, jm.init_state(meta, keys[0]), 1)
    loss = outer.trial_loss(learner, rl.ratio, run.config.algo_config.advantage())
    kinds = {
        "learned embedding": similarity.learned_embedding(family, config, state.params),
        "adapted functions": similarity.adapted_functions(learner, probe),
        "adapted params": similarity.adapted_params(learner),
        "adaptation steps": similarity.adaptation_steps(learner),
        "meta-gradients": similarity.meta_gradients(lambda params, trial, key: loss(params, trial)),
    }
    goals = _drawn(family, keys[1:3], (known, new))
    whole = jax.jit(
        lambda params, some, key: jax.vmap(lambda task, key: jm.collect(learner, params, env, task, key, plan))(
            some, jax.random.split(key, some.goal.shape[0])
        )
    )
    trials = [whole(params, some, key) for some, key in zip(goals, keys[3:5], strict=True)]
    data = {"round": [jax.tree.map(lambda leaf: leaf[:, 0], some.rounds) for some in trials], "trial": trials}
    compared = _compared(kinds, params, data, keys[5])
    distance = jnp.linalg.norm(goals[1].goal[:, None] - goals[0].goal[None], axis=-1)
    longer, embedding = replace(plan, rounds=ROUNDS), kinds["learned embedding"]
    library = similarity.library(learner, params, env, goals[0], keys[6], longer, embedding)
    returns = _adapted(learner, params, family, goals[1], keys[7], plan, library, embedding)
    return _result(compared, distance, returns, jax.vmap(family.encode)(goals[0]))


def _drawn(family: Any, keys: Any, sizes: tuple[int, int]) -> list[Any]:
    """Samples the known and the new tasks."""
    import jax

    samples = (family.sample, family.sample_test)
    return [jax.vmap(some)(jax.random.split(key, size)) for some, key, size in zip(samples, keys, sizes, strict=True)]


def _compared(kinds: Mapping[str, Any], params: Any, data: Mapping[str, Any], key: Any) -> dict[str, tuple[Any, Any]]:
    """Returns by kind the descriptions of the known tasks, and the similarities of new and known tasks."""
    import jax

    from jaxmeta import similarity

    compared = {}
    for name, kind in kinds.items():
        describe = jax.jit(lambda params, some, kind=kind: similarity.describe(kind, params, some, key))
        known, new = (describe(params, some) for some in data[kind.data])
        compared[name] = (known, similarity.matrix(kind, new, known))
    return compared


def _adapted(
    learner: Any, params: Any, family: Any, tasks: Any, key: Any, plan: Any, library: Any, kind: Any
) -> dict[str, float]:
    """Evaluates adaptation from θ, from the most similar known task with and without a first step, and from another."""
    import jax

    from jaxmeta import inner

    # every description belongs to the adapted state of another task
    shuffled = library.replace(fast=jax.tree.map(lambda leaf: jax.numpy.roll(leaf, 1, axis=0), library.fast))
    agents = {
        "θ": learner,
        "a warm start": inner.warm_start(learner, library, kind),
        "still": inner.warm_start(learner, library, kind, first_step=False),
        "another known task": inner.warm_start(learner, shuffled, kind),
    }
    plan = replace(plan, rounds=2)
    returns = {name: jm.evaluate(one, params, family, tasks, key, plan).returns for name, one in agents.items()}
    by_round = {name: [float(value) for value in some.mean((0, 2, 3))] for name, some in returns.items()}
    found = {"before adaptation": by_round["θ"][0]}
    for name in ("θ", "a warm start", "another known task"):
        found[f"one step from {name}"] = by_round[name][1]
    found["two steps from θ"] = by_round["θ"][2]
    found["warm start without a step"], found["one step in the next round"] = by_round["still"][1:]
    return found


def _result(compared: Mapping[str, tuple[Any, Any]], distance: Any, errors: dict[str, float], codes: Any) -> Found:
    from jaxmeta.similarity import rank_correlation

    alike = {name: some for name, (_, some) in compared.items()}
    agreement = {f"Spearman of {name}": rank_correlation(some, distance) for name, some in alike.items()}
    return Found(agreement | errors, {name: known for name, (known, _) in compared.items()}, alike, distance, codes)


def _maml_on_waves(updates: int) -> Any:
    config = jm.FewShotMAMLConfig()
    return replace(config, outer=replace(config.outer, anneal_over=updates))


def _maml_on_goals(updates: int) -> Any:
    # initial policies move by ±0.1 m, so that every goal shows in the first round
    ppo = replace(jm.MAMLConfig.ppo, learning_rate=5e-3, max_grad_norm=10.0)
    return jm.MAMLConfig(inner_lr=0.1, outer_loop="vpg", backward="first-order", ppo=ppo)


def _rows(kinds: tuple[str, ...], required: Mapping[str, Required]) -> tuple[Row, ...]:
    """Rows of the mean over seeds, and of the worst seed where something is required."""
    numbers = (
        *(f"Spearman of {kind}" for kind in kinds),
        "before adaptation",
        "one step from θ",
        "two steps from θ",
        "one step from a warm start",
        "warm start without a step",
        "one step in the next round",
        "one step from another known task",
    )
    rows: list[Row] = []
    for name in numbers:
        rows.append(Row(named(name), name))
        if name in required:
            one = required[name]
            rows.append(Row(worst_seed(name, one.most is not None), f"{name} (worst seed)", required=one))
    return tuple(rows)


KINDS = ("adapted functions", "adapted params", "adaptation steps", "meta-gradients")
REQUIRED = {
    "sinusoid": {
        "Spearman of adapted functions": Required(least=0.95),
        "one step from a warm start": Required(most=0.25),
    },
    "navigation": {"Spearman of learned embedding": Required(least=0.75)},
}
AGENTS: dict[str, tuple[int, int, Callable[[int], Any], Callable[[], Any], tuple[str, ...]]] = {
    # updates, updates per device call, configs of algorithm and tasks, kinds
    "sinusoid": (10_000, 1000, _maml_on_waves, lambda: jm.tasks.SinusoidConfig(), KINDS),
    "navigation": (
        100,
        10,
        _maml_on_goals,
        lambda: jm.tasks.NavigationConfig(),
        ("learned embedding", *KINDS),
    ),
}


def _runs() -> Iterator[Run]:
    for tasks, (updates, chunk, algo_config, tasks_config, kinds) in AGENTS.items():
        yield Trained(
            f"{tasks}/maml",
            "maml",
            tasks,
            algo_config,
            tasks_config=tasks_config,
            updates=updates,
            chunk=chunk,
            checkpoint_every=updates,
            quick_chunk=5,
            rows=(),
        )
        yield Computed(
            f"{tasks}/similarity",
            measure,
            {"tasks": tasks, **SIZES[tasks]},
            SIZES[tasks]["new"],
            rows=_rows(kinds, REQUIRED[tasks]),
            of=f"{tasks}/maml",
        )


PARAMETERS = {"sinusoid": ("amplitude", "phase"), "navigation": ("goal x (m)", "goal y (m)")}
DISTANCES = {"sinusoid": "distance of the waves", "navigation": "distance of the goals (m)"}


def _pictures(folders: Mapping[str, Path]) -> dict[str, Any]:
    """Draws the known tasks in the plane, and similarity against true distance, for the first seed of every agent."""
    from jaxmeta.viz import similarity

    drawn: dict[str, Any] = {}
    for tasks, sizes in SIZES.items():
        if (folder := folders.get(f"{tasks}/maml")) is None:
            continue
        found = _found(folder, tasks, **sizes)[0]
        pairs = {name: (alike, found.distance) for name, alike in found.alike.items()}
        title = f"{tasks}: {sizes['known']} known tasks"
        drawn[f"{tasks}-plane"] = similarity.draw_plane(found.descriptions, found.codes, PARAMETERS[tasks], title)
        drawn[f"{tasks}-agreement"] = similarity.draw_agreement(pairs, DISTANCES[tasks], f"{tasks}: all pairs of tasks")
    return drawn


TABLE = Table(
    "similarity",
    title="Similarity of tasks: rank correlation with the true distance, squared errors on sine waves, and returns",
    source="no published numbers; required of every seed: Spearman 0.95 and 0.75; warm start: error at most 0.25",
    runs=tuple(_runs()),
    quick=("sinusoid/similarity",),
    pictures=_pictures,
)
