"""One meta-update for all families of algorithms, composed of a sampler, a source and an improvement.

The sampler draws the tasks of an update, the source turns them into a batch of data, and the improvement updates the
params on that batch. The sampler processes all tasks at once; source and improvement run on every device, on its tasks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct

from jaxmeta import devices
from jaxmeta.core import guard
from jaxmeta.core.learner import Info, Learner, MetaLearner
from jaxmeta.types import Array, Key, Metrics, Params, Plan, Task, TrainState


class Draw(struct.PyTreeNode):
    """The tasks of an update."""

    tasks: Task
    """Leaves [N, ...]."""
    slot: Array
    """Index of each task in the sampler's fixed set of tasks, int32 [N]; -1 if there is none."""
    weight: Array
    """Weight of each task in the improvement, float32 [N]; 0 for tasks that are only scored."""


class Sampler(NamedTuple):
    """Draws the tasks of an update."""

    init: Callable[[Key], Any]
    sample: Callable[[Any, Params, Key], tuple[Any, Draw]]
    """(state, params, keys [N]) -> (state, draw). Batched, so that tasks can be drawn without replacement."""
    score: Callable[[Any], Array]
    """Scores one task from its `Seen.outcome`, without the leading axis: a scalar."""
    update: Callable[[Any, Draw, Array, Array], tuple[Any, Metrics]]
    """(state, draw, scores [N], finite [N]) -> (state, metrics)."""


class Seen(NamedTuple):
    """What a source reports about the tasks of one device."""

    outcome: Any
    """Input of `Sampler.score`, leaves [n, ...]: trials, if the source collects any."""
    finite: Array
    """False for tasks with non-finite data, which get weight zero, bool [n]."""
    metrics: Metrics
    """Already reduced over devices."""


class Source(NamedTuple):
    """Provides the data of an update."""

    init: Callable[[Key], Any]
    """Makes the state: leaves [S, ...], sharded over the devices along the first axis; `()` if there is none."""
    next: Callable[[Any, Params, Draw, Any, Key], tuple[Any, Any, Seen]]
    """(state, params, draw, data, keys [n]) -> (state, batch, seen), for the tasks of one device. `data` is the fixed
    dataset passed to `update`. The batch has leaves [n, ...], or whatever `Minibatches.take` expects."""


class Batch(struct.PyTreeNode):
    """Input of the improvement on one device."""

    data: Any
    """From the source, leaves [n, ...]."""
    keys: Key
    """[n]."""
    weight: Array
    """Weight of each task in means, float32 [n]."""


class Improve(NamedTuple):
    """Updates the params on a batch, identically on every device."""

    init: Callable[[Params], Any]
    """Makes the optimiser's state."""
    step: Callable[[Params, Any, Batch, Array], tuple[Params, Any, Metrics]]
    """(params, opt_state, batch, number of updates so far) -> (params, opt_state, metrics); it reduces over devices."""


def meta_update(
    learner: Learner, plan: Plan, sampler: Sampler, source: Source, improve: Improve, info: Info
) -> MetaLearner:
    """Builds a meta-learner from its parts.

        plan = Plan(rounds=1, streams=20)
        meta = outer.meta_update(
            learner, plan, outer.uniform(family), outer.fresh(learner, family, plan),
            outer.policy_gradient(learner, rl.linear_baseline()), outer.Info(num_tasks=40, plan=plan, spread=40),
        )

    Args:
      learner: the agent that is evaluated; its `init` makes the params.
      plan: layout of a trial in evaluation.
      info: tasks per update, and other static facts.
    """
    for name in ("num_tasks", "spread"):
        if getattr(info, name) < 1:
            raise ValueError(f"{name} is {getattr(info, name)}; an update needs at least 1 task")

    def init(key: Key) -> TrainState:
        params_key, key = jax.random.split(key)
        params = learner.init(params_key)
        sampler_key, source_key = jax.random.split(jax.random.fold_in(params_key, 1))
        return TrainState(
            params=params,
            opt_state=improve.init(params),
            key=key,
            step=jnp.zeros((), jnp.int32),
            sampler=sampler.init(sampler_key),
            source=source.init(source_key),
        )

    def on_device(shared, per_task):
        params, opt_state, step, data = shared
        memory, draw, source_keys, improve_keys = per_task
        memory, batch, seen = source.next(memory, params, draw, data, source_keys)
        weight = draw.weight * seen.finite
        scores = jax.vmap(sampler.score)(seen.outcome)
        params, opt_state, metrics = improve.step(params, opt_state, Batch(batch, improve_keys, weight), step)
        return (params, opt_state, guard.with_total(metrics | seen.metrics)), (memory, scores, seen.finite)

    def update(state: TrainState, data: Any = ()) -> tuple[TrainState, Metrics]:
        # a single split: on a CPU it takes as long as a layer of a network, whatever the number of keys
        keys = jax.random.split(state.key, 1 + 3 * info.num_tasks)
        draw_keys, source_keys, improve_keys = keys[1:].reshape(3, info.num_tasks)
        memory, draw = sampler.sample(state.sampler, state.params, draw_keys)
        (params, opt_state, metrics), (source_state, scores, finite) = devices.over_tasks(
            on_device,
            (state.params, state.opt_state, state.step, data),
            (state.source, draw, source_keys, improve_keys),
        )
        memory, chosen = sampler.update(memory, draw, scores, finite)
        state = state.replace(
            params=params, opt_state=opt_state, key=keys[0], step=state.step + 1, sampler=memory, source=source_state
        )
        return state, metrics | chosen

    return MetaLearner(learner, plan, init, update, info)
