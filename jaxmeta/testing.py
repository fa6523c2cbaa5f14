"""Contract tests for environments, learners and algorithms, your own included.

    from jaxmeta import testing

    testing.check_env(family)
    testing.check_learner(meta.learner, family, meta.plan)
    testing.check_algo(meta)

Each check returns None or raises `ContractError` with a message of one line. They compile and run real programs: use
small networks and few tasks.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxmeta import devices, inner, nets, outer, rl
from jaxmeta.core.checkpoint import keys_as_data
from jaxmeta.core.contracts import ContractError, check_forms
from jaxmeta.core.contracts import require as _require
from jaxmeta.core.contracts import same_form as _same_form
from jaxmeta.core.learner import Learner, MetaLearner
from jaxmeta.core.rollout import collect, replay, unroll
from jaxmeta.core.train import init_state, make_chunk
from jaxmeta.devices import Execution
from jaxmeta.tasks.base import Env, TaskFamily
from jaxmeta.types import (
    Continuous,
    Discrete,
    Key,
    Metrics,
    MultiDiscrete,
    Output,
    Params,
    Plan,
    Spec,
    Step,
    Task,
    Trial,
)

DRAWS = 16
"""Tasks that `check_env` draws."""
UNBOUNDED = 1e18
"""An action `limit` from here on counts as no limit."""


def check_env(
    family: TaskFamily,
    key: Key | None = None,
    num_steps: int = 8,
    tolerance: float = 1e-4,
    max_steps: int = 1000,
) -> None:
    """Checks an environment and its task distribution under random actions.

    The environment must be pure, keep the structure of its state, match its spec, return finite rewards, clip actions
    to the limit of its spec, end episodes early only if `spec.terminates`, and give the same results under vmap. Tasks
    must depend on the key, unless `train_tasks` holds a single task.

    Args:
      num_steps: steps of an episode that are compared.
      tolerance: largest difference between vmap and a loop, relative and absolute. Stiff physics amplifies rounding
        errors over time: use few steps and a larger tolerance there.
      max_steps: if `spec.terminates` is False, checks that no episode ends within this many steps, at most the horizon;
        0 skips this check.
    """
    check_forms(family)
    env, spec = family.env, family.env.spec
    key = jax.random.key(0) if key is None else key
    task_key, test_key, steps_key = jax.random.split(key, 3)
    tasks = _check_sampling(family, task_key, test_key)
    task = jax.tree.map(lambda leaf: leaf[0], tasks)
    state, _ = jax.eval_shape(env.reset, key, task)
    _check_traced_alike("env.reset", env.reset, key, task)
    _check_traced_alike("env.step", env.step, key, state, spec.action.example(), task)

    steps = _check_steps(env, tasks, steps_key, num_steps, tolerance)
    _check_ends(spec, np.logical_or(steps.terminated, steps.truncated))
    if not spec.terminates and min(spec.horizon, max_steps) > num_steps:
        _check_ends(spec, _ends(env, tasks, steps_key, min(spec.horizon, max_steps)))


def _check_steps(env: Env, tasks: Task, steps_key: Key, num_steps: int, tolerance: float) -> Step:
    """Checks the first steps under vmap, in a loop and with clipped actions; returns them, [2, num_steps, ...]."""
    spec = env.spec

    def episode(key, task, actions):
        reset_key, *keys = jax.random.split(key, num_steps + 1)

        def one(state, moment):
            env_state, obs = state
            step_key, action = moment
            action = _valid_action(spec, action, jax.random.fold_in(step_key, 1), obs)
            env_state, step = env.step(step_key, env_state, action, task)
            return (env_state, step.obs), step

        state, obs = env.reset(reset_key, task)
        return obs, jax.lax.scan(one, (state, obs), (jnp.stack(keys), actions))[1]

    keys, two = jax.random.split(steps_key, 2), jax.tree.map(lambda leaf: leaf[:2], tasks)
    action_keys = jax.random.split(jax.random.fold_in(steps_key, 1), (2, num_steps))
    actions = jax.vmap(jax.vmap(lambda key: _random_action(spec, key)))(action_keys)
    alone = jax.jit(episode)  # traced once for both
    together = jax.jit(jax.vmap(alone))
    looped = jax.jit(lambda *all: jax.lax.map(lambda one: alone(*one), all))(keys, two, actions)
    _all_close("vmap over tasks", together(keys, two, actions), looped, "a loop over tasks", tolerance)
    steps = jax.device_get(looped[1])
    _require(bool(np.isfinite(steps.reward).all()), "env.step returns a non-finite reward")
    finite = all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(steps.obs))
    _require(finite, "env.step returns a non-finite observation")
    _require(spec.success or not bool(np.any(steps.success)), "env.step returns success, but spec.success is False")
    if isinstance(spec.action, Continuous) and spec.action.limit < UNBOUNDED:
        limit = spec.action.limit
        clipped = together(keys, two, jnp.clip(actions, -limit, limit))
        what = f"env.step with actions beyond spec.action.limit, which is {limit},"
        _all_close(what, looped, clipped, "the same with clipped actions", tolerance)
    return steps


def _check_sampling(family: TaskFamily, key: Key, test_key: Key) -> Task:
    """Checks that tasks depend on the key and on no hidden state; returns some tasks, [DRAWS, ...]."""
    for name, one in (("sample", key), ("sample_test", test_key)):
        _check_traced_alike(f"family.{name}", getattr(family, name), one)
    tasks = jax.jit(jax.vmap(family.sample))(jax.random.split(key, DRAWS))
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(keys_as_data(tasks))]
    single = family.train_tasks is not None and jax.tree.leaves(family.train_tasks)[0].shape[0] == 1
    _require(
        single or any((leaf != leaf[:1]).any() for leaf in leaves),
        f"family.sample returns the same task for {DRAWS} keys; it must use its key, with jax.random",
    )
    return tasks


def _ends(env: Env, tasks: Task, key: Key, num_steps: int) -> np.ndarray:
    """Returns at which steps episodes end, bool [DRAWS, num_steps]; half of them repeat one random action."""

    def episode(task, key, repeats):
        reset_key, action_key, steps_key = jax.random.split(key, 3)

        def one(state, moment):
            step_key, time = moment
            action = _random_action(env.spec, jax.random.fold_in(action_key, jnp.where(repeats, 0, time)))
            env_state, obs = state
            action = _valid_action(env.spec, action, jax.random.fold_in(step_key, 1), obs)
            env_state, step = env.step(step_key, env_state, action, task)
            return (env_state, step.obs), step.terminated | step.truncated

        return jax.lax.scan(
            one, env.reset(reset_key, task), (jax.random.split(steps_key, num_steps), jnp.arange(num_steps))
        )[1]

    repeats = jnp.arange(DRAWS) % 2 == 1
    return np.asarray(jax.jit(jax.vmap(episode))(tasks, jax.random.split(key, DRAWS), repeats))


def _check_ends(spec: Spec, terminated: np.ndarray) -> None:
    early = not spec.terminates and bool(terminated.any())
    after = int(np.argmax(terminated.any(0))) + 1
    _require(not early, f"env.step ends an episode early, but spec.terminates is False; one ended after {after} steps")


def check_learner(
    learner: Learner, family: TaskFamily, plan: Plan, key: Key | None = None, tolerance: float = 1e-5
) -> None:
    """Checks how an agent collects, adapts and replays on the tasks of a family.

    Replay must equal the collection; adaptation must keep the structure of `fast` and not change `params`; vmap over
    tasks must equal a loop; meta-gradients must be finite if all rewards are zero. A recurrent carry must survive the
    episodes of a trial, depend on the last reward of each, and not on future rewards.

    Args:
      tolerance: largest difference, relative and absolute, between replay and collection. A learner that replays by a
        scan repeats the same operations, so its tolerance is 1e-6: the last bit may differ where XLA fuses the two
        programs differently.
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
    """Checks that meta-gradients are finite when all rewards are zero."""
    rounds = trials.rounds
    silent = trials.replace(rounds=rounds.replace(reward=jnp.zeros_like(rounds.reward)))
    loss = outer.meta_loss(learner, rl.ratio, rl.plain_returns())
    for path, leaf in jax.tree.leaves_with_path(jax.jit(jax.grad(loss))(params, silent)):
        finite = bool(jnp.isfinite(leaf).all())
        _require(
            finite, f"the meta-gradient of params{jax.tree_util.keystr(path)} is not finite when all rewards are 0"
        )


