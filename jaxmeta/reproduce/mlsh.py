"""MLSH: sub-policies that all tasks share, and what a new master makes of them on moving bandits and in four rooms.

No numbers are published. On moving bandits knowing the goal is worth 43.81 per episode, and a hierarchy all of whose
sub-policies go to the same goal 23.1. Whether each has learned a goal of its own is shown by the matrix of sub-policies
and goals, not by its mean. In four rooms the goal is one of the four corners; the dynamics are those of option-critic's
code, whose optimum is known exactly. PPO from scratch gets as many episodes, normalised
observations, and the best of eight settings.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import jaxmeta as jm
from jaxmeta.reproduce.base import Computed, Reference, Required, Row, Table, Trained
from jaxmeta.reproduce.statistics import named, trial_return, worst_seed

ROUNDS = 9
"""Adaptations of a master in evaluation."""
AFTER = (0, 3, 9)
"""Numbers of adaptations after which returns are reported."""
TRIALS = 32
"""Trials per goal of MLSH, and of every setting of PPO from scratch, with 20 episodes per round."""
EPISODES = 256
"""Episodes per policy and goal in the matrix."""
RATES, STEPS = (1e-3, 3e-3, 1e-2, 3e-2), (10, 40)
"""Learning rates and gradient steps per round of PPO from scratch."""
CORNERS = (0, 9, 94, 103)
"""Goals in four rooms: the outer corner of each room."""
GOALS = {"moving-bandits": ("goal 0", "goal 1"), "four-rooms": ("north-west", "north-east", "south-west", "south-east")}
SIDE = 20
"""Positions along a side of the picture of moving bandits."""


def _bandits() -> Any:
    return jm.tasks.MovingBanditsConfig()


def _rooms() -> Any:
    return jm.tasks.FourRoomsConfig(goals=CORNERS)


def measure(folder: Path) -> dict[str, list[float]]:
    """Computes all numbers of a trained agent by name, one per seed.

    `own goal` is the lowest, over goals, return of the best sub-policy on it; `other goal` the highest return of a
    sub-policy on a goal of which it is not the best; `different goals` is 1 if no sub-policy is the best on two goals.
    `after R` is the return after R adaptations of a new master.
    """
    run, params, keys = _trained(folder)
    found = [_specialised(returns) for returns in _matrices(run, params, keys)]
    config = run.config.algo_config
    scratch = from_scratch(folder)
    certain = replace(config, master=replace(config.master, random=0.0))
    rounds, greedy, random = (
        _by_round(run, agent, some, keys)
        for agent, some in ((config, params), (certain, params), (config, _initial(run, params, keys)))
    )
    for seed, numbers in enumerate(found):
        for count in AFTER:
            numbers[f"after {count}"] = float(rounds[seed, count])
            numbers[f"gain after {count}"] = float(rounds[seed, count]) - scratch[f"after {count}"]
        numbers["without random choices"] = float(greedy[seed, ROUNDS])
        numbers["random sub-policies"] = float(random[seed, ROUNDS])
    return {name: [numbers[name] for numbers in found] for name in found[0]}


def collapse(folder: Path) -> dict[str, list[float]]:
    """Computes `own goal` and `different goals` of `measure` alone."""
    found = [_specialised(returns) for returns in _matrices(*_trained(folder))]
    return {name: [numbers[name] for numbers in found] for name in ("own goal", "different goals")}


@functools.lru_cache(maxsize=4)
def from_scratch(folder: Path) -> dict[str, float]:
    """Computes the returns of PPO that learns every task from scratch, of the best setting after each number of rounds.

    Args:
      folder: a run of MLSH. PPO gets as many episodes, networks of the same size, and observations that are normalised
        by the statistics of the first seed.
    """
    import jax

    from jaxmeta import inner, nets, rl

    run, params, _ = _trained(folder)
    family, config = run.family, run.config.algo_config
    policy = inner.policy(nets.actor_critic(family.env.spec, config.hidden, value=True))
    best = {f"after {count}": -float("inf") for count in AFTER}
    for steps in STEPS:

        @jax.jit
        def measured(rate: Any, steps: int = steps) -> Any:
            agent = inner.proximal(policy, rl.value_baseline(), inner.ProximalConfig(rate, steps))
            key = jax.random.key(0)
            own = agent.init(key)
            if config.normalize_observations:
                own = rl.NormalisedParams(own, jax.tree.map(lambda leaf: leaf[0], params.statistics))
                agent = inner.normalised(agent, family.env.spec)
            return _returns(agent, own, family, config.streams, key)

        for rate in RATES:
            rounds = measured(rate)
            best = {name: max(value, float(rounds[int(name.split()[1])])) for name, value in best.items()}
    return best


def _trained(folder: Path) -> tuple[Any, Any, Any]:
    """Loads a run, its params with an axis of seeds in front, and a key per seed."""
    import jax

    from jaxmeta.experiment import runs

    run = jm.load(folder)
    many = runs.seed_axis(run.config) is not None
    params = run.params if many else jax.tree.map(lambda leaf: leaf[None], run.params)
    return run, params, jax.random.split(jax.random.key(run.config.seed), run.config.num_seeds)


def _initial(run: Any, params: Any, keys: Any) -> Any:
    """Returns params as before training, one set per key, with the statistics of observations of the trained ones."""
    import jax

    from jaxmeta.rl import NormalisedParams

    fresh = jax.vmap(run.learner.init)(keys)
    return params.replace(learner=fresh.learner) if isinstance(params, NormalisedParams) else fresh


def _returns(learner: Any, params: Any, family: Any, streams: int, key: Any) -> Any:
    """Computes the mean return by round, [R + 1], over `TRIALS` trials on every goal."""
    import jax
    import jax.numpy as jnp

    tasks = jax.tree.map(lambda leaf: jnp.tile(leaf, TRIALS), family.train_tasks)
    keys = jax.random.split(key, len(jax.tree.leaves(tasks)[0]))
    plan = jm.Plan(rounds=ROUNDS, streams=streams)
    found = jax.vmap(lambda task, key: jm.collect(learner, params, family.env, task, key, plan))(tasks, keys)
    return found.rounds.reward.sum(2).mean((0, 2))


def _by_round(run: Any, config: Any, params: Any, keys: Any) -> Any:
    """Computes the mean return by round of MLSH with some config, [S, R + 1], for params and keys of S seeds."""
    import jax
    import numpy as np

    agent = jm.mlsh(run.family, config).learner
    one = lambda params, key: _returns(agent, params, run.family, config.streams, key)  # noqa: E731
    # seeds sequentially: experience of all trials of one is large enough
    return np.asarray(jax.jit(lambda params, keys: jax.lax.map(lambda both: one(*both), (params, keys)))(params, keys))


def _matrices(run: Any, params: Any, keys: Any) -> Any:
    """Computes the returns of the sub-policies on the goals, each alone, [S, K, N]."""
    import jax
    import numpy as np

    from jaxmeta.algos.hierarchy import mlsh
    from jaxmeta.viz import options

    env, goals = run.family.env, run.family.train_tasks

    def one(params: Any, key: Any) -> Any:
        policy, each = mlsh.sub_policies(env.spec, run.config.algo_config, params)
        return options.policy_returns(policy, each, env, goals, key, EPISODES)

    return np.asarray(jax.jit(jax.vmap(one))(params, keys))


def _specialised(returns: Any) -> dict[str, float]:
    """Summarises a matrix of returns of policies on goals, [K, N]; see `measure`."""
    best = returns.argmax(0)
    rest = [row[goal] for index, row in enumerate(returns) for goal in range(len(best)) if best[goal] != index]
    return {
        "own goal": float(returns.max(0).min()),
        "other goal": float(max(rest)),
        "different goals": float(len(set(best.tolist())) == len(best)),
    }


def _optimum(tasks: str) -> float:
    """Returns the exact return of knowing the goal, averaged over goals."""
    if tasks == "moving-bandits":
        return jm.references.moving_bandits.oracle_return()
    returns = [jm.references.rooms.optimal_return(goal) for goal in CORNERS]
    return sum(returns) / len(returns)


def _pictures(folders: Mapping[str, Path]) -> dict[str, Any]:
    """Draws, for the first seed, where each sub-policy goes and which the master chooses, and the matrix of returns."""
    import jax

    from jaxmeta.viz import options

    drawn = {}
    for tasks, goals in GOALS.items():
        if (folder := folders.get(f"{tasks}/mlsh")) is None:
            continue
        run, params, keys = _trained(folder)
        returns = _matrices(run, params, keys)
        policies = [f"sub-policy {index}" for index in range(returns.shape[1])]
        optimum = _optimum(tasks)
        drawn[f"{tasks}-returns"] = options.draw_returns(returns[0], policies, goals, f"{tasks}: returns", optimum)
        first = jax.tree.map(lambda leaf: leaf[0], params)
        drawn[f"{tasks}-choices"] = _choices(run, first, keys[0], policies, goals, tasks)
    return drawn


def _choices(run: Any, params: Any, key: Any, policies: list[str], goals: tuple[str, ...], tasks: str) -> Any:
    """Draws the sub-policies of one seed, and a master before and after its adaptations to every goal."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from jaxmeta.algos.hierarchy import mlsh
    from jaxmeta.core.rollout import replay_fast
    from jaxmeta.tasks.four_rooms import MOVES as STEPS_IN_ROOMS
    from jaxmeta.tasks.moving_bandits import EXTENT, MOVES
    from jaxmeta.viz import options

    learner, family, spec = run.learner, run.family, run.family.env.spec
    places = jnp.eye(spec.observation[0])
    moves, marks, positions = STEPS_IN_ROOMS, [[cell] for cell in CORNERS], np.zeros(0)
    if tasks == "moving-bandits":
        side = EXTENT / SIDE * (np.arange(SIDE) + 0.5)
        positions = np.stack(np.meshgrid(side, side), -1).reshape(-1, 2)
        layout = np.array([[90.0, 290.0], [310.0, 130.0]])
        obs = np.concatenate([positions, np.tile(layout.reshape(-1), (len(positions), 1))], 1)
        places, moves, marks = jnp.asarray(obs / EXTENT, jnp.float32), MOVES, [layout] * 2

    @jax.jit
    def masters(task: Any) -> Any:
        trial = jm.collect(learner, params, family.env, task, key, run.meta.plan)
        fast = replay_fast(learner, params, trial)
        either = [jax.tree.map(lambda leaf, index=index: leaf[index], fast) for index in (0, -1)]
        return [options.choice_probabilities(learner, params, one, spec, places) for one in either]

    policy, each = mlsh.sub_policies(spec, run.config.algo_config, params)
    actions = jax.jit(lambda: options.action_probabilities(policy, each, spec, places))()
    every = np.eye(len(policies))
    shown = marks[0] if len(positions) else ()
    panels = {
        name: options.acting(np.tile(every[index], (len(places), 1)), actions, moves, shown)
        for index, name in enumerate(policies)
    }
    for index, goal in enumerate(goals):
        before, after = masters(jax.tree.map(lambda leaf, index=index: leaf[index], family.train_tasks))
        if not index:
            panels["master before"] = options.acting(before, actions, moves, shown)
        panels[f"master after: {goal}"] = options.acting(after, actions, moves, marks[index])
    title = f"{tasks}: sub-policies, and a master before and after {ROUNDS} adaptations"
    if len(positions):
        return options.draw_plane(panels, positions, policies, title)
    return options.draw_rooms(panels, policies, title)


