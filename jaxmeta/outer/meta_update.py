"""One meta-update for all families of algorithms, composed of a sampler, a source and an improvement.

The sampler draws the tasks of an update, the source turns them into a batch of data, and the improvement updates the
params on that batch. The sampler processes all tasks at once; source and improvement run on every device, on its tasks.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from jaxmeta import devices
from jaxmeta.core import guard
from jaxmeta.core.learner import Info, Learner, MetaLearner
from jaxmeta.types import Array, Key, Metrics, Params, Plan, Rollout, Task, TrainState


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
    score: Callable[[Params, Any], Any]
    """(params, `Seen.outcome` of one task, without the leading axis) -> a scalar, or a pytree of scalars. It runs on
    the device of the task, with the params before the update."""
    update: Callable[[Any, Draw, Any, Array], tuple[Any, Metrics]]
    """(state, draw, scores [N], finite [N]) -> (state, metrics). A metric `env_steps` counts what the sampler used
    itself, and is added to that of the source."""
    learned: tuple[bool, ...] = (True,)
    """Repeats along the tasks of an update: False where tasks are only scored. Their weight must be 0; if the source
    has no state, the improvement does not process them at all."""
    essential: str = ""
    """Why a recipe with this sampler works with no other; "" if it does."""


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
    values: Callable[[Params, Rollout], Array] | None = None
    """(params, round) -> values [T, E], if the improvement learns a value function; else None."""


@dataclasses.dataclass(frozen=True, eq=False)
class MetaUpdate:
    """The `update` of a meta-learner, and the parts that it is composed of; see `meta_update`."""

    learner: Learner
    plan: Plan
    sampler: Sampler
    source: Source
    improve: Improve
    info: Info

    def init(self, key: Key) -> TrainState:
        """Makes the initial train state."""
        params_key, key = jax.random.split(key)
        params = self.learner.init(params_key)
        sampler_key, source_key = jax.random.split(jax.random.fold_in(params_key, 1))
        return TrainState(
            params=params,
            opt_state=self.improve.init(params),
            key=key,
            step=jnp.zeros((), jnp.int32),
            sampler=self.sampler.init(sampler_key),
            source=self.source.init(source_key),
        )

    def __call__(self, state: TrainState, data: Any = ()) -> tuple[TrainState, Metrics]:
        """Makes one update."""
        num_tasks = self.info.num_tasks
        # a single split: on a CPU it takes as long as a layer of a network, whatever the number of keys
        keys = jax.random.split(state.key, 1 + 3 * num_tasks)
        draw_keys, source_keys, improve_keys = keys[1:].reshape(3, num_tasks)
        memory, draw = self.sampler.sample(state.sampler, state.params, draw_keys)
        (params, opt_state, metrics), (source_state, scores, finite) = devices.over_tasks(
            self._on_device,
            (state.params, state.opt_state, state.step, data),
            (state.source, draw, source_keys, improve_keys),
        )
        memory, chosen = self.sampler.update(memory, draw, scores, finite)
        if "env_steps" in chosen:
            chosen = chosen | {"env_steps": metrics.get("env_steps", 0.0) + chosen["env_steps"]}
        state = state.replace(
            params=params, opt_state=opt_state, key=keys[0], step=state.step + 1, sampler=memory, source=source_state
        )
        return state, metrics | chosen

    def _on_device(self, shared, per_task):
        params, opt_state, step, data = shared
        memory, draw, source_keys, improve_keys = per_task
        stateless = not jax.tree.leaves(memory)
        memory, batch, seen = self.source.next(memory, params, draw, data, source_keys)
        scores = jax.vmap(self.sampler.score, (None, 0))(params, seen.outcome)
        batch = Batch(batch, improve_keys, draw.weight * seen.finite)
        if not all(self.sampler.learned) and stateless:
            repeats = len(batch.weight) // len(self.sampler.learned)
            learned = np.flatnonzero(np.tile(self.sampler.learned, repeats))
            batch = jax.tree.map(lambda leaf: leaf[learned], batch)
        params, opt_state, metrics = self.improve.step(params, opt_state, batch, step)
        return (params, opt_state, guard.with_total(metrics | seen.metrics)), (memory, scores, seen.finite)


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

    update = MetaUpdate(learner, plan, sampler, source, improve, info)
    return MetaLearner(learner, plan, update.init, update, info)


def with_sampler(meta: MetaLearner, sampler: Sampler) -> MetaLearner:
    """Replaces the sampler of a meta-learner: samplers and algorithms combine freely.

        meta = jm.rl2(family)
        meta = outer.with_sampler(meta, outer.prioritised_replay(family, meta))

    Raises:
      TypeError: if the meta-learner was not built by `meta_update`.
      ValueError: if the algorithm needs its own sampler, or the tasks that are learned from cannot be divided among its
        minibatches.
    """
    parts = parts_of(meta)
    if sampler is parts.sampler:
        return meta
    if parts.sampler.essential:
        raise ValueError(f"sampler cannot be replaced in this algorithm: {parts.sampler.essential}")
    info = dataclasses.replace(meta.info, spread=_spread(meta.info, sampler))
    new = dataclasses.replace(parts, sampler=sampler, info=info)
    return meta._replace(init=new.init, update=new, info=info)


def parts_of(meta: MetaLearner) -> MetaUpdate:
    """Returns the parts of a meta-learner; raises a TypeError if it was not built by `meta_update`."""
    if isinstance(meta.update, MetaUpdate):
        return meta.update
    raise TypeError(f"meta.update is a {type(meta.update).__name__}; samplers need one of outer.meta_update")


def _spread(info: Info, sampler: Sampler) -> int:
    """Returns the number of tasks to shard over devices, if those that are only scored are left out."""
    period, kept = len(sampler.learned), sum(sampler.learned)
    if kept == period:
        return info.spread
    blocks, parts = info.num_tasks // period, info.num_tasks // info.spread
    if info.num_tasks % period or blocks * kept % parts:
        raise ValueError(
            f"share leaves {kept} of every {period} tasks to learn from; {parts} minibatches must divide the"
            f" {blocks * kept} of an update (try a share of 0.5, or more tasks)"
        )
    return math.gcd(blocks * kept // parts, blocks)
