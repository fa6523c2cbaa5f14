"""Contracts: what every environment, learner and algorithm must hold, to run on your own parts too.

Each check raises `ContractError` with one line that says what is wrong, or returns nothing. They compile small
programs; hand them small sizes.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from jaxmeta import nets, outer, rl
from jaxmeta.core.checkpoint import keys_as_data
from jaxmeta.core.learner import Learner, MetaLearner
from jaxmeta.core.rollout import collect, replay, unroll
from jaxmeta.core.train import init_state, make_chunk
from jaxmeta.tasks.base import Env, TaskFamily
from jaxmeta.types import Continuous, Discrete, Key, MultiDiscrete, Output, Params, Plan, Spec, Task, Trial


class ContractError(AssertionError):
    """A part does not hold what the engine relies on."""


def check_env(family: TaskFamily, key: Key | None = None, num_steps: int = 8, tolerance: float = 1e-4) -> None:
    """Checks an environment and its task law under random actions.

    It must be pure, keep the structure of its state, match its spec, pay finite rewards, end early only if its spec
    says so, and mean the same under vmap as alone.

    Args:
      tolerance: largest difference between vmap and a loop, relative and absolute. Stiff physics amplifies rounding
        from step to step: there, take few steps and a wider tolerance.
    """
    for name in TaskFamily._fields:
        _require(hasattr(family, name), f"the family has no {name!r}; it needs {', '.join(TaskFamily._fields)}")
    env, spec = family.env, _checked_spec(family.env)
    key = jax.random.key(0) if key is None else key
    task_key, test_key, steps_key = jax.random.split(key, 3)
    tasks = jax.jit(jax.vmap(family.sample))(jax.random.split(task_key, 2))
    law, test_law = (jax.eval_shape(sample, test_key) for sample in (family.sample, family.sample_test))
    _same_form("family.sample_test", test_law, "family.sample", law)
    task = jax.tree.map(lambda leaf: leaf[0], tasks)
    code = jax.eval_shape(family.encode, task)
    _require(
        code.ndim == 1 and jnp.issubdtype(code.dtype, jnp.floating),
        f"family.encode gives {_form(code)}; a task is described by a float vector [D]",
    )

    _check_env_forms(env, spec, task)

    def episode(key, task):
        reset_key, *keys = jax.random.split(key, num_steps + 1)

        def one(state, key):
            env_state, obs = state
            action_key, env_key = jax.random.split(key)
            env_state, step = env.step(env_key, env_state, _random_action(spec, action_key, obs), task)
            return (env_state, step.obs), step

        state, obs = env.reset(reset_key, task)
        return obs, jax.lax.scan(one, (state, obs), jnp.stack(keys))[1]

    keys = jax.random.split(steps_key, 2)
    alone = jax.jit(episode)  # traced once for both
    looped = jax.jit(lambda *both: jax.lax.map(lambda one: alone(*one), both))(keys, tasks)
    _all_close("vmap over tasks", jax.jit(jax.vmap(alone))(keys, tasks), looped, "a loop over tasks", tolerance)
    steps = jax.device_get(looped[1])
    _require(bool(np.isfinite(steps.reward).all()), "env.step pays a reward that is not finite")
    finite = all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(steps.obs))
    _require(finite, "env.step gives an observation that is not finite")
    _require(
        spec.terminates or not bool(np.any(steps.terminated) or np.any(steps.truncated)),
        "env.step ends an episode early, but spec.terminates is False",
    )
    _require(spec.success or not bool(np.any(steps.success)), "env.step succeeds, but spec.success is False")


def check_learner(
    learner: Learner, family: TaskFamily, plan: Plan, key: Key | None = None, tolerance: float = 1e-5
) -> None:
    """Checks how an agent collects, adapts and replays on the tasks of a family.

    Replay must equal the collection, adaptation must keep the structure of `fast` and leave `params` alone, vmap over
    tasks must equal a loop, meta-gradients must be finite without any reward, and a carry must survive the episodes of
    a trial, see the last reward of each, and not what is to come.

    Args:
      tolerance: largest difference, relative and absolute, where one batched product stands for many small ones. A
        learner that replays by a scan does the same operations again and is held to 1e-6: the last bit may differ where
        XLA fuses the two programs differently.
    """
    key = jax.random.key(0) if key is None else key
    init_key, task_key, trial_key = jax.random.split(key, 3)
    params = learner.init(init_key)
    kept = jax.tree.leaves_with_path(params)
    tasks = jax.vmap(family.sample)(jax.random.split(task_key, 2))
    keys = jax.random.split(trial_key, 2)
    _check_forms(learner, params, family.env, jax.tree.map(lambda leaf: leaf[0], tasks), plan)

    one = jax.jit(lambda task, key: collect(learner, params, family.env, task, key, plan))
    looped = [one(jax.tree.map(lambda leaf, index=index: leaf[index], tasks), keys[index]) for index in range(2)]
    now = dict(jax.tree.leaves_with_path(params))
    for path, leaf in kept:
        where = jax.tree_util.keystr(path)
        _require(now.get(path) is leaf, f"params{where} changed in place; only an update may change params")
    together = jax.jit(jax.vmap(lambda task, key: collect(learner, params, family.env, task, key, plan)))(tasks, keys)
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *looped)
    _all_close("collecting under vmap over tasks", together, stacked, "a loop over tasks", 1e-3)

    trial = looped[0]
    again = jax.jit(lambda params, trial: replay(learner, params, trial))(params, trial)
    same_operations = bool(
        jax.tree.leaves(jax.eval_shape(learner.reset, params, learner.start(params, key), key))
    ) and (learner.unroll is None and plan.rounds == 0)
    _all_close("replay", again, trial.rounds.output, "the collection", 1e-6 if same_operations else tolerance)
    if plan.rounds:
        _check_silence(learner, params, together)
    if plan.episodes > 1 and jax.tree.leaves(jax.eval_shape(learner.reset, params, learner.start(params, key), key)):
        _check_memory(learner, params, trial, family.env.spec.horizon)


def _check_silence(learner: Learner, params: Params, trials: Trial) -> None:
    """Checks that meta-gradients are finite where nothing was ever paid."""
    rounds = trials.rounds
    silent = trials.replace(rounds=rounds.replace(reward=jnp.zeros_like(rounds.reward)))
    loss = outer.meta_loss(learner, rl.ratio, rl.plain_returns())
    for path, leaf in jax.tree.leaves_with_path(jax.jit(jax.grad(loss))(params, silent)):
        finite = bool(jnp.isfinite(leaf).all())
        _require(
            finite, f"the meta-gradient of params{jax.tree_util.keystr(path)} is not finite when all rewards are 0"
        )


def _check_memory(learner: Learner, params: Params, trial: Trial, horizon: int) -> None:
    """Checks what an agent that remembers knows at the begin of its second episode, and what it does not."""
    start = learner.start(params, trial.start_key)
    first = jax.tree.map(lambda leaf: leaf[0], trial.rounds)

    @jax.jit
    def says(experience):
        output = unroll(learner, params, start, experience)
        return jnp.concatenate(
            [leaf.reshape(len(leaf), -1) for leaf in jax.tree.leaves((output.dist, output.value))], 1
        )

    def with_reward(time):
        reward = first.inputs.prev_reward.at[time].add(1.0)
        return says(first.replace(inputs=first.inputs.replace(prev_reward=reward)))

    said, last, early = says(first), with_reward(horizon), with_reward(1)
    _require(bool((said[:horizon] == last[:horizon]).all()), "what the policy says depends on a reward of the future")
    _require(
        not np.array_equal(said[horizon], last[horizon]), "the last reward of an episode does not reach the policy"
    )
    _require(not np.array_equal(said[horizon], early[horizon]), "the carry does not survive the end of an episode")
    fresh = jax.vmap(learner.reset, (None, None, 0))(params, start, first.reset_key)
    opening = jax.tree.map(lambda leaf: leaf[0], first.inputs)
    _, output = jax.vmap(learner.act, (None, None, 0, 0))(params, start, fresh, opening)
    opened = jax.tree.map(lambda leaf: leaf[0], first.output)
    _all_close("the first output of a trial", output.dist, opened.dist, "that of a fresh carry", 1e-5)


def check_algo(meta: MetaLearner, key: Key | None = None) -> None:
    """Checks the outer loop of an algorithm.

    An update must keep structure and dtypes, change the params, report finite scalars; six updates in one device call
    must equal three and three bit for bit; vmap over seeds must equal separate runs.
    """
    key = jax.random.key(0) if key is None else key
    state = jax.eval_shape(meta.init, key)
    next_state, metrics = jax.eval_shape(meta.update, state)
    _same_form("the state after an update", next_state, "the state at the start", state)
    for name, value in metrics.items():
        _require(value.shape == (), f"metric {name!r} has shape {list(value.shape)}; metrics are scalars")

    updates = make_chunk(meta, 6)
    start = init_state(meta, key)
    begun = jax.tree.map(np.array, start.params)
    halves, _ = updates(updates(start, 3)[0], 3)
    whole, metrics = updates(init_state(meta, key), 6)
    programs = cast(Any, updates)._cache_size()
    _require(programs == 1, f"the same update was compiled {programs} times; a state must stay where it was placed")
    _all_close("two chunks of 3 updates", keys_as_data(halves), keys_as_data(whole), "one chunk of 6", 0.0)
    for name, values in metrics.items():
        _require(bool(jnp.isfinite(values).all()), f"metric {name!r} is not finite within 6 updates")
    moved = jax.tree.map(lambda before, after: not np.array_equal(before, after), begun, whole.params)
    _require(any(jax.tree.leaves(moved)), "6 updates left all params as they were")

    # an update may amplify rounding: allowed is a small part of what it changes
    together = make_chunk(meta, 3, num_seeds=2)(init_state(meta, key, num_seeds=2))[0].params
    alone = [updates(init_state(meta, one), 3)[0].params for one in jax.random.split(key, 2)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *alone)
    change = max(
        np.abs(after - before).max() for after, before in zip(*map(jax.tree.leaves, (whole.params, begun)), strict=True)
    )
    _all_close("vmap over seeds", together, stacked, "separate runs", 0.05 * float(change))


def _checked_spec(env: Env) -> Spec:
    spec = getattr(env, "spec", None)
    _require(isinstance(spec, Spec), f"env.spec is {spec!r}; it must be a jaxmeta.types.Spec")
    assert isinstance(spec, Spec)
    _require(spec.horizon >= 1, f"spec.horizon is {spec.horizon}; an episode needs at least 1 step")
    known = isinstance(spec.action, Discrete | MultiDiscrete | Continuous)
    _require(known, f"spec.action is {spec.action!r}; it must be Discrete, MultiDiscrete or Continuous")
    return spec


def _check_env_forms(env: Env, spec: Spec, task: Task) -> None:
    """Checks without compiling that an environment keeps the structure of its state and matches its spec."""
    key = jax.random.key(0)
    state, obs = jax.eval_shape(env.reset, key, task)
    if spec.is_plain and hasattr(obs, "shape"):
        _require(
            obs.shape == spec.observation,
            f"env.reset gives an observation {list(obs.shape)}; spec.observation is {list(spec.observation)}",
        )
        _require(obs.dtype == jnp.float32, f"env.reset gives an observation of {obs.dtype}; it must be float32")
    _same_form("the observation of env.reset", obs, "spec.observation", spec.observation_form())
    traced, (next_state, step) = _trace(env.step, key, state, spec.action.example(), task)
    _same_form("the state after env.step", next_state, "the state after env.reset", state)
    if not spec.is_plain or not hasattr(step.obs, "shape"):
        _same_form("the observation of env.step", step.obs, "spec.observation", spec.observation_form())
    for name, value, shape, kind in (
        *((("obs", step.obs, spec.observation, jnp.float32),) if spec.is_plain else ()),
        ("reward", step.reward, (), jnp.float32),
        ("terminated", step.terminated, (), jnp.bool_),
        ("truncated", step.truncated, (), jnp.bool_),
        ("success", step.success, (), jnp.bool_),
    ):
        _require(
            value.shape == shape and value.dtype == kind,
            f"env.step gives {name} {_form(value)}; it must be {jnp.dtype(kind).name}{list(shape)}",
        )
    again, _ = _trace(env.step, key, state, spec.action.example(), task)
    _require(traced == again, "env.step does something else when it is traced again; it must not keep state")


def _trace(function: Callable[..., Any], *arguments: Any) -> tuple[str, Any]:
    """Says what a function does, without the addresses of what it calls, and the form of what it returns."""
    # in a function of its own: what was traced before is remembered
    program, form = jax.make_jaxpr(lambda *arguments: function(*arguments), return_shape=True)(*arguments)
    return re.sub("0x[0-9a-f]+", "", str(program)), form


def _check_forms(learner: Learner, params: Params, env: Env, task: Task, plan: Plan) -> None:
    """Checks without compiling that every function keeps the structure of what it changes."""
    key = jax.random.key(0)
    fast = jax.eval_shape(learner.start, params, key)
    carry = jax.eval_shape(learner.reset, params, fast, key)
    next_carry, _ = jax.eval_shape(learner.act, params, fast, carry, env.spec.example_input())
    _same_form("the carry after learner.act", next_carry, "the carry after learner.reset", carry)
    trial = jax.eval_shape(
        lambda task: collect(learner, params, env, task, key, dataclasses.replace(plan, rounds=0)), task
    )
    experience = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), trial.rounds)
    adapted = jax.eval_shape(learner.adapt, params, fast, experience, key)
    _same_form("fast after learner.adapt", adapted, "fast after learner.start", fast)


def _random_action(spec: Spec, key: Key, obs: Any) -> jax.Array:
    if isinstance(spec.action, Discrete) and spec.action_mask is None:
        return jax.random.randint(key, (), 0, spec.action.num)
    if isinstance(spec.action, Discrete | MultiDiscrete):
        logits = jnp.zeros(spec.action.num if isinstance(spec.action, Discrete) else sum(spec.action.nums))
        if spec.action_mask is not None:
            logits = nets.mask_logits(logits, obs[spec.action_mask], spec)
        output = Output(dist=logits, value=jnp.zeros(()))
        return nets.head_for(spec.action)(output).sample(seed=key).astype(jnp.int32)
    return jax.random.uniform(key, (spec.action.size,), minval=-1.0, maxval=1.0)


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ContractError(message)


def _form(leaf: Any) -> str:
    return f"{leaf.dtype}{list(leaf.shape)}"


def _same_form(name: str, tree: Any, other_name: str, other: Any) -> None:
    """Checks that two trees have the same structure, shapes and dtypes."""
    structure, other_structure = jax.tree.structure(tree), jax.tree.structure(other)
    _require(structure == other_structure, f"{name} has the structure {structure}; {other_name} has {other_structure}")
    for (path, leaf), other_leaf in zip(jax.tree.leaves_with_path(tree), jax.tree.leaves(other), strict=True):
        same = leaf.shape == other_leaf.shape and leaf.dtype == other_leaf.dtype
        where = jax.tree_util.keystr(path) or "its root"
        _require(same, f"{name} has {_form(leaf)} at {where}; {other_name} has {_form(other_leaf)}")


def _all_close(name: str, tree: Any, other: Any, other_name: str, tolerance: float) -> None:
    """Checks that two trees have equal leaves: bit for bit with tolerance 0."""
    for (path, leaf), other_leaf in zip(
        jax.tree.leaves_with_path(keys_as_data(tree)), jax.tree.leaves(keys_as_data(other)), strict=True
    ):
        leaf, other_leaf = np.asarray(leaf), np.asarray(other_leaf)
        if np.allclose(leaf, other_leaf, rtol=tolerance, atol=tolerance, equal_nan=tolerance > 0):
            continue
        worst = np.max(np.abs(leaf.astype(np.float64) - other_leaf.astype(np.float64)))
        where = jax.tree_util.keystr(path) or "its root"
        raise ContractError(f"{name} differs from {other_name} by {worst:.3g} at {where}; allowed is {tolerance:g}")
