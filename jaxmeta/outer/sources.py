"""Sources: what an update learns from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp

from jaxmeta import devices
from jaxmeta.core import guard
from jaxmeta.core.learner import Learner
from jaxmeta.core.rollout import collect, episode_returns, episode_successes, stepping_chunk
from jaxmeta.outer.meta_update import Draw, Seen, Source
from jaxmeta.rl import replay as rings
from jaxmeta.rl.replay import TaskRings
from jaxmeta.tasks.base import TaskFamily
from jaxmeta.types import Array, Key, Metrics, Params, Plan, Task, Trial


def fresh(learner: Learner, family: TaskFamily, plan: Plan) -> Source:
    """Collects a trial on every task of an update; one that had a fault is empty, see `core.guard`."""

    def next_trials(state: Any, params: Params, draw: Draw, data: Any, keys: Key) -> tuple[Any, Trial, Seen]:
        def one(task_and_key: tuple[Task, Key]) -> Trial:
            task, key = task_and_key
            return collect(learner, params, family.env, task, key, plan)

        trials = devices.chunked_vmap(one, (draw.tasks, keys), stepping_chunk(family.env, draw.tasks, plan))
        trials = guard.empty_nonfinite(trials)
        finite = ~guard.nonfinite_trials(trials)
        return state, trials, Seen(trials, finite, trial_metrics(trials, plan, family.env.spec.success))

    return Source(init=lambda key: (), next=next_trials)


def examples(plan: Plan) -> Source:
    """Takes the tasks as they are: a supervised task brings its data along.

    Args:
      plan: its rounds, and one more, count as the steps of an update.
    """

    def next_tasks(state: Any, params: Params, draw: Draw, data: Any, keys: Key) -> tuple[Any, Task, Seen]:
        finite = jnp.ones(draw.weight.shape, bool)
        steps = jnp.float32(finite.size * devices.num_devices() * (plan.rounds + 1))
        return state, draw.tasks, Seen(draw.tasks, finite, {"env_steps": steps})

    return Source(init=lambda key: (), next=next_tasks)


class Ring(NamedTuple):
    """What a replay keeps of trials, in rings of fixed size."""

    capacity: int
    """Rows of a ring; the oldest give way."""
    width: int
    """Numbers in a row."""
    rows: Callable[[Trial, Task], tuple[Array, Array]]
    """(trials [n, ...], tasks [n, ...]) -> (rows [n, k, width], in the order of time, and 1.0 for those that count
    [n, k])."""
    latest: bool = False
    """Whether only the latest visit to a task is kept."""


def replay(source: Source, kinds: Mapping[str, Ring], num_rings: int, by_task: bool) -> Source:
    """Remembers what another source collects.

    Args:
      source: of fresh trials.
      kinds: what is kept, by name.
      num_rings: rings of each kind; devices divide them.
      by_task: whether ring i is that of the task in the sampler's slot i; else neighbouring trials of an update share a
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
                # out of bounds, so not forgotten: tasks whose visit brought nothing because of a fault
                kept = rings.forget(kept, jnp.where(seen.finite, where, num_rings))
            state[name] = rings.write(kept, where, rows, valid)
        fill = {f"replay/{name}": devices.task_mean(jnp.mean(state[name].size / sizes[name])) for name in kinds}
        return state, (trials, state), seen._replace(metrics=seen.metrics | fill)

    return Source(init, next_trials)


def trial_metrics(trials: Trial, plan: Plan, success: bool = False) -> Metrics:
    """Describes the trials of all devices, of which these are the part of one.

    Returns of every round and of the first and last episode are means over streams and over the tasks without a fault,
    NaN if there is none, and so are the success rates of these episodes, where `success` asks for them; steps, and
    tasks with a fault, are counted.
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
