"""Soft actor-critic as an outer loop (Haarnoja et al., 2018, arXiv:1812.05905), with a replay buffer per task.

With an encoder it is PEARL's meta-training (Rakelly et al., 2019, arXiv:1903.08254): actor and critics are conditioned
on a sample z from the belief about their task, and the encoder learns from the critics' loss alone. Unlike PEARL's code
it uses the later version of soft actor-critic: target critics instead of a value network, and no regularisation of the
policy's mean and standard deviation. All networks are updated in one gradient step.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, cast

import jax
import jax.numpy as jnp
import optax
from flax import struct

from jaxmeta import devices
from jaxmeta.config import checks
from jaxmeta.nets import EvidenceEncoder, SoftActorCritic, SoftActorCriticParams, SquashedGaussian
from jaxmeta.outer.aggregates import Aggregate, mean
from jaxmeta.outer.descend import Minibatches, descend, optimiser
from jaxmeta.outer.meta_update import Batch, Improve
from jaxmeta.outer.regularise import RegularisationConfig
from jaxmeta.outer.sources import Ring
from jaxmeta.rl import replay as rings
from jaxmeta.rl.replay import TaskRings, Transition
from jaxmeta.tasks.base import TaskFamily
from jaxmeta.types import Array, Key, Metrics, Spec, Task, Trial


@dataclasses.dataclass(frozen=True)
class SoftActorCriticConfig:
    """Soft actor-critic with twin critics and target networks."""

    learning_rate: float = 3e-4
    """Adam's learning rate, for all networks."""
    anneal_over: int | None = None
    """Updates, warm-up included, over which the learning rate is annealed linearly to zero; None keeps it."""
    gradient_steps: int = 500
    """Gradient steps per update."""
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
    replay_capacity: int = 20_000
    """Capacity of the replay buffer of each training task, in transitions."""
    warmup_passes: int = 1
    """Passes over all training tasks at the start, which only collect experience."""
    regularise: RegularisationConfig = RegularisationConfig()
    """Regularisation of the params."""

    def __post_init__(self):
        checks.finite(self)
        checks.positive(self, "learning_rate", "reward_scale", "temperature", "target_rate")
        checks.at_least_one(self, "gradient_steps", "batch_size", "replay_capacity", "warmup_passes")
        checks.at_least_one(self, "anneal_over")
        checks.fraction(self, "discount", "target_rate")

    def check_capacity(self, transitions: int, what: str) -> None:
        """Raises a ValueError if a replay buffer is too small; `what` has so many transitions, for the message."""
        if self.replay_capacity < transitions:
            raise ValueError(
                f"replay_capacity is {self.replay_capacity}; {what} on a task has {transitions} transitions"
            )


@dataclasses.dataclass(frozen=True)
class OffPolicyConfig(SoftActorCriticConfig):
    """Soft actor-critic on a meta-batch of tasks per gradient step, with an encoder in PEARL."""

    meta_batch: int = 16
    """Training tasks per gradient step, at most the number of training tasks."""
    kl_weight: float = 0.1
    """Weight of KL(belief || prior), summed over the tasks of a meta-batch and the dimensions of z; PEARL only.

    It trades off against the critics' squared error, which grows with the square of `reward_scale`. If the metric
    `kl_from_prior` stays near 0, z carries no information about the task. If it far exceeds the logarithm of the number
    of training tasks, z memorises them, and samples from the prior match none of them."""

    def __post_init__(self):
        super().__post_init__()
        checks.at_least_one(self, "meta_batch")
        checks.not_negative(self, "kl_weight")


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
    task: Array
    """Index of the task among the training tasks, int32 scalar."""


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


def transition_ring(family: TaskFamily, capacity: int) -> Ring:
    """Defines the replay buffer of actor and critics, for all transitions of the trials on a task."""
    layout = rings.transition_rows(family.env.spec)

    def all_rows(trials: Trial, tasks: Task) -> tuple[Array, Array]:
        rows = layout.pack(_transitions(trials.rounds, family, tasks))
        return _in_order(rows), _in_order(trials.rounds.valid)

    return Ring(capacity, layout.width, all_rows)