def _recipe(**changes: Any) -> Any:
    return lambda updates: jm.MLSHConfig(**changes)


def _rows(tasks: str, required: Mapping[str, Required]) -> tuple[Row, ...]:
    """Lists the mean over seeds of every number and, where something is required, that of the worst seed."""
    optimum = functools.partial(_optimum, tasks)
    shown = ["own goal", "other goal", "different goals", *(f"after {count}" for count in AFTER)]
    shown += ["without random choices", *(f"gain after {count}" for count in AFTER[1:]), "random sub-policies"]
    rows = []
    for name in shown:
        of_goal = optimum if name.startswith(("own", "after", "without")) else None
        rows.append(Row(named(name), name, optimum=of_goal))
        if (bounds := required.get(name)) is not None:
            rows.append(Row(worst_seed(name, largest=bounds.most is not None), f"{name}, worst seed", required=bounds))
    return tuple(rows)


BANDIT_BOUNDS = {
    "own goal": Required(least=36.0),
    "other goal": Required(most=4.0),
    "different goals": Required(least=1.0),
    "after 9": Required(least=36.0),
    "gain after 3": Required(least=10.0),
    "gain after 9": Required(least=6.0),
    "random sub-policies": Required(most=5.0),
}


def _runs() -> Any:
    bandits, rooms = "moving-bandits", "four-rooms"
    yield Reference(
        f"{bandits}/knowing-the-goal",
        "moving_bandits.oracle",
        {},
        bandits,
        _bandits,
        reveal=True,
        rows=(Row(trial_return, optimum=functools.partial(_optimum, bandits)),),
    )
    yield Reference(
        f"{bandits}/random", "moving_bandits.random", {"num_actions": 5}, bandits, _bandits, rows=(Row(trial_return),)
    )
    yield Computed(
        f"{bandits}/from-scratch",
        from_scratch,
        {},
        2 * TRIALS,
        of=f"{bandits}/mlsh",
        rows=tuple(Row(named(f"after {count}"), f"after {count}") for count in AFTER),
    )
    yield Trained(f"{bandits}/mlsh", "mlsh", bandits, _recipe(), tasks_config=_bandits, updates=240, chunk=20, rows=())
    yield Computed(
        f"{bandits}/sub-policies", measure, {}, 2 * TRIALS, of=f"{bandits}/mlsh", rows=_rows(bandits, BANDIT_BOUNDS)
    )
    yield Trained(
        f"{bandits}/one-round",
        "mlsh",
        bandits,
        _recipe(trials="whole", warmup=1),
        tasks_config=_bandits,
        updates=400,
        chunk=20,
        rows=(),
    )
    yield Computed(
        f"{bandits}/collapse",
        collapse,
        {},
        2 * EPISODES,
        of=f"{bandits}/one-round",
        rows=(Row(named("own goal"), "own goal"), Row(worst_seed("own goal", False), "own goal, worst seed")),
    )
    yield Reference(
        f"{rooms}/knowing-the-goal",
        "rooms.oracle",
        {},
        rooms,
        _rooms,
        reveal=True,
        rows=(Row(trial_return, optimum=functools.partial(_optimum, rooms)),),
    )
    yield Computed(
        f"{rooms}/from-scratch",
        from_scratch,
        {},
        4 * TRIALS,
        of=f"{rooms}/mlsh",
        rows=tuple(Row(named(f"after {count}"), f"after {count}") for count in AFTER),
    )
    yield Trained(
        f"{rooms}/mlsh", "mlsh", rooms, _recipe(num_policies=4), tasks_config=_rooms, updates=400, chunk=20, rows=()
    )
    yield Computed(f"{rooms}/sub-policies", measure, {}, 4 * TRIALS, of=f"{rooms}/mlsh", rows=_rows(rooms, {}))


TABLE = Table(
    "mlsh",
    title="MLSH: returns of 50 steps of its sub-policies, each alone, and of a new master after some adaptations",
    source="no published numbers; optimum: knowing the goal. Required of every seed: own goal 36, other goal at most 4,"
    " after 9 adaptations 36, and 10 and 6 more than PPO from scratch after 3 and 9",
    runs=tuple(_runs()),
    quick=("moving-bandits/sub-policies",),
    pictures=_pictures,
)  # fmt: skip
