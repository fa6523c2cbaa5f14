"""Checks of learners and of algorithms."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxmeta import outer, rl
from jaxmeta.core.checkpoint import keys_as_data
from jaxmeta.core.contracts import require, same_form
from jaxmeta.core.learner import Learner, MetaLearner
from jaxmeta.core.rollout import collect, replay, unroll
from jaxmeta.core.train import Chunk, init_state, make_chunk, state_form
from jaxmeta.devices import Execution
from jaxmeta.tasks.base import Env, TaskFamily
from jaxmeta.testing.comparing import all_close
from jaxmeta.types import (
    Choice,
    Key,
    Output,
    Params,
    Plan,
    Task,
    Trial,
)

PERTURBATIONS = 4
"""Replays with other params that choices are compared in."""


def check_learner(
    learner: Learner,
    family: TaskFamily,
    plan: Plan,
    key: Key | None = None,
    tolerance: float = 1e-5,
    remembers: Literal["reward", "next-obs"] = "reward",
) -> None:
    """Checks how an agent collects, adapts and replays on the tasks of a family.

    Replay must equal the collection; adaptation must keep the structure of `fast` and not change `params`; vmap over
    tasks must equal a loop; meta-gradients must be finite if all rewards are zero. A recurrent carry must survive the
    episodes of a trial, depend on the last reward of each, and not on future rewards. What an agent draws for itself
    (`types.Choice` in `Output.aux`) must be replayed, not drawn again, when the params have changed; an agent with a
    PRNG key in its carry must store what it draws with it.

    Args:
      tolerance: largest difference, relative and absolute, between replay and collection. A learner that replays by a
        scan repeats the same operations, so its tolerance is 1e-6: the last bit may differ where XLA fuses the two
        programs differently.
      remembers: what a recurrent carry must depend on: the last reward of an episode, or its last observation. The
        latter is for agents that remember the dynamics; what they do must not depend on rewards.
    """
    key = jax.random.key(0) if key is None else key
    init_key, task_key, trial_key = jax.random.split(key, 3)
    params = learner.init(init_key)
    kept = jax.tree.leaves_with_path(params)
    tasks = jax.jit(jax.vmap(family.sample))(jax.random.split(task_key, 2))
    keys = jax.random.split(trial_key, 2)
    _check_forms(learner, params, family.env, jax.tree.map(lambda leaf: leaf[0], tasks), plan)

    one = jax.jit(lambda task, key: collect(learner, params, family.env, task, key, plan))
    looped = [one(*jax.tree.map(lambda leaf, index=index: leaf[index], (tasks, keys))) for index in range(2)]
    now = dict(jax.tree.leaves_with_path(params))
    for path, leaf in kept:
        where = jax.tree_util.keystr(path)
        require(now.get(path) is leaf, f"params{where} changed in place; only an update may change params")
    together = jax.jit(jax.vmap(one))(tasks, keys)  # traced once for both
    alone = jax.tree.map(lambda *leaves: np.stack(leaves), *map(keys_as_data, looped))
    all_close("collecting under vmap over tasks", together, alone, "a loop over tasks", 1e-3)

    trial = looped[0]
    replayed = jax.jit(lambda params, trial: replay(learner, params, trial))
    again = replayed(params, trial)
    recurrent = bool(jax.tree.leaves(_carry_form(learner, params)))
    same_operations = recurrent and learner.unroll is None and plan.rounds == 0
    all_close("replay", again, trial.rounds.output, "the collection", 1e-6 if same_operations else tolerance)
    _check_choices(learner, replayed, params, trial)
    if plan.rounds:
        _check_silence(learner, params, together)
    if plan.episodes > 1 and recurrent:
        _check_memory(learner, params, trial, family.env.spec.horizon, remembers)


def _check_choices(learner: Learner, replayed: Callable[..., Output], params: Params, trial: Trial) -> None:
    """Checks that the agent's own choices are replayed when the params have changed.

    Args:
      replayed: the compiled replay, (params, trial) -> outputs.
    """
    is_choice = lambda node: isinstance(node, Choice)  # noqa: E731

    def choices(output: Output) -> list[Any]:
        nodes = jax.tree.leaves(output.aux, is_leaf=is_choice)
        return keys_as_data([node.drawn for node in nodes if is_choice(node)])

    stored = choices(trial.rounds.output)
    carry = jax.tree.leaves(_carry_form(learner, params))
    draws = any(jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) for leaf in carry)
    require(
        bool(stored) or not draws,
        "the carry has a PRNG key, but Output.aux has no types.Choice; store what the agent draws (try"
        " aux=Choice(option))",
    )
    for seed in range(PERTURBATIONS if stored else 0):
        found = choices(replayed(_perturbed(params, seed), trial))
        remedy = "Learner.unroll must return those of experience.output.aux"
        for (path, before), after in zip(jax.tree.leaves_with_path(stored), jax.tree.leaves(found), strict=True):
            where = jax.tree_util.keystr(path[1:])
            share = float(np.mean(np.asarray(before) != np.asarray(after)))
            require(
                share == 0.0, f"a replay with other params draws {share:.0%} of Choice.drawn{where} again; {remedy}"
            )


def _carry_form(learner: Learner, params: Params) -> Any:
    """Returns the form of the carry of one stream; nothing is computed."""
    key = jax.random.key(0)
    return jax.eval_shape(lambda params: learner.reset(params, learner.start(params, key), key), params)


def _perturbed(params: Params, seed: int) -> Params:
    """Adds standard normal noise to all floating-point params."""
    draw = np.random.default_rng(seed)

    def noisy(leaf):
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            return leaf
        return jnp.asarray(np.asarray(leaf) + draw.standard_normal(leaf.shape), leaf.dtype)

    return jax.tree.map(noisy, params)


def _check_silence(learner: Learner, params: Params, trials: Trial) -> None:
    """Checks that meta-gradients are finite when all rewards are zero."""
    rounds = trials.rounds
    silent = trials.replace(rounds=rounds.replace(reward=jnp.zeros_like(rounds.reward)))
    loss = outer.meta_loss(learner, rl.ratio, rl.plain_returns())
    for path, leaf in jax.tree.leaves_with_path(jax.jit(jax.grad(loss))(params, silent)):
        finite = bool(jnp.isfinite(leaf).all())
        require(finite, f"the meta-gradient of params{jax.tree_util.keystr(path)} is not finite when all rewards are 0")


def _check_memory(learner: Learner, params: Params, trial: Trial, horizon: int, remembers: str) -> None:
    """Checks what the output of a recurrent agent at the start of its second episode depends on."""
    is_key = lambda leaf: jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)  # noqa: E731
    # plain arrays, on which nothing is compiled
    first = jax.tree.map(lambda leaf: leaf[0] if is_key(leaf) else np.asarray(leaf)[0], trial.rounds)

    @jax.jit
    def outputs(experience):
        output = unroll(learner, params, learner.start(params, trial.start_key), experience)
        return jnp.concatenate(
            [leaf.reshape(len(leaf), -1) for leaf in jax.tree.leaves((output.dist, output.value))], 1
        )

    def disturbed(time, what):
        def added(leaf):
            if not jnp.issubdtype(leaf.dtype, jnp.floating):
                return leaf
            leaf = leaf.copy()
            leaf[time] += 1.0
            return leaf

        field = "prev_reward" if what == "reward" else "prev_next_obs"
        changed = jax.tree.map(added, getattr(first.inputs, field))
        return np.asarray(outputs(first.replace(inputs=first.inputs.replace(**{field: changed}))))

    @jax.jit
    def opening(experience):
        start = learner.start(params, trial.start_key)
        fresh = jax.vmap(learner.reset, (None, None, 0))(params, start, experience.reset_key)
        inputs = jax.tree.map(lambda leaf: leaf[0], experience.inputs)
        return jax.vmap(learner.act, (None, None, 0, 0))(params, start, fresh, inputs)[1].dist

    what = "reward" if remembers == "reward" else "observation"
    actual, last, early = np.asarray(outputs(first)), disturbed(horizon, remembers), disturbed(1, remembers)
    require(bool((actual[:horizon] == last[:horizon]).all()), f"the policy's output depends on a future {what}")
    require(
        not np.array_equal(actual[horizon], last[horizon]), f"the last {what} of an episode does not reach the policy"
    )
    if remembers != "reward":
        rewarded = np.array_equal(actual[horizon], disturbed(horizon, "reward")[horizon])
        require(rewarded, "the policy's output depends on a reward; a memory of the dynamics must not")
    require(not np.array_equal(actual[horizon], early[horizon]), "the carry does not survive the end of an episode")
    opened = jax.tree.map(lambda leaf: leaf[0], first.output.dist)
    all_close("the first output of a trial", opening(first), opened, "that of a fresh carry", 1e-5)


def check_algo(meta: MetaLearner, key: Key | None = None) -> None:
    """Checks the outer loop of an algorithm.

    An update must keep structure and dtypes, change the params, and report finite scalars. Six updates in one device
    call must equal two calls of three bit for bit. Vmap over seeds on one device must equal separate runs on all
    devices, up to 1e-5 of the norm of the params.
    """
    key = jax.random.key(0) if key is None else key
    # traced once for its form and for the program of separate runs
    meta = meta._replace(update=jax.jit(meta.update, inline=True))
    state = state_form(meta)
    with jax.set_mesh(Execution().mesh(meta.info.spread)):
        next_state, metrics = jax.eval_shape(meta.update, state, ())
    same_form("the state after an update", next_state, "the state at the start", state)
    for name, value in metrics.items():
        require(value.shape == (), f"metric {name!r} has shape {list(value.shape)}; metrics are scalars")

    updates = make_chunk(meta, 6)
    start = init_state(meta, key)
    begun = jax.tree.map(np.array, start.params)
    placed = [(path, leaf.sharding) for path, leaf in jax.tree.leaves_with_path(start)]
    halves, _ = updates(updates(start, 3)[0], 3)
    whole, metrics = updates(init_state(meta, key), 6)
    for (path, before), after in zip(placed, jax.tree.leaves(whole), strict=True):
        require(
            after.sharding.is_equivalent_to(before, after.ndim),
            f"updates moved state{jax.tree_util.keystr(path)} from {before} to {after.sharding}, and every such call"
            " compiles again; a state must stay where it was placed",
        )
    all_close("two chunks of 3 updates", keys_as_data(halves), keys_as_data(whole), "one chunk of 6", 0.0)
    for name, values in metrics.items():
        require(bool(jnp.isfinite(values).all()), f"metric {name!r} is not finite within 6 updates")
    moved = jax.tree.map(lambda before, after: not np.array_equal(before, after), begun, whole.params)
    require(any(jax.tree.leaves(moved)), "6 updates left all params as they were")

    change = max(
        np.abs(after - before).max() for after, before in zip(*map(jax.tree.leaves, (whole.params, begun)), strict=True)
    )
    _check_seeds_and_devices(meta, key, updates, float(change))


def _check_seeds_and_devices(meta: MetaLearner, key: Key, updates: Chunk, change: float) -> None:
    """Checks that two seeds side by side on one device equal separate runs on all devices, up to rounding.

    After the first update past the warm-up, params of the first seed must be the same up to 1e-5 of their norm. Later
    updates amplify rounding errors: after three, all params must be the same up to 5 % of `change`.

    Args:
      updates: the program of separate runs.
      change: the largest change of a param in six updates.
    """
    first, one = meta.info.warmup + 1, Execution(devices=1)
    keys = jax.random.split(key, 2)
    side_by_side = make_chunk(meta, max(first, 3), num_seeds=2, execution=one)
    for updates_done in (first, 3):
        together = side_by_side(init_state(meta, key, 2, one), updates_done)[0].params
        alone = [_after(meta, seed, updates, updates_done) for seed in keys]
        if updates_done == first:
            flat = [
                np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(jax.device_get(params))])
                for params in (jax.tree.map(lambda leaf: leaf[0], together), alone[0])
            ]
            apart = float(np.linalg.norm(flat[0] - flat[1]) / np.linalg.norm(flat[0]))
            require(
                apart <= 1e-5,
                f"params after an update differ by {apart:.3g} of their norm between two seeds on one device and a"
                " single one on several; allowed is 1e-5",
            )
        stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *alone)
        all_close("vmap over seeds", together, stacked, "separate runs", 0.05 * change)


def _after(meta: MetaLearner, key: Key, updates: Chunk, count: int) -> Params:
    """Returns the params after some updates, made by a program of six."""
    state, done = init_state(meta, key), 0
    while done < count:
        step = min(6, count - done)
        state, done = updates(state, step)[0], done + step
    return state.params


def _check_forms(learner: Learner, params: Params, env: Env, task: Task, plan: Plan) -> None:
    """Checks by tracing alone that every function keeps the structure of what it updates."""
    key = jax.random.key(0)
    fast = jax.eval_shape(learner.start, params, key)
    carry = jax.eval_shape(learner.reset, params, fast, key)
    next_carry, _ = jax.eval_shape(learner.act, params, fast, carry, env.spec.example_input())
    same_form("the carry after learner.act", next_carry, "the carry after learner.reset", carry)
    trial = jax.eval_shape(
        lambda task: collect(learner, params, env, task, key, dataclasses.replace(plan, rounds=0)), task
    )
    experience = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), trial.rounds)
    adapted = jax.eval_shape(learner.adapt, params, fast, experience, key)
    same_form("fast after learner.adapt", adapted, "fast after learner.start", fast)
