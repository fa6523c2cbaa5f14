"""Tasks in progress: an update runs one round on each of many tasks, which began at different updates."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from jaxmeta import devices
from jaxmeta.core import guard
from jaxmeta.core.learner import Learner
from jaxmeta.core.rollout import acting_bytes, rollout, select, stepping_chunk
from jaxmeta.outer.descend import step_if
from jaxmeta.outer.meta_update import Batch, Draw, Improve, Seen, Source
from jaxmeta.outer.sources import trial_metrics
from jaxmeta.tasks.base import TaskFamily
from jaxmeta.types import Array, Fast, Key, Metrics, Params, Plan, Task, Trial


class InProgress(struct.PyTreeNode):
    """State of the source: the tasks in progress, leaves [N, ...]."""

    tasks: Task
    fast: Fast
    """Adapted state of each task, its optimiser state included."""
    age: Array
    """Rounds that were run on each task, int32 [N]."""


def in_progress(learner: Learner, family: TaskFamily, plan: Plan, num_tasks: int, warmup: int, joint: int) -> Source:
    """Runs one round per update on tasks of staggered age, and adapts to it (Frans et al., 2018, arXiv:1710.09767).

    A task lasts `warmup` + `joint` rounds. It begins with `Learner.start` and adapts after every round. When it is
    over, the next task that the sampler draws replaces it; drawn tasks without a free place are dropped. At the start
    the ages are spread evenly. A task whose experience or `fast` is not finite is replaced at the next update.

    The loss replays a round with a new `fast`, since the one that acted is not stored. So the loss must not depend on
    `fast`. That of sub-policies does not, given the stored choices of their master. The batch is a pair:
    trials of one round, and 1.0 for tasks past their warm-up, [n]. Use it with `once_warm`. The metrics are those of
    fresh trials, and the return of tasks in their first round (`return/start`), in their warm-up (`return/warmup`) and
    after it (`return/joint`), zero if there are none.

    Args:
      plan: streams and episodes of a round.
      num_tasks: N, tasks in progress; also the tasks per update.
      warmup: rounds of a task from which params do not learn.
      joint: rounds of a task after them.

    Raises:
      ValueError: if no round is left to learn from.
    """
    for name, value, least in (("joint", joint, 1), ("warmup", warmup, 0)):
        if value < least:
            raise ValueError(f"{name} is {value}; it must be at least {least}")
    lifetime = warmup + joint

    def init(key: Key) -> InProgress:
        params_key, *keys = jax.random.split(key, 3)
        starts, draws = (jax.random.split(one, num_tasks) for one in keys)
        fast = jax.vmap(learner.start, (None, 0))(learner.init(params_key), starts)
        # all are replaced at the first update, by tasks of these ages less a lifetime
        age = lifetime + jnp.arange(num_tasks, dtype=jnp.int32) * lifetime // num_tasks
        return InProgress(jax.vmap(family.sample)(draws), fast, age)

    def begin(state: InProgress, params: Params, drawn: Task, keys: Key) -> InProgress:
        """Replaces tasks that are over by drawn ones."""
        over = state.age >= lifetime
        fast = jax.vmap(learner.start, (None, 0))(params, keys)
        return select(over, InProgress(drawn, fast, state.age - lifetime), state)

    def next_round(
        state: InProgress, params: Params, draw: Draw, data: Any, keys: Key
    ) -> tuple[InProgress, tuple[Trial, Array], Seen]:
        start_keys, act_keys, adapt_keys = jnp.moveaxis(jax.vmap(lambda key: jax.random.split(key, 3))(keys), 1, 0)
        state = begin(state, params, draw.tasks, start_keys)

        def one(fast_task_key: tuple[Fast, Task, Key]) -> Any:
            fast, task, key = fast_task_key
            return rollout(learner, params, fast, family.env, task, key, plan.streams, plan.episodes)

        memory = acting_bytes(learner, params, family.env.spec)
        chunk = stepping_chunk(family.env, state.tasks, plan, memory)
        rounds = devices.chunked_vmap(one, (state.fast, state.tasks, act_keys), chunk)
        trials = Trial(jax.tree.map(lambda leaf: leaf[:, None], rounds), start_keys, adapt_keys[:, None][:, :0])
        trials = guard.empty_nonfinite(trials)
        finite = ~guard.nonfinite_trials(trials)
        seen = jax.tree.map(lambda leaf: leaf[:, 0], trials.rounds)
        fast = jax.vmap(learner.adapt, (None, 0, 0, 0))(params, state.fast, seen, adapt_keys)
        goes_on = finite & guard.is_finite(fast, leading=1)
        after = InProgress(state.tasks, fast, jnp.where(goes_on, state.age + 1, lifetime))
        metrics = trial_metrics(trials, plan, family.env.spec.success) | by_age(trials, state.age, finite)
        joined = (state.age >= warmup).astype(jnp.float32)
        return after, (trials, joined), Seen(trials, finite, metrics)

    def by_age(trials: Trial, age: Array, finite: Array) -> Metrics:
        returns = trials.rounds.reward.sum((1, 2)).mean(1)
        phases = {"start": age == 0, "warmup": age < warmup, "joint": age >= warmup}
        sums = {name: (jnp.sum(returns * where * finite), jnp.sum(where * finite)) for name, where in phases.items()}
        sums = devices.task_sum(sums)
        return {f"return/{name}": total / jnp.maximum(count, 1) for name, (total, count) in sums.items()}

    return Source(init, next_round)


def once_warm(improve: Improve) -> Improve:
    """Improves the params on those tasks of `in_progress` that are past their warm-up.

    An update in which there are none does nothing, not even to the optimiser's state; its metrics are zero.
    """

    def step(params: Params, opt_state: Any, batch: Batch, updates: Array) -> tuple[Params, Any, Metrics]:
        trials, joined = batch.data
        some = batch.replace(data=trials, weight=batch.weight * joined)
        any_joined = devices.task_sum(jnp.sum(joined)) > 0
        return step_if(any_joined, improve, params, opt_state, some, updates)

    return Improve(improve.init, step, improve.values)
