"""Sources: what an update learns from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp

from jaxmeta import devices
from jaxmeta.core import guard
from jaxmeta.core.learner import Learner
from jaxmeta.core.rollout import (
    acting_bytes,
    carry_bytes,
    collect,
    episode_returns,
    episode_successes,
    stepping_chunk,
)
from jaxmeta.outer.meta_update import Draw, Seen, Source
from jaxmeta.rl import replay as rings
from jaxmeta.rl.replay import TaskRings
from jaxmeta.tasks.base import TaskFamily
from jaxmeta.types import Array, Key, Metrics, Params, Plan, Task, Trial


def fresh(learner: Learner, family: TaskFamily, plan: Plan) -> Source:
    """Collects a trial on every task of an update; non-finite trials are emptied, see `core.guard`.

    For an agent with a carry the metric `memory_bytes` is the size of the carry of one stream.
    """

    def next_trials(state: Any, params: Params, draw: Draw, data: Any, keys: Key) -> tuple[Any, Trial, Seen]:
        def one(task_and_key: tuple[Task, Key]) -> Trial:
            task, key = task_and_key
            return collect(learner, params, family.env, task, key, plan)

        memory, acting = carry_bytes(learner, params), acting_bytes(learner, params, family.env.spec)
        trials = devices.chunked_vmap(one, (draw.tasks, keys), stepping_chunk(family.env, draw.tasks, plan, acting))
        trials = guard.empty_nonfinite(trials)
        finite = ~guard.nonfinite_trials(trials)
        metrics = trial_metrics(trials, plan, family.env.spec.success)
        if memory:
            metrics["memory_bytes"] = jnp.float32(memory)
        return state, trials, Seen(trials, finite, metrics)

    return Source(init=lambda key: (), next=next_trials)


def examples(plan: Plan) -> Source:
    """Passes the tasks on as the batch: a supervised task contains its data.

    Args:
      plan: counts `rounds + 1` environment steps per task.
    """

    def next_tasks(state: Any, params: Params, draw: Draw, data: Any, keys: Key) -> tuple[Any, Task, Seen]:
        finite = jnp.ones(draw.weight.shape, bool)
        steps = jnp.float32(finite.size * devices.num_devices() * (plan.rounds + 1))
        return state, draw.tasks, Seen(draw.tasks, finite, {"env_steps": steps})

    return Source(init=lambda key: (), next=next_tasks)


def unreported(source: Source, env_steps: float) -> Source:
    """Drops the metrics of a source, which release data of the tasks.

    Args:
      env_steps: environment steps per update that are logged, such as the largest possible number.
    """

    def next_batch(state: Any, params: Params, draw: Draw, data: Any, keys: Key) -> tuple[Any, Any, Seen]:
        state, batch, seen = source.next(state, params, draw, data, keys)
        return state, batch, seen._replace(metrics={"env_steps": jnp.float32(env_steps)})

    return Source(source.init, next_batch)


class Ring(NamedTuple):
    """The definition of one kind of replay buffer."""

    capacity: int
    """Rows per ring; the oldest are overwritten."""
    width: int
    """Numbers in a row."""
    rows: Callable[[Trial, Task], tuple[Array, Array]]
    """(trials [n, ...], tasks [n, ...]) -> (rows [n, k, width] in time order, and 1.0 for valid rows [n, k])."""
    latest: bool = False
    """Whether only the latest trial on a task is kept."""


def replay(source: Source, kinds: Mapping[str, Ring], num_rings: int, by_task: bool) -> Source:
    """Stores the trials of another source in replay buffers.

    Args:
      source: a source of fresh trials.
      kinds: the replay buffers, by name.
      num_rings: rings of each kind, sharded over the devices.
      by_task: whether ring i belongs to the task in the sampler's slot i; else neighbouring trials of an update share a
        ring.

    Returns:
      A source whose batch is a pair: the fresh trials [n, ...], and the rings of this device by name.
    """
    sizes = {name: kind.capacity for name, kind in kinds.items()}

    def init(key: Key) -> dict[str, TaskRings]:
        return {name: rings.empty_rings(num_rings, kind.capacity, kind.width) for name, kind in kinds.items()}

    def place(draw: Draw) -> Array:
        here = num_rings // devices.num_devices()
        return draw.slot - here * devices.device_index() if by_task else jnp.arange(here)

    def next_trials(state: dict[str, TaskRings], params: Params, draw: Draw, data: Any, keys: Key):
        _, trials, seen = source.next((), params, draw, data, keys)
        where, state = place(draw), dict(state)
        for name, kind in kinds.items():
            rows, valid = kind.rows(trials, draw.tasks)
            rows, valid = rows.reshape(len(where), -1, kind.width), valid.reshape(len(where), -1)
            kept = state[name]
            if kind.latest:
                # non-finite trials have an index out of bounds, so that the earlier trial is kept
                kept = rings.forget(kept, jnp.where(seen.finite, where, num_rings))
            state[name] = rings.write(kept, where, rows, valid)
        fill = {f"replay/{name}": devices.task_mean(jnp.mean(state[name].size / sizes[name])) for name in kinds}
        return state, (trials, state), seen._replace(metrics=seen.metrics | fill)

    return Source(init, next_trials)


def trial_metrics(trials: Trial, plan: Plan, success: bool = False) -> Metrics:
    """Computes metrics over the trials of all devices, from those of this device.

    Returns of every round, and returns and success rates (if `success`) of the first and the last episode, are means
    over streams and over finite tasks; NaN if there are none. Environment steps and non-finite tasks are counted.
    """
    num_tasks = trials.rounds.reward.shape[0] * devices.num_devices()
    rounds = trials.rounds
    episodes = {"return": episode_returns(rounds.reward, plan.episodes)}
    if success:
        episodes["success"] = episode_successes(rounds.success, plan.episodes).astype(jnp.float32)
    episodes = {name: values.mean((0, 2)) for name, values in episodes.items()}
    steps = rounds.valid.sum((1, 2, 3)).mean()
    nonfinite = {name: jnp.mean(found, dtype=jnp.float32) for name, found in guard.causes(trials).items()}
    episodes, steps, nonfinite = devices.task_mean((episodes, steps, nonfinite))
    nonfinite = {guard.NONFINITE + name: jnp.round(share * num_tasks) for name, share in nonfinite.items()}
    episodes = {name: values / (1.0 - sum(nonfinite.values()) / num_tasks) for name, values in episodes.items()}
    metrics = {f"return/round_{index}": value for index, value in enumerate(episodes["return"].sum(-1))}
    for name, values in episodes.items():
        metrics |= {f"{name}/first": values[0, 0], f"{name}/last": values[-1, -1]}
    return metrics | {"env_steps": steps * num_tasks} | nonfinite
