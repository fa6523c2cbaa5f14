"""What all on-policy outer loops share: sample tasks, collect fresh trials on all devices, improve, report."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxmeta.core import guard, parallel
from jaxmeta.core.learner import Learner, MetaLearner
from jaxmeta.core.rollout import collect, episode_returns, stepping_chunk
from jaxmeta.tasks.base import TaskFamily
from jaxmeta.types import Array, Key, Metrics, Params, Plan, TrainState, Trial

Improve = Callable[[Params, Any, Trial, Key, Array], tuple[Params, Any, Metrics]]


def on_policy(
    learner: Learner,
    family: TaskFamily,
    plan: Plan,
    num_tasks: int,
    init_opt: Callable[[Params], Any],
    improve: Improve,
    num_devices: int | None = None,
    *,
    credited: bool = False,
    minibatches: int = 1,
) -> MetaLearner:
    """Builds a meta-learner that collects `num_tasks` fresh trials for every update.

    Args:
      init_opt: makes the optimiser state from params.
      improve: (params, opt_state, trials, keys, step) -> (params, opt_state, metrics). It sees the trials [n, ...] and
        keys [n] of one device and the number of updates done, and must reduce over devices, as `mean_over_trials`
        does. A trial that had a fault is empty, see `core.guard`.
      num_devices: devices to use; by default as many as divide the tasks of a minibatch.
      credited: whether earlier rounds are credited. As measured, the compiler joins the constants that scale a credit
        at other places on many devices than on one.
      minibatches: parts of the trials that `improve` takes one after the other.
    """
    if num_tasks < 1:
        raise ValueError(f"num_tasks is {num_tasks}; an update needs at least 1 task")
    batch = num_tasks // minibatches
    num_devices = num_devices or parallel.num_devices_for(batch)

    def init(key: Key) -> TrainState:
        params_key, key = jax.random.split(key)
        params = learner.init(params_key)
        return TrainState(params=params, opt_state=init_opt(params), key=key, step=jnp.zeros((), jnp.int32))

    def local_update(shared, per_task):
        params, opt_state, step = shared
        tasks, collect_keys, improve_keys = per_task

        def one(task_and_key):
            task, key = task_and_key
            return collect(learner, params, family.env, task, key, plan)

        trials = parallel.chunked_vmap(one, (tasks, collect_keys), stepping_chunk(family.env, tasks, plan))
        trials = guard.empty_faulty(trials)
        params, opt_state, metrics = improve(params, opt_state, trials, improve_keys, step)
        return params, opt_state, metrics | trial_metrics(trials, plan, num_tasks)

    def update(state: TrainState) -> tuple[TrainState, Metrics]:
        key, *keys = jax.random.split(state.key, 4)
        task_keys, collect_keys, improve_keys = (jax.random.split(key, num_tasks) for key in keys)
        tasks = jax.vmap(family.sample)(task_keys)
        params, opt_state, metrics = parallel.over_tasks(local_update, num_tasks, num_devices)(
            (state.params, state.opt_state, state.step), (tasks, collect_keys, improve_keys)
        )
        return TrainState(params=params, opt_state=opt_state, key=key, step=state.step + 1), metrics

    collects = (num_tasks, plan)
    # how an agent adapted decides what it does next, and that what it adapts to: there rounding grows
    fixed_order = plan.rounds > 0 and parallel.can_fix_order(batch, num_devices)
    return MetaLearner(
        learner, plan, init, update, num_devices, collects, fixed_order=fixed_order, simplify=not credited
    )


def trial_metrics(trials: Trial, plan: Plan, num_tasks: int) -> Metrics:
    """Describes the `num_tasks` trials of all devices, of which these are the part of one.

    Returns of every round and of the first and last episode are means over streams and over the tasks without a fault,
    NaN if there is none; steps, and tasks with a fault, are counted.
    """

    def mean(some: Trial) -> tuple[Array, Array]:
        returns = episode_returns(some.rounds.reward, plan.episodes).mean((0, 2))
        return returns, some.rounds.valid.sum((1, 2, 3)).mean()

    returns, steps = parallel.mean_over_tasks(mean, trials)
    share = guard.sound_share(trials)
    returns = returns / share
    by_round = {f"return/round_{index}": value for index, value in enumerate(returns.sum(-1))}
    counts = {"env_steps": steps * num_tasks, "faulty_tasks": (1.0 - share) * num_tasks}
    return by_round | {"return/first": returns[0, 0], "return/last": returns[-1, -1]} | counts
