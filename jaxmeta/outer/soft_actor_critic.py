"""Soft actor-critic as an outer loop (Haarnoja et al., 2018, arXiv:1812.05905), with a replay buffer per task.

With an encoder it is PEARL's meta-training (Rakelly et al., 2019, arXiv:1903.08254): actor and critics are conditioned
on a sample z from the belief about their task, and the encoder learns from the critics' loss alone. Unlike PEARL's code
it uses the later version of soft actor-critic: target critics instead of a value network, and no regularisation of the
policy's mean and standard deviation. All networks are updated in one gradient step.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, cast

import jax
import jax.numpy as jnp
import optax
from flax import struct

from jaxmeta import devices
from jaxmeta.config import checks
from jaxmeta.core.learner import Info, Learner, MetaLearner
from jaxmeta.nets import EvidenceEncoder, SoftActorCritic, SoftActorCriticParams, SquashedGaussian
from jaxmeta.outer.descend import Minibatches, after, descend, optimiser
from jaxmeta.outer.meta_update import Batch, Improve, meta_update
from jaxmeta.outer.regularise import RegularisationConfig
from jaxmeta.outer.samplers import revisit
from jaxmeta.outer.sources import Ring, fresh, replay
from jaxmeta.rl import replay as rings
from jaxmeta.rl.replay import TaskRings, Transition
from jaxmeta.tasks.base import TaskFamily
from jaxmeta.types import Array, Key, Metrics, Plan, Spec, Task, Trial


@dataclasses.dataclass(frozen=True)
class OffPolicyConfig:
    """Soft actor-critic with twin critics and target networks."""

    learning_rate: float = 3e-4
    """Adam's learning rate, for all networks."""
    anneal_over: int | None = None
    """Updates, warm-up included, over which the learning rate is annealed linearly to zero; None keeps it."""
    gradient_steps: int = 500
    """Gradient steps per update."""
    meta_batch: int = 16
    """Training tasks per gradient step, at most the number of training tasks."""
    batch_size: int = 256
    """Transitions per task and gradient step."""
    discount: float = 0.99
    """γ, within an episode."""
    target_rate: float = 0.005
    """Polyak averaging rate τ of the target critics, per gradient step."""
    reward_scale: float = 5.0
    """Factor of rewards in the critics' targets only."""
    temperature: float | None = 1.0
    """Entropy coefficient, in scaled rewards per nat; None learns it, with target entropy -|A|."""
    kl_weight: float = 0.1
    """Weight of KL(belief || prior), summed over the tasks of a meta-batch and the dimensions of z; PEARL only.

    It trades off against the critics' squared error, which grows with the square of `reward_scale`. If the metric
    `kl_from_prior` stays near 0, z carries no information about the task. If it far exceeds the logarithm of the number
    of training tasks, z memorises them, and samples from the prior match none of them."""
    replay_capacity: int = 20_000
    """Capacity of the replay buffer of each training task, in transitions."""
    warmup_passes: int = 1
    """Passes over all training tasks at the start, which only collect experience."""
    regularise: RegularisationConfig = RegularisationConfig()
    """Regularisation of the params."""

    def __post_init__(self):
        checks.finite(self)
        checks.positive(self, "learning_rate", "reward_scale", "temperature", "target_rate")
        checks.at_least_one(self, "gradient_steps", "meta_batch", "batch_size", "replay_capacity", "warmup_passes")
        checks.at_least_one(self, "anneal_over")
        checks.not_negative(self, "kl_weight")
        checks.fraction(self, "discount", "target_rate")


class SoftState(struct.PyTreeNode):
    """Optimiser state and target critics."""

    adam: Any
    target_critics: Any


class Drawn(struct.PyTreeNode):
    """One task's part of the minibatch of a gradient step: b transitions, and n rows of evidence for the encoder."""

    transitions: Transition
    """Leaves [b, ...]."""
    evidence_rows: Array
    """Input of the encoder, [n, D]."""
    valid: Array
    """1.0 where a row of `evidence_rows` is valid, [n]."""


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


@dataclasses.dataclass(frozen=True)
class EvidenceConfig:
    """The encoder's training data, from the latest trial on each task."""

    batch: int = 1
    """Transitions per task and gradient step."""
    rounds: int = 1
    """They are sampled from this many rounds at the start of the trial; the first round was collected with z from the
    prior."""
    first_ones: bool = False
    """Whether to use a random number of the first transitions of the trial, as in evaluation, so that the encoder
    is also trained on little experience."""
    use_next_obs: bool = False
    """As in `inner.posterior_sampling`."""