def _check_memory(learner: Learner, params: Params, trial: Trial, horizon: int) -> None:
    """Checks what the output of a recurrent agent at the start of its second episode depends on."""
    start = learner.start(params, trial.start_key)
    first = jax.tree.map(lambda leaf: leaf[0], trial.rounds)

    @jax.jit
    def outputs(experience):
        output = unroll(learner, params, start, experience)
        return jnp.concatenate(
            [leaf.reshape(len(leaf), -1) for leaf in jax.tree.leaves((output.dist, output.value))], 1
        )

    def with_reward(time):
        reward = first.inputs.prev_reward.at[time].add(1.0)
        return outputs(first.replace(inputs=first.inputs.replace(prev_reward=reward)))

    actual, last, early = outputs(first), with_reward(horizon), with_reward(1)
    _require(bool((actual[:horizon] == last[:horizon]).all()), "the policy's output depends on a future reward")
    _require(
        not np.array_equal(actual[horizon], last[horizon]), "the last reward of an episode does not reach the policy"
    )
    _require(not np.array_equal(actual[horizon], early[horizon]), "the carry does not survive the end of an episode")
    fresh = jax.vmap(learner.reset, (None, None, 0))(params, start, first.reset_key)
    opening = jax.tree.map(lambda leaf: leaf[0], first.inputs)
    _, output = jax.vmap(learner.act, (None, None, 0, 0))(params, start, fresh, opening)
    opened = jax.tree.map(lambda leaf: leaf[0], first.output)
    _all_close("the first output of a trial", output.dist, opened.dist, "that of a fresh carry", 1e-5)


