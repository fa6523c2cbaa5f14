"""The off-policy form of multi-task learning: soft actor-critic with a temperature and a replay buffer per task."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from jaxmeta import devices, inner, nets, outer, tasks
from jaxmeta.core.learner import MetaLearner, deterministic
from jaxmeta.outer.samplers import MAX_LOGGED_TASKS
from jaxmeta.outer.soft_actor_critic import drawn, soft_actor_critic, transition_ring
from jaxmeta.tasks.base import TaskFamily
from jaxmeta.types import Array, Key, Metrics, Params, Plan

PARTS = {name: lambda path, name=name: path.startswith(name) for name in ("actor", "critics")}
"""The networks whose gradients differ in size: surgery compares the tasks on each by itself."""


def off_policy(
    networks: nets.SoftActorCritic,
    family: TaskFamily,
    visits: int,
    streams: int,
    config: outer.SoftActorCriticConfig,
    aggregate: outer.Aggregate = outer.mean(),
) -> MetaLearner:
    """Builds soft actor-critic that visits all of K tasks in every update and learns from all in every gradient step.

    A gradient step has equally many transitions of every task. Each task has its own replay buffer and temperature,
    which is tuned to the entropy of the policy on that task, so that tasks with larger rewards keep exploring. Tasks of
    one kind, see `tasks.numbered`, share both. The metrics are also those of `outer.every` and, unless the temperature
    is fixed, `temperature/task_0` to `temperature/task_{K - 1}`.

    Args:
      family: acts in `tasks.with_task_id`.
      visits: trials on every task per update.
      streams: episodes per trial.

    Raises:
      ValueError: if actions are not continuous, or a replay buffer is smaller than the transitions of an update.
    """
    encoder, plan, size = nets.no_evidence(), Plan(streams=streams), int(tasks.kinds_of(family.train_tasks).max()) + 1
    agent, strata, warmup = inner.posterior_sampling(networks, encoder), devices.num_strata(size), config.warmup_passes
    config.check_capacity(visits * streams * family.env.spec.horizon, "one update")
    learner = deterministic(agent)

    def init(key: Key) -> nets.SoftActorCriticParams:
        temperature = jnp.log(jnp.float32(config.temperature or 1.0))
        return learner.init(key).replace(log_temperature=jnp.full(size, temperature))

    minibatches = drawn(family.env.spec, config, size, strata)
    improve = soft_actor_critic(networks, encoder, config, minibatches, warmup=warmup, aggregate=aggregate)
    kinds = {"transitions": transition_ring(family, config.replay_capacity)}
    return outer.meta_update(
        learner._replace(init=init),
        Plan(),
        outer.every(family, visits),
        # the visits to a task are neighbours in the update, and share its replay buffer
        outer.replay(outer.fresh(agent, family, plan), kinds, size, by_task=False),
        _with_temperatures(outer.after(warmup, improve), size, config),
        outer.Info(size * visits, plan, spread=strata, warmup=warmup),
    )


def _with_temperatures(improve: outer.Improve, size: int, config: outer.SoftActorCriticConfig) -> outer.Improve:
    """Adds the temperature of every task to the metrics, if they are learned and not too many."""
    if config.temperature is not None or size > MAX_LOGGED_TASKS:
        return improve

    def step(params: Params, opt_state: Any, batch: outer.Batch, updates: Array) -> tuple[Params, Any, Metrics]:
        params, opt_state, metrics = improve.step(params, opt_state, batch, updates)
        each = jnp.exp(params.log_temperature)
        return params, opt_state, metrics | {f"temperature/task_{index}": each[index] for index in range(size)}

    return improve._replace(step=step)
