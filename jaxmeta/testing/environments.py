"""Checks of environments and task families."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxmeta.core.checkpoint import keys_as_data
from jaxmeta.core.contracts import check_forms, form_of_call, require
from jaxmeta.tasks.base import Env, TaskFamily
from jaxmeta.testing.comparing import all_close, random_action, traced_alike, valid_action
from jaxmeta.types import (
    UNBOUNDED,
    Continuous,
    Key,
    Spec,
    Step,
    Task,
)

DRAWS = 16
"""Tasks that `check_env` draws."""


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
    must depend on the key, unless `train_tasks` holds a single task. `planning_reward`, if there is one, must equal the
    reward of the environment.

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
    traced_alike("env.reset", env.reset, key, task)
    traced_alike("env.step", env.step, key, state, spec.action.example(), task)

    steps = _check_steps(family, tasks, steps_key, num_steps, tolerance)
    _check_ends(spec, np.logical_or(steps.terminated, steps.truncated))
    if not spec.terminates and min(spec.horizon, max_steps) > num_steps:
        _check_ends(spec, _ends(env, tasks, steps_key, min(spec.horizon, max_steps)))


def _check_steps(family: TaskFamily, tasks: Task, steps_key: Key, num_steps: int, tolerance: float) -> Step:
    """Checks the first steps under vmap, in a loop and with clipped actions; returns them, [2, num_steps, ...]."""
    env, spec = family.env, family.env.spec

    def episode(key, task, actions):
        reset_key, *keys = jax.random.split(key, num_steps + 1)

        def one(state, moment):
            env_state, obs = state
            step_key, action = moment
            action = valid_action(spec, action, jax.random.fold_in(step_key, 1), obs)
            env_state, step = env.step(step_key, env_state, action, task)
            return (env_state, step.obs), step

        state, obs = env.reset(reset_key, task)
        return obs, jax.lax.scan(one, (state, obs), (jnp.stack(keys), actions))[1]

    keys, two = jax.random.split(steps_key, 2), jax.tree.map(lambda leaf: leaf[:2], tasks)
    action_keys = jax.random.split(jax.random.fold_in(steps_key, 1), (2, num_steps))
    actions = jax.vmap(jax.vmap(lambda key: random_action(spec, key)))(action_keys)
    alone = jax.jit(episode)  # traced once for both
    together = jax.jit(jax.vmap(alone))
    looped = jax.jit(lambda *all: jax.lax.map(lambda one: alone(*one), all))(keys, two, actions)
    all_close("vmap over tasks", together(keys, two, actions), looped, "a loop over tasks", tolerance)
    steps = jax.device_get(looped[1])
    require(bool(np.isfinite(steps.reward).all()), "env.step returns a non-finite reward")
    finite = all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(steps.obs))
    require(finite, "env.step returns a non-finite observation")
    require(spec.success or not bool(np.any(steps.success)), "env.step returns success, but spec.success is False")
    if isinstance(spec.action, Continuous) and spec.action.limit < UNBOUNDED:
        limit = spec.action.limit
        clipped = together(keys, two, jnp.clip(actions, -limit, limit))
        what = f"env.step with actions beyond spec.action.limit, which is {limit},"
        all_close(what, looped, clipped, "the same with clipped actions", tolerance)
        actions = jnp.clip(actions, -limit, limit)
    if family.planning_reward is not None:
        _check_planning_reward(family, looped, actions, tolerance)
    return steps


def _check_planning_reward(
    family: TaskFamily, episodes: tuple[Any, Step], actions: jax.Array, tolerance: float
) -> None:
    """Checks that planners get the reward of the environment.

    Args:
      episodes: first observations [N, ...] and steps [N, T, ...].
      actions: within the limit, [N, T, ...].
    """
    assert family.planning_reward is not None
    planning, (first, steps) = jax.vmap(jax.vmap(family.planning_reward)), episodes
    before = jax.tree.map(lambda one, rest: jnp.concatenate([one[:, None], rest[:, :-1]], 1), first, steps.obs)
    planned = form_of_call("family.planning_reward(obs, action, next_obs)", planning, before, actions, steps.obs)
    require(
        planned.shape == steps.reward.shape and planned.dtype == jnp.float32,
        f"family.planning_reward returns {planned.dtype}{list(planned.shape[2:])}; it must return a float32 scalar",
    )
    planned = jax.jit(planning)(before, actions, steps.obs)
    all_close("family.planning_reward", planned, steps.reward, "the reward of env.step", tolerance)


def _check_sampling(family: TaskFamily, key: Key, test_key: Key) -> Task:
    """Checks that tasks depend on the key and on no hidden state; returns some tasks, [DRAWS, ...]."""
    for name, one in (("sample", key), ("sample_test", test_key)):
        traced_alike(f"family.{name}", getattr(family, name), one)
    tasks = jax.jit(jax.vmap(family.sample))(jax.random.split(key, DRAWS))
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(keys_as_data(tasks))]
    single = family.train_tasks is not None and jax.tree.leaves(family.train_tasks)[0].shape[0] == 1
    require(
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
            action = random_action(env.spec, jax.random.fold_in(action_key, jnp.where(repeats, 0, time)))
            env_state, obs = state
            action = valid_action(env.spec, action, jax.random.fold_in(step_key, 1), obs)
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
    require(not early, f"env.step ends an episode early, but spec.terminates is False; one ended after {after} steps")