def context_ring(family: TaskFamily, evidence: EvidenceConfig, steps_per_round: int) -> Ring:
    """Defines the replay buffer of the encoder's evidence."""
    layout = rings.transition_rows(family.env.spec)

    def evidence_rows(trials: Trial, tasks: Task) -> tuple[Array, Array]:
        first = jax.tree.map(lambda leaf: leaf[:, : evidence.rounds], trials.rounds.replace(reset_key=()))
        return _in_order(layout.pack(rings.stored(first))), _in_order(first.valid)

    return Ring(evidence.rounds * steps_per_round, layout.width, evidence_rows, latest=True)


def drawn(
    spec: Spec,
    config: SoftActorCriticConfig,
    meta_batch: int,
    strata: int,
    evidence: EvidenceConfig = EvidenceConfig(),
    ordered: bool = False,
) -> Minibatches:
    """Samples minibatches from the replay buffers: some of the tasks, and a batch of transitions of each.

    Args:
      meta_batch: tasks per gradient step.
      strata: groups of neighbouring tasks, with as many samples from each, so that devices have equal shares.
      ordered: whether the encoder depends on the order of transitions.
    """
    layout, here = rings.transition_rows(spec), meta_batch // strata

    def deal(batch: Batch) -> Key:
        count = strata // devices.num_devices()
        keys = batch.keys[:: len(batch.keys) // count]
        return jax.vmap(lambda step: jax.vmap(lambda key: jax.random.fold_in(key, step))(keys))(
            jnp.arange(config.gradient_steps)
        )

    def of_stratum(kept: dict[str, TaskRings], first: Array, key: Key) -> Batch:
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
        data = Drawn(batch, rows, valid, first + some)
        return Batch(data, jax.random.split(step_key, here), filled[some].astype(jnp.float32))

    def take(batch: Batch, keys: Key) -> Batch:
        _, kept = batch.data
        by_stratum = jax.tree.map(lambda leaf: leaf.reshape(len(keys), -1, *leaf.shape[1:]), kept)
        size = by_stratum["transitions"].written.shape[1]
        first = size * (len(keys) * devices.device_index() + jnp.arange(len(keys)))
        some = jax.vmap(of_stratum)(by_stratum, first, keys)
        return jax.tree.map(lambda leaf: leaf.reshape(len(keys) * here, *leaf.shape[2:]), some)

    return Minibatches(deal, take)


def soft_actor_critic(
    networks: SoftActorCritic,
    encoder: EvidenceEncoder,
    config: SoftActorCriticConfig,
    minibatches: Minibatches,
    kl_weight: float = 0.0,
    warmup: int = 0,
    aggregate: Aggregate = mean(),
) -> Improve:
    """Takes many gradient steps on replayed experience, on the sum of the losses of all networks.

    Args:
      minibatches: see `drawn`.
      kl_weight: see `soft_loss`.
      warmup: updates before the first that learns.
      aggregate: combines the gradients of the tasks of a gradient step.
    """
    adam = optimiser(
        config.learning_rate, config.anneal_over, config.gradient_steps, warmup, regularise=config.regularise
    )
    loss = soft_loss(networks, encoder, kl_weight, config)
    return descend(
        loss,
        with_targets(adam, config.target_rate),
        aggregate,
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
    networks: SoftActorCritic, encoder: EvidenceEncoder, kl_weight: float, config: SoftActorCriticConfig
) -> Callable[..., tuple[Array, Metrics]]:
    """Builds the sum of all losses on one task, with `stop_gradient` so that each loss trains its own networks only.

    Actions are scaled to [-1, 1], so the entropy is at most |A| log 2. The critics' loss trains critics and encoder;
    the losses of actor and temperature, and the targets, treat z as a constant. The KL term trains the encoder. If each
    task has a temperature, `params.log_temperature` [K], the loss on a task depends on its own only.

    Args:
      kl_weight: weight of the KL term. It is summed over a meta-batch, while all other losses are averaged, so this is
        the weight per task times the number of tasks.

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
        shared = params.log_temperature
        log_temperature = shared[one.task] if shared.ndim else shared
        temperature = jnp.exp(fixed(log_temperature))

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
            total += kl_weight * divergence
            metrics["kl_from_prior"] = divergence
        if config.temperature is None:
            # an entropy above the target lowers the temperature
            wanted = -batch.action.shape[-1]
            total += log_temperature * fixed(-jnp.mean(log_prob) - wanted)
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
