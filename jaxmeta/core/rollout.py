"""Collects experience without a gradient, and replays it with one."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxmeta import devices
from jaxmeta.core import guard
from jaxmeta.core.learner import Learner
from jaxmeta.tasks.base import Env
from jaxmeta.types import Array, Carry, Fast, Fault, Input, Key, Output, Params, Plan, Rollout, Spec, Task, Trial

SMALL_ARRAY = 32 * 1024
"""Bytes below which what an agent computes to act does not count, see `acting_bytes`."""
MIN_ROWS, MAX_OVERFLOW = 128, 4
"""On a CPU: streams that a recurrent agent is stepped on in parallel, if they take at most `MAX_OVERFLOW` caches."""
Demonstrate = Callable[[Task, Key], Rollout]
"""(task, key) -> a round of somebody else's experience on the task, leaves [T, E, ...]."""


@devices.in_float32
def rollout(
    learner: Learner, params: Params, fast: Fast, env: Env, task: Task, key: Key, streams: int = 1, episodes: int = 1
) -> Rollout:
    """Runs `streams` parallel streams of `episodes` episodes each, on one task.

    The carry, the previous action and the previous reward are kept across episodes, so the policy receives the last
    transition of an episode at the first step of the next one. After an early end, by termination or truncation, the
    environment state, the carry and the inputs are frozen up to the horizon.

    A step at which the environment or the policy returns non-finite numbers is a fault: its reward and observation are
    zero, and it is not valid.

    Returns:
      Experience with leaves [T, E, ...], T = episodes x horizon.
    """
    spec = env.spec
    reset_key, episodes_key = jax.random.split(key)
    reset_keys = jax.random.split(reset_key, streams)
    carry = jax.vmap(learner.reset, (None, None, 0))(params, fast, reset_keys)
    blank = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (streams, *leaf.shape)), spec.example_input())

    step = _stepper(learner, params, fast, env, task)

    def episode(state, key):
        carry, inputs = state
        start_key, steps_key = jax.random.split(key)
        env_state, obs = jax.vmap(env.reset, (0, None))(jax.random.split(start_key, streams), task)
        alive = jnp.ones(streams, bool)
        # split here for all steps at once: on a CPU a split takes as long as a layer of a network
        keys = jax.vmap(jax.random.split)(jax.random.split(steps_key, spec.horizon))
        steps = (keys, jnp.arange(spec.horizon) == spec.horizon - 1)
        state, records = jax.lax.scan(step, (env_state, carry, inputs.replace(obs=obs), alive), steps)
        return state[1:3], records

    start = (carry, blank.replace(first=jnp.ones(streams)))
    _, records = jax.lax.scan(episode, start, jax.random.split(episodes_key, episodes))
    records = jax.tree.map(lambda leaf: leaf.reshape(episodes * spec.horizon, *leaf.shape[2:]), records)
    return records.replace(reset_key=reset_keys)


def _stepper(learner: Learner, params: Params, fast: Fast, env: Env, task: Task) -> Callable[..., Any]:
    """Builds the body of a scan over the steps of parallel streams.

    Its state is (env state, carry, input, whether the episode goes on). Its input is (keys of policy and environment,
    whether it is the last step).
    """
    spec = env.spec

    def step(state, step_input):
        env_state, carry, inputs, alive = state
        (action_key, env_key), last = step_input
        next_carry, output = jax.vmap(learner.act, (None, None, 0, 0))(params, fast, carry, inputs)
        action = learner.head(output).sample(seed=action_key)
        next_env_state, outcome = jax.vmap(env.step, (0, 0, 0, None))(
            jax.random.split(env_key, alive.shape[0]), env_state, action, task
        )
        fault = _blame(inputs.obs, (output, action), (outcome.obs, outcome.reward))
        finite = fault == Fault.NONE
        valid = alive & finite
        reward = jnp.where(valid, outcome.reward, 0.0)
        obs = select(finite, outcome.obs, jax.tree.map(jnp.zeros_like, outcome.obs))
        over = outcome.terminated | outcome.truncated
        ends = over | last
        record = Rollout(
            inputs=inputs,
            action=action,
            next_obs=obs,
            reward=reward,
            valid=valid.astype(jnp.float32),
            done=(valid & ends).astype(jnp.float32),
            terminated=(valid & outcome.terminated).astype(jnp.float32),
            output=output,
            reset_key=(),  # pyright: ignore[reportArgumentType]  one for all steps, set below
            success=valid & outcome.success,
            fault=jnp.where(alive, fault, Fault.NONE),
        )
        next_inputs = Input(
            obs=obs,
            prev_action=action,
            prev_reward=reward,
            prev_done=ends.astype(jnp.float32),
            prev_next_obs=obs,
            first=jnp.zeros_like(reward),
        )
        if spec.terminates:
            next_env_state, next_carry, next_inputs = select(
                alive, (next_env_state, next_carry, next_inputs), (env_state, carry, inputs)
            )
            alive &= ~over
        return (next_env_state, next_carry, next_inputs, alive), record

    return step