def check_algo(meta: MetaLearner, key: Key | None = None) -> None:
    """Checks the outer loop of an algorithm.

    An update must keep structure and dtypes, change the params, and report finite scalars. Six updates in one device
    call must equal two calls of three bit for bit. Another number of devices must give the same params up to 1e-5 of
    their norm. Vmap over seeds must equal separate runs.
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
    programs = updates._cache_size()
    _require(programs == 1, f"the same update was compiled {programs} times; a state must stay where it was placed")
    _all_close("two chunks of 3 updates", keys_as_data(halves), keys_as_data(whole), "one chunk of 6", 0.0)
    for name, values in metrics.items():
        _require(bool(jnp.isfinite(values).all()), f"metric {name!r} is not finite within 6 updates")
    moved = jax.tree.map(lambda before, after: not np.array_equal(before, after), begun, whole.params)
    _require(any(jax.tree.leaves(moved)), "6 updates left all params as they were")

    _check_devices(meta, key, updates)
    # updates amplify rounding errors: the tolerance is 5 % of the largest change of the params
    together = make_chunk(meta, 3, num_seeds=2)(init_state(meta, key, num_seeds=2))[0].params
    alone = [updates(init_state(meta, one), 3)[0].params for one in jax.random.split(key, 2)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *alone)
    change = max(
        np.abs(after - before).max() for after, before in zip(*map(jax.tree.leaves, (whole.params, begun)), strict=True)
    )
    _all_close("vmap over seeds", together, stacked, "separate runs", 0.05 * float(change))


def check_updater(updater: inner.Updater, params: Params | None = None, key: Key | None = None) -> None:
    """Checks an inner update rule.

    Its transformation must keep the structure of its state and the form of the params, and the meta-gradient through
    two of its steps must be finite, also where the gradient of the inner loss is zero.

    Args:
      params: what is adapted; by default a kernel and a bias named as those of the last layer of `jaxmeta.nets`.
    """
    key = jax.random.key(0) if key is None else key
    if params is None:
        kernel = jnp.linspace(-1.0, 1.0, 6).reshape(3, 2)
        params = {"params": {"_ActionHead_0": {"Dense_0": {"kernel": kernel, "bias": jnp.ones(2)}}}}
    psi = updater.init(key, params)
    state = jax.eval_shape(lambda psi: updater.tx(psi).init(params), psi)
    updates, next_state = jax.eval_shape(lambda psi, state: updater.tx(psi).update(params, state, params), psi, state)
    _same_form("the updates of updater.tx", updates, "the params", params)
    _same_form("the state after updater.tx.update", next_state, "the state after updater.tx.init", state)

    def after_two_steps(learned: tuple[Params, Params], target: Params) -> jax.Array:
        theta, psi = learned
        tx = updater.tx(psi)
        state = tx.init(theta)
        for _ in range(2):
            gradient = jax.tree.map(lambda leaf, end: leaf - end, theta, target)
            updates, state = tx.update(gradient, state, theta)
            theta = jax.tree.map(jnp.add, theta, updates)
        return sum((jnp.sum(jnp.square(leaf + 1.0)) for leaf in jax.tree.leaves(theta)), jnp.zeros(()))

    _check_traced_alike("updater.tx", after_two_steps, (params, psi), params)
    meta_gradient = jax.jit(jax.grad(after_two_steps))
    for where, target in (("", jax.tree.map(jnp.zeros_like, params)), (" where the inner gradient is zero", params)):
        for path, leaf in jax.tree.leaves_with_path(meta_gradient((params, psi), target)):
            name = ("the params", "ψ")[path[0].idx] + jax.tree_util.keystr(path[1:])
            _require(bool(jnp.isfinite(leaf).all()), f"the meta-gradient of {name} is not finite{where}")


def check_aggregate(aggregate: outer.Aggregate, key: Key | None = None, tolerance: float = 1e-5) -> None:
    """Checks how an aggregate makes one gradient of those of several tasks.

    The gradient must have the form of the params, metrics must be scalars, a task with weight zero must not change the
    gradient, and neither the number of tasks that a device differentiates in parallel nor that of the devices may make
    a difference beyond rounding.

    Args:
      tolerance: largest difference, relative and absolute.
    """
    key = jax.random.key(0) if key is None else key
    params = {"kernel": jnp.linspace(-1.0, 1.0, 6).reshape(3, 2), "bias": jnp.ones(2)}
    data = {"kernel": jnp.arange(24.0).reshape(4, 3, 2) / 10.0, "bias": jnp.arange(8.0).reshape(4, 2)}

    def loss(params: Params, data: Params, key: Key) -> tuple[jax.Array, Metrics]:
        terms = jax.tree.map(lambda leaf, end: jnp.sum(jnp.square(leaf - end)), params, data)
        return terms["kernel"] + terms["bias"], {"bias": terms["bias"]}

    def run(data: Params, weight: jax.Array, piece: int | None = None, num_devices: int | None = 1) -> outer.Gradient:
        batch = outer.Batch(data, jax.random.split(key, 4), weight)

        def on_device(params: Params, batch: outer.Batch) -> tuple[Any, jax.Array]:
            found = aggregate(loss, params, batch, piece)
            return found[:3], found.weight

        with jax.set_mesh(Execution(num_devices).mesh(4)):
            shared, weight = jax.jit(lambda *all: devices.over_tasks(on_device, *all))(params, batch)
        value, gradient, metrics = shared
        return outer.Gradient(value, gradient, metrics, weight)

    ones, some = jnp.ones(4), jnp.array([1.0, 2.0, 0.0, 1.0])
    found = run(data, ones)
    _same_form("the gradient of the aggregate", found.gradient, "the params", params)
    _require(found.loss.shape == (), f"the loss of the aggregate has shape {list(found.loss.shape)}; it is a scalar")
    _require(found.weight.shape == (4,), f"the weight of 4 tasks has shape {list(found.weight.shape)}; it must be [4]")
    for name, value in found.metrics.items():
        _require(value.shape == (), f"metric {name!r} has shape {list(value.shape)}; metrics are scalars")
    found = run(data, some)
    _require(float(found.weight[2]) == 0.0, "a task with weight 0 has a weight in the aggregate")
    other = jax.tree.map(lambda leaf: leaf.at[2].multiply(-3.0), data)
    what = "the gradient with another task of weight 0"
    _all_close(what, run(other, some).gradient, found.gradient, "the gradient", tolerance)
    _all_close("the aggregate in pieces of 2", run(data, some, piece=2), found, "that of 4 in parallel", tolerance)
    if Execution().mesh(4).size > 1:
        spread = run(data, some, num_devices=None)
        _all_close("the aggregate on several devices", spread, found, "that on one", tolerance)


def check_sampler(sampler: outer.Sampler, family: TaskFamily, num_tasks: int = 4, key: Key | None = None) -> None:
    """Checks how a sampler draws the tasks of an update and what it remembers of them.

    A draw must hold tasks like those of the family, a slot and a weight for each; drawing and scoring must keep the
    structure of the sampler's state, which must stay finite after a non-finite task. The outcomes that are scored are
    trials of a policy without memory.

    Args:
      num_tasks: tasks of an update.
    """
    key = jax.random.key(0) if key is None else key
    init_key, policy_key, trial_key = jax.random.split(key, 3)
    spec, plan = family.env.spec, Plan()
    learner = inner.memory(nets.actor_critic(spec, (4,)))
    params, state, keys = learner.init(policy_key), sampler.init(init_key), jax.random.split(key, num_tasks)
    _check_traced_alike("sampler.sample", sampler.sample, state, params, keys)
    drawn_state, draw = jax.jit(sampler.sample)(state, params, keys)
    _same_form("the state after sampler.sample", drawn_state, "the state after sampler.init", state)
    task = jax.eval_shape(family.sample, key)
    expected = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((num_tasks, *leaf.shape), leaf.dtype), task)
    _same_form("draw.tasks", draw.tasks, f"a batch of {num_tasks} tasks of the family", expected)
    for name, dtype in (("slot", jnp.int32), ("weight", jnp.float32)):
        right = jax.ShapeDtypeStruct((num_tasks,), dtype)
        _same_form(f"draw.{name}", getattr(draw, name), f"one for each of {num_tasks} tasks", right)
    weights = np.asarray(draw.weight)
    _require(bool((np.isfinite(weights) & (weights >= 0)).all()), "draw.weight has negative or non-finite weights")

    def score(task: Task, key: Key) -> jax.Array:
        return sampler.score(collect(learner, params, family.env, task, key, plan))

    scores = jax.jit(jax.vmap(score))(draw.tasks, jax.random.split(trial_key, num_tasks))
    shape = list(scores.shape[1:])
    _require(not shape, f"sampler.score gives a score of shape {shape}; the score of a task is a scalar")
    finite = jnp.arange(num_tasks) > 0
    spoiled = jnp.where(finite, scores, jnp.nan)
    next_state, metrics = jax.jit(sampler.update)(drawn_state, draw, spoiled, finite)
    _same_form("the state after sampler.update", next_state, "the state after sampler.sample", drawn_state)
    for path, leaf in jax.tree.leaves_with_path(keys_as_data(next_state)):
        where = jax.tree_util.keystr(path)
        _require(
            bool(jnp.isfinite(leaf).all()), f"the sampler's state{where} is not finite after a task that was not finite"
        )
    for name, value in metrics.items():
        _require(value.shape == (), f"metric {name!r} has shape {list(value.shape)}; metrics are scalars")


def _check_devices(meta: MetaLearner, key: Key, updates: Any) -> None:
    """Checks that params after the first update past the warm-up are the same on one device, up to rounding."""
    if Execution().mesh(meta.info.spread).size == 1:
        return
    one, first = Execution(devices=1), meta.info.warmup + 1
    alone = make_chunk(meta, first, execution=one)(init_state(meta, key, execution=one))[0].params
    together, done = init_state(meta, key), 0
    while done < first:
        count = min(6, first - done)
        together, done = updates(together, count)[0], done + count
    flat = [
        np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(jax.device_get(params))])
        for params in (alone, together.params)
    ]
    apart = float(np.linalg.norm(flat[0] - flat[1]) / np.linalg.norm(flat[0]))
    _require(
        apart <= 1e-5, f"params after an update differ by {apart:.3g} of their norm from one device; allowed is 1e-5"
    )


def _check_traced_alike(name: str, function: Callable[..., Any], *arguments: Any) -> None:
    """Checks that a function traces to the same program twice; hidden state or random numbers of numpy change it."""

    def trace():
        # in a new function every time: JAX caches traces by function
        program = jax.make_jaxpr(lambda *arguments: function(*arguments))(*arguments)
        constants = [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(keys_as_data(program.consts))]
        return re.sub("0x[0-9a-f]+", "", str(program)), constants  # without memory addresses

    _require(
        trace() == trace(),
        f"{name} changes when it is traced again; it must be pure and take random numbers from its key",
    )


def _check_forms(learner: Learner, params: Params, env: Env, task: Task, plan: Plan) -> None:
    """Checks by tracing alone that every function keeps the structure of what it updates."""
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


def _valid_action(spec: Spec, action: jax.Array, key: Key, obs: Any) -> jax.Array:
    """Replaces an action by one that the action mask of an observation allows, if there is a mask."""
    if spec.action_mask is None or isinstance(spec.action, Continuous):
        return action
    logits = jnp.zeros(spec.action.num if isinstance(spec.action, Discrete) else sum(spec.action.nums))
    output = Output(dist=nets.mask_logits(logits, obs[spec.action_mask], spec), value=jnp.zeros(()))
    return nets.head_for(spec.action)(output).sample(seed=key).astype(jnp.int32)


def _random_action(spec: Spec, key: Key) -> jax.Array:
    """Draws an action; continuous ones may lie beyond the limit, where the environment must clip them."""
    if isinstance(spec.action, Discrete):
        return jax.random.randint(key, (), 0, spec.action.num)
    if isinstance(spec.action, MultiDiscrete):
        return jax.random.randint(key, (len(spec.action.nums),), 0, jnp.array(spec.action.nums))
    largest = 2.0 * spec.action.limit if spec.action.limit < UNBOUNDED else 1.0
    return jax.random.uniform(key, (spec.action.size,), minval=-largest, maxval=largest)


def _all_close(name: str, tree: Any, other: Any, other_name: str, tolerance: float) -> None:
    """Checks that two trees have equal leaves up to a tolerance; bit for bit if it is 0."""
    for (path, leaf), other_leaf in zip(
        jax.tree.leaves_with_path(keys_as_data(tree)), jax.tree.leaves(keys_as_data(other)), strict=True
    ):
        leaf, other_leaf = np.asarray(leaf), np.asarray(other_leaf)
        if np.allclose(leaf, other_leaf, rtol=tolerance, atol=tolerance, equal_nan=tolerance > 0):
            continue
        worst = np.max(np.abs(leaf.astype(np.float64) - other_leaf.astype(np.float64)))
        where = jax.tree_util.keystr(path) or "its root"
        raise ContractError(f"{name} differs from {other_name} by {worst:.3g} at {where}; allowed is {tolerance:g}")
