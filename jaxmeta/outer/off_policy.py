"""Off-policy meta-training: soft actor-critic with a replay buffer for each of a fixed set of training tasks."""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp

from jaxmeta import devices
from jaxmeta.core.learner import Info, Learner, MetaLearner
from jaxmeta.nets import EvidenceEncoder, SoftActorCritic, SoftActorCriticParams
from jaxmeta.outer.descend import after
from jaxmeta.outer.meta_update import meta_update
from jaxmeta.outer.samplers import revisit
from jaxmeta.outer.soft_actor_critic import (
    EvidenceConfig,
    OffPolicyConfig,
    context_ring,
    drawn,
    soft_actor_critic,
    transition_ring,
)
from jaxmeta.outer.sources import fresh, replay
from jaxmeta.tasks.base import TaskFamily
from jaxmeta.types import Key, Plan


@dataclasses.dataclass(frozen=True)
class Visits:
    """How an update collects experience."""

    num_train_tasks: int
    """Size of the set of training tasks, sampled from `family.sample` when training starts; ignored if the family has a
    finite set of training tasks (`train_tasks`)."""
    tasks_per_update: int
    """Tasks per update, at most the number of training tasks."""
    plan: Plan
    """Layout of the trial on each of them."""


def off_policy(
    networks: SoftActorCritic,
    encoder: EvidenceEncoder,
    collector: Learner,
    family: TaskFamily,
    visits: Visits,
    config: OffPolicyConfig = OffPolicyConfig(),
    evidence: EvidenceConfig = EvidenceConfig(),
    evaluation: tuple[Learner, Plan] | None = None,
) -> MetaLearner:
    """Builds soft actor-critic with a replay buffer for each of a fixed set of training tasks.

    An update collects trials on some training tasks, stores them, and takes many gradient steps on batches from all.

    Args:
      collector: the agent that collects; its params are `SoftActorCriticParams`.
      evaluation: the learner to evaluate and its plan; by default the collector and its plan.

    Raises:
      ValueError: if a replay buffer is smaller than one trial.
    """
    known, plan = family.train_tasks, visits.plan
    num_tasks = visits.num_train_tasks if known is None else jax.tree.leaves(known)[0].shape[0]
    per_update, meta_batch = min(visits.tasks_per_update, num_tasks), min(config.meta_batch, num_tasks)
    shared = math.gcd(num_tasks, per_update, meta_batch)
    strata, round_size = devices.num_strata(shared), plan.streams * plan.episodes * family.env.spec.horizon
    config.check_capacity((plan.rounds + 1) * round_size, "one trial")
    warmup = -(-config.warmup_passes * num_tasks // per_update)
    kinds = {"transitions": transition_ring(family, config.replay_capacity)}
    if encoder.size:
        kinds["context"] = context_ring(family, evidence, round_size)
    minibatches = drawn(family.env.spec, config, meta_batch, strata, evidence, encoder.ordered)
    kl_weight = config.kl_weight * meta_batch
    learner, evaluated_by = evaluation or (collector, plan)

    def init(key: Key) -> SoftActorCriticParams:
        params = learner.init(key)
        if config.temperature is None:
            return params
        return params.replace(log_temperature=jnp.log(jnp.float32(config.temperature)))

    return meta_update(
        learner._replace(init=init),
        evaluated_by,
        revisit(family, num_tasks, warmup, strata),
        replay(fresh(collector, family, plan), kinds, num_tasks, by_task=True),
        after(warmup, soft_actor_critic(networks, encoder, config, minibatches, kl_weight, warmup)),
        Info(per_update, plan, spread=strata, warmup=warmup),
    )