def _blame(obs: Any, decision: tuple[Output, Array], outcome: Any) -> Array:
    """Returns the first source of non-finite numbers at a step in every stream, a `Fault` [E]."""
    output, action = decision
    obs_finite, outcome_finite = (guard.is_finite(tree, leading=1) for tree in (obs, outcome))
    policy_finite = guard.is_finite(output, leading=1, logits=True) & guard.is_finite(action, leading=1)
    blame = jnp.where(obs_finite & ~policy_finite, Fault.POLICY, Fault.ENVIRONMENT)
    return jnp.where(obs_finite & policy_finite & outcome_finite, Fault.NONE, blame).astype(jnp.int8)


@devices.in_float32
def unroll(learner: Learner, params: Params, fast: Fast, experience: Rollout) -> Output:
    """Re-evaluates the policy, differentiably, on stored experience [T, E, ...].

    Uses one batched call if the carry is empty, else `Learner.unroll` if there is one, else a scan.
    """
    carry = jax.vmap(learner.reset, (None, None, 0))(params, fast, experience.reset_key)
    act = jax.vmap(learner.act, (None, None, 0, 0))
    if not jax.tree.leaves(carry):
        return jax.vmap(act, (None, None, None, 0))(params, fast, carry, experience.inputs)[1]
    if learner.unroll is not None:
        return learner.unroll(params, fast, carry, experience)
    return _scan(act, params, fast, carry, experience)


def _scan(act, params: Params, fast: Fast, carry: Carry, experience: Rollout) -> Output:
    """Re-evaluates the policy on stored experience by a scan over time."""

    def step(carry, moment):
        inputs, valid = moment
        next_carry, output = act(params, fast, carry, inputs)
        return select(valid > 0, next_carry, carry), output

    return jax.lax.scan(step, carry, (experience.inputs, experience.valid))[1]


@devices.in_float32
def collect(
    learner: Learner,
    params: Params,
    env: Env,
    task: Task,
    key: Key,
    plan: Plan,
    demonstrate: Demonstrate | None = None,
) -> Trial:
    """Runs one trial on one task: `plan.rounds` rounds with an adaptation after each, and one final round.

    Vectorise it over tasks with `jax.vmap`:

        keys = jax.random.split(key, num_tasks)
        trials = jax.vmap(lambda task, key: collect(learner, params, env, task, key, plan))(tasks, keys)

    Args:
      demonstrate: acts in round 0 instead of the agent, which adapts to the demonstration and acts in the later rounds.
        The stored output of that round is the agent's, so that a replay equals the trial.

    Returns:
      A trial with leaves [R + 1, T, E, ...].

    Raises:
      ValueError: if there is a demonstrator but no adaptation, or a demonstration has other steps or streams.
    """
    if demonstrate is not None and not plan.rounds:
        raise ValueError("plan.rounds is 0; with a demonstrator, who acts in round 0, it must be at least 1")
    start_key, adapt_key, rounds_key = jax.random.split(key, 3)
    adapt_keys = jax.random.split(adapt_key, plan.rounds + 1)

    def one_round(fast, moment):
        index, round_key, adapt_key = moment
        act = lambda: rollout(learner, params, fast, env, task, round_key, plan.streams, plan.episodes)  # noqa: E731
        if demonstrate is None:
            experience = act()
        else:
            shown = functools.partial(demonstrate, task, round_key)
            shape = (plan.episodes * env.spec.horizon, plan.streams)
            experience = jax.lax.cond(index == 0, lambda: _watched(learner, params, fast, shown(), shape), act)
        if plan.rounds:
            # one scan body, hence one compilation of the physics; no adaptation follows the last round
            fast = jax.lax.cond(
                index < plan.rounds, lambda: learner.adapt(params, fast, experience, adapt_key), lambda: fast
            )
        return fast, experience

    moments = (jnp.arange(plan.rounds + 1), jax.random.split(rounds_key, plan.rounds + 1), adapt_keys)
    _, rounds = jax.lax.scan(one_round, learner.start(params, start_key), moments)
    return Trial(rounds=rounds, start_key=start_key, adapt_keys=adapt_keys[: plan.rounds])


def _watched(learner: Learner, params: Params, fast: Fast, demonstration: Rollout, shape: tuple[int, int]) -> Rollout:
    """Puts the agent's output into a demonstration [T, E, ...], as if the agent had taken its actions."""
    if demonstration.reward.shape != shape:
        found = list(demonstration.reward.shape)
        raise ValueError(f"demonstrate returns {found} steps and streams; the plan of the trial has {list(shape)}")
    return demonstration.replace(output=unroll(learner, params, fast, demonstration))