def soft_rings(
    family: TaskFamily, config: OffPolicyConfig, evidence: EvidenceConfig, steps_per_round: int
) -> dict[str, Ring]:
    """Defines the replay buffers: `transitions` for actor and critics, `context` for the encoder's evidence."""
    layout = rings.transition_rows(family.env.spec)

    def all_rows(trials: Trial, tasks: Task) -> tuple[Array, Array]:
        rows = layout.pack(_transitions(trials.rounds, family, tasks))
        return _in_order(rows), _in_order(trials.rounds.valid)

    def evidence_rows(trials: Trial, tasks: Task) -> tuple[Array, Array]:
        first = jax.tree.map(lambda leaf: leaf[:, : evidence.rounds], trials.rounds.replace(reset_key=()))
        return _in_order(layout.pack(rings.stored(first))), _in_order(first.valid)

    return {
        "transitions": Ring(config.replay_capacity, layout.width, all_rows),
        "context": Ring(evidence.rounds * steps_per_round, layout.width, evidence_rows, latest=True),
    }


def drawn(spec: Spec, config: OffPolicyConfig, evidence: EvidenceConfig, ordered: bool, meta_batch: int, strata: int):
    """Samples minibatches from the replay buffers: some of the tasks, and a batch of transitions of each.

    Args:
      ordered: whether the encoder depends on the order of transitions.
      meta_batch: tasks per gradient step.
      strata: groups of neighbouring tasks, with as many samples from each, so that devices have equal shares.
    """
    layout, here = rings.transition_rows(spec), meta_batch // strata

    def deal(batch: Batch) -> Key:
        count = strata // devices.num_devices()
        keys = batch.keys[:: len(batch.keys) // count]
        return jax.vmap(lambda step: jax.vmap(lambda key: jax.random.fold_in(key, step))(keys))(
            jnp.arange(config.gradient_steps)
        )

    def of_stratum(kept: dict[str, TaskRings], key: Key) -> Batch:
        task_key, batch_key, rows_key, step_key = jax.random.split(key, 4)
        # tasks with an empty buffer, after non-finite trials, are chosen last and have weight zero
        filled = kept["transitions"].size > 0
        order = jax.random.permutation(task_key, len(filled))
        some = order[jnp.argsort(~filled[order], stable=True)][:here]
        batch = layout.unpack(rings.draw(kept["transitions"], some, batch_key, config.batch_size))
        if "context" not in kept:
            rows, valid = jnp.zeros((here, 1, 0)), jnp.zeros((here, 1))
        elif ordered or evidence.first_ones:
            rows, valid = rings.draw_beginning(kept["context"], some, rows_key, evidence.batch)
            rows = rings.evidence_rows(layout.unpack(rows), evidence.use_next_obs)
        else:
            rows = rings.draw(kept["context"], some, rows_key, evidence.batch)
            rows, valid = rings.evidence_rows(layout.unpack(rows), evidence.use_next_obs), jnp.ones(rows.shape[:2])
        return Batch(Drawn(batch, rows, valid), jax.random.split(step_key, here), filled[some].astype(jnp.float32))

    def take(batch: Batch, keys: Key) -> Batch:
        _, kept = batch.data
        by_stratum = jax.tree.map(lambda leaf: leaf.reshape(len(keys), -1, *leaf.shape[1:]), kept)
        some = jax.vmap(of_stratum)(by_stratum, keys)
        return jax.tree.map(lambda leaf: leaf.reshape(len(keys) * here, *leaf.shape[2:]), some)

    return Minibatches(deal, take)


def soft_actor_critic(
    networks: SoftActorCritic,
    encoder: EvidenceEncoder,
    config: OffPolicyConfig,
    minibatches: Minibatches,
    meta_batch: int,
    warmup: int = 0,
) -> Improve:
    """Takes many gradient steps on replayed experience, on the sum of the losses of all networks.

    Args:
      minibatches: see `drawn`.
      meta_batch: tasks per gradient step.
      warmup: updates before the first that learns.
    """
    adam = optimiser(
        config.learning_rate, config.anneal_over, config.gradient_steps, warmup, regularise=config.regularise
    )
    loss = soft_loss(networks, encoder, meta_batch, config)
    return descend(
        loss,
        with_targets(adam, config.target_rate),
        minibatches=minibatches,
        piece=_gradient_piece,
        bind=lambda _, state: functools.partial(loss, targets=state.target_critics),
        average=True,
    )


def with_targets(tx: optax.GradientTransformation, rate: float) -> optax.GradientTransformation:
    """Adds target critics, updated by Polyak averaging with the given rate after every step."""

    def init(params: Any) -> Any:  # optax's type of a state leaves out records
        return SoftState(adam=tx.init(params), target_critics=jax.tree.map(jnp.array, params.critics))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        change, adam = cast(Any, tx.update(updates, state.adam, params))
        critics = optax.apply_updates(params.critics, change.critics)
        return change, SoftState(adam, optax.incremental_update(critics, state.target_critics, rate))

    return optax.GradientTransformation(init, update)


def _gradient_piece(params: SoftActorCriticParams, data: Drawn) -> int | None:
    """Returns how many tasks to differentiate in parallel so that the activations of a layer fit in cache."""
    widest = max(leaf.shape[-1] for leaf in jax.tree.leaves(params.critics))
    return devices.cache_chunk(data.transitions.reward[0].nbytes * widest)


def soft_loss(
    networks: SoftActorCritic, encoder: EvidenceEncoder, meta_batch: int, config: OffPolicyConfig
) -> Callable[..., tuple[Array, Metrics]]:
    """Builds the sum of all losses on one task, with `stop_gradient` so that each loss trains its own networks only.

    Actions are scaled to [-1, 1], so the entropy is at most |A| log 2. The critics' loss trains critics and encoder;
    the losses of actor and temperature, and the targets, treat z as a constant. The KL term trains the encoder: it is
    summed over a meta-batch, while all other losses are averaged.

    Returns:
      (params, `Drawn`, key, targets=target critics) -> (scalar, metrics).
    """
    fixed = jax.lax.stop_gradient

    def loss(params: SoftActorCriticParams, one: Drawn, key: Key, targets: Any) -> tuple[Array, Metrics]:
        batch, rows, valid = one.transitions, one.evidence_rows, one.valid
        z_key, next_key, actor_key = jax.random.split(key, 3)
        belief = encoder.belief(params.encoder, encoder.add(params.encoder, encoder.start(), rows, valid))
        z = jnp.broadcast_to(belief.sample(z_key), (*batch.reward.shape, encoder.size))
        given = fixed(z)
        temperature = jnp.exp(fixed(params.log_temperature))

        def act(actor: Any, obs: Array, key: Key) -> tuple[Array, Array]:
            return SquashedGaussian(networks.actor(actor, obs, given)).sample_and_log_prob(key)

        next_action, next_log_prob = act(fixed(params.actor), batch.next_obs, next_key)
        next_value = jnp.minimum(*networks.critics(targets, batch.next_obs, next_action, given))
        next_value -= temperature * next_log_prob
        goes_on = config.discount * (1.0 - batch.terminated)
        target = fixed(config.reward_scale * batch.reward + goes_on * next_value)
        predictions = networks.critics(params.critics, batch.obs, batch.action / networks.action_scale, z)
        critic_loss = sum(jnp.mean(jnp.square(prediction - target)) for prediction in predictions)

        action, log_prob = act(params.actor, batch.obs, actor_key)
        value = jnp.minimum(*networks.critics(fixed(params.critics), batch.obs, action, given))
        actor_loss = jnp.mean(temperature * log_prob - value)

        total = critic_loss + actor_loss
        metrics = {
            "loss/critic": critic_loss,
            "loss/actor": actor_loss,
            "value": jnp.mean(predictions[0]),
            "entropy": -jnp.mean(log_prob),
        }
        if encoder.size:
            divergence = belief.kl_from_prior()
            total += config.kl_weight * meta_batch * divergence
            metrics["kl_from_prior"] = divergence
        if config.temperature is None:
            # an entropy above the target lowers the temperature
            wanted = -batch.action.shape[-1]
            total += params.log_temperature * fixed(-jnp.mean(log_prob) - wanted)
            metrics["temperature"] = temperature
        return total, metrics

    return loss


def _transitions(rounds: Any, family: TaskFamily, tasks: Task) -> Transition:
    """Extracts the transitions of rounds [M, R, T, E], with the rewards to train on.

    Families with sparse rewards may define a `dense_reward(next_obs, task)`, which actor and critics are trained on.
    """
    stored = rings.stored(rounds)
    dense = family.dense_reward
    if dense is None:
        return stored
    for _ in range(3):
        dense = jax.vmap(dense, (0, None))
    return stored.replace(reward=jax.vmap(dense)(stored.next_obs, tasks))


def _in_order(leaf: Array) -> Array:
    """Flattens rounds [M, R, T, E, ...] to one sequence per task, the streams in sequence: [M, R E T, ...]."""
    return jnp.swapaxes(leaf, 2, 3).reshape(leaf.shape[0], -1, *leaf.shape[4:])


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
    if config.replay_capacity < (plan.rounds + 1) * round_size:
        raise ValueError(
            f"replay_capacity is {config.replay_capacity}; one trial on a task has {(plan.rounds + 1) * round_size}"
            " transitions"
        )
    warmup = -(-config.warmup_passes * num_tasks // per_update)
    kinds = soft_rings(family, config, evidence, round_size)
    if not encoder.size:
        del kinds["context"]
    minibatches = drawn(family.env.spec, config, evidence, encoder.ordered, meta_batch, strata)
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
        after(warmup, soft_actor_critic(networks, encoder, config, minibatches, meta_batch, warmup)),
        Info(per_update, plan, spread=strata, warmup=warmup),
    )