@devices.in_float32
def replay_fast(learner: Learner, params: Params, trial: Trial) -> Fast:
    """Repeats all adaptations, differentiably, on stored experience; returns the fast state per round, [R + 1, ...]."""
    fast = learner.start(params, trial.start_key)

    def adapt(fast, moment):
        experience, key = moment
        return learner.adapt(params, fast, experience, key), fast

    earlier = jax.tree.map(lambda leaf: leaf[:-1], trial.rounds)
    last, before = jax.lax.scan(adapt, fast, (earlier, trial.adapt_keys))
    return jax.tree.map(lambda stack, leaf: jnp.concatenate([stack, leaf[None]]), before, last)


def replay(learner: Learner, params: Params, trial: Trial) -> Output:
    """Re-evaluates a stored trial, adaptations included, differentiably; leaves are [R + 1, T, E, ...].

    With the params that collected the trial it equals `trial.rounds.output`.
    """
    fast = replay_fast(learner, params, trial)
    return jax.vmap(lambda fast, experience: unroll(learner, params, fast, experience))(fast, trial.rounds)


def replay_last(learner: Learner, params: Params, trial: Trial) -> Output:
    """Re-evaluates the policy on the last round only, after all adaptations; leaves are [T, E, ...]."""
    fast, experience = jax.tree.map(lambda leaf: leaf[-1], (replay_fast(learner, params, trial), trial.rounds))
    return unroll(learner, params, fast, experience)


def carry_bytes(learner: Learner, params: Params) -> int:
    """Returns the size of the carry of one stream, in bytes; 0 for a memoryless agent. Nothing is computed.

    Args:
      params: arrays, or their shapes.
    """

    def carry(params: Params, key: Key) -> Carry:
        return learner.reset(params, learner.start(params, key), key)

    return devices.tree_bytes(jax.eval_shape(carry, params, jax.random.key(0)))


def acting_bytes(learner: Learner, params: Params, spec: Spec) -> int:
    """Returns what one stream of an agent takes in memory at a step, in bytes: its carry, and what it computes to act.

    The latter is the largest array that `act` computes, where it is large, as the imagined particles of a planner are;
    activations of a policy are not counted. Nothing is computed.

    Args:
      params: arrays, or their shapes.
    """
    leaves, structure = jax.tree.flatten(params)
    forms = tuple(jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in leaves)
    carry = carry_bytes(learner, params)
    return carry + (_largest_array(learner, spec, structure, forms) if carry else 0)


@devices.remembered(64)
def _largest_array(learner: Learner, spec: Spec, structure: Any, leaves: tuple[jax.ShapeDtypeStruct, ...]) -> int:
    """Returns the bytes of the largest array that `act` computes for one stream, 0 below `SMALL_ARRAY`."""
    params = jax.tree.unflatten(structure, leaves)
    fast = jax.eval_shape(learner.start, params, jax.random.key(0))
    carry = jax.eval_shape(learner.reset, params, fast, jax.random.key(0))
    program = jax.make_jaxpr(learner.act)(params, fast, carry, spec.example_input())
    largest = devices.largest_array(program.jaxpr)
    return largest if largest >= SMALL_ARRAY else 0


def stepping_chunk(env: Env, tasks: Task, plan: Plan, carry: int = 0) -> int | None:
    """Returns how many of the tasks [N, ...] to step in parallel so that what each step updates fits in cache.

    A recurrent agent multiplies matrices with as many rows as there are streams in parallel. With too few rows that is
    slower than exceeding the cache: up to `MIN_ROWS` streams may take `MAX_OVERFLOW` caches.

    Args:
      carry: bytes of the agent per stream, see `acting_bytes`.
    """
    state, _ = jax.eval_shape(env.reset, jax.random.key(0), jax.tree.map(lambda leaf: leaf[0], tasks))
    per_task = plan.streams * (devices.tree_bytes(state) + carry)
    chunk = devices.cache_chunk(per_task)
    if chunk is None or not carry:
        return chunk
    return max(1, min(max(chunk, MIN_ROWS // plan.streams), MAX_OVERFLOW * devices.CACHE_BYTES // per_task))


def episode_returns(reward: Array, episodes: int) -> Array:
    """Sums rewards [..., T, E] by episode: [..., E, K]."""
    *batch, length, streams = reward.shape
    return jnp.moveaxis(reward.reshape(*batch, episodes, length // episodes, streams).sum(-2), -1, -2)


def episode_successes(success: Array, episodes: int) -> Array:
    """Returns 1.0 where any step of an episode is a success, [..., T, E] to [..., E, K]; NaN where a step is NaN."""
    return jnp.minimum(episode_returns(success.astype(jnp.float32), episodes), 1.0)


def select(condition: Array, new, old):
    """Selects `new` where `condition` [E] is true, else `old`; leaves are [E, ...]."""

    def pick(new_leaf, old_leaf):
        return jnp.where(condition.reshape(condition.shape + (1,) * (new_leaf.ndim - 1)), new_leaf, old_leaf)

    return jax.tree.map(pick, new, old)
