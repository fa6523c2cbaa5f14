"""An embedding of tasks learned from experience alone: two halves of the streams of one round are alike.

The true parameters of tasks are not used. The agent is not trained; it only collects the experience.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from jaxmeta import nets, outer
from jaxmeta.config import checks
from jaxmeta.core.learner import Learner, MetaLearner, embedded
from jaxmeta.inner.warm_start import Similarity, as_constants
from jaxmeta.similarity.kinds import cosine
from jaxmeta.tasks.base import TaskFamily
from jaxmeta.types import Array, Key, Metrics, Params, Plan, Rollout, Spec, Trial

EXCLUDED = -1e30
"""Logit of a task that is left out."""


@dataclasses.dataclass(frozen=True)
class ContrastiveConfig:
    """Contrastive learning of an embedding of tasks."""

    size: int = 16
    """Length of the embedding."""
    hidden: tuple[int, ...] = (32, 32)
    """Widths of the encoder's hidden layers."""
    num_tasks: int = 256
    """Tasks per update; each is visited for one round."""
    streams: int = 20
    """Episodes per task, run in parallel; the two halves of a round are views of the same task."""
    steps: int | None = 10
    """Steps of a round that the encoder receives in a gradient step, drawn at random; None takes all."""
    epochs: int = 25
    """Passes over the tasks of an update; each draws new halves and steps."""
    minibatches: int = 4
    """Minibatches per epoch; the tasks of a minibatch are told apart from each other."""
    learning_rate: float = 3e-3
    """Adam's learning rate."""

    def __post_init__(self):
        checks.finite(self)
        checks.at_least_one(self, "size", "num_tasks", "steps", "epochs", "minibatches")
        checks.positive(self, "learning_rate")
        checks.widths(self, "hidden")
        if self.streams < 2:
            raise ValueError(f"streams is {self.streams}; the two halves of a round need at least 2 streams")
        if self.num_tasks % self.minibatches or self.num_tasks < 2 * self.minibatches:
            raise ValueError(
                f"minibatches is {self.minibatches}; it must divide num_tasks, which is {self.num_tasks}, into parts of"
                " at least 2 tasks"
            )

    def encoder(self, spec: Spec) -> nets.RoundEncoder:
        """Builds the encoder for the observations and actions of an environment."""
        return nets.round_encoder(spec, self.size, self.hidden)


class ContrastiveParams(struct.PyTreeNode):
    """The params of the agent, which stay as they are, and those of the embedding, which are learned."""

    agent: Params
    encoder: dict[str, Params]
    """`network`, and the logarithm `log_scale` of the factor of the cosines in the loss."""


def info_nce(logits: Array, weight: Array | None = None) -> Array:
    """Computes the symmetric InfoNCE loss of two views of tasks (van den Oord et al., 2018, arXiv:1807.03748).

    Each view is classified among the other views of all tasks; the loss is the mean cross-entropy of its own task. Of
    views without information it is log B, with B tasks.

    Args:
      logits: how alike the first view of each task is to the second view of every task, [B, B].
      weight: weight of each task, [B]; a task of weight 0 is left out, also as a negative example. All 1 by default.

    Returns:
      A scalar, in nats.
    """
    weight = jnp.ones(logits.shape[0]) if weight is None else weight
    both = (jnp.where(weight > 0, some, EXCLUDED) for some in (logits, logits.T))
    each = 0.5 * sum(-jnp.diagonal(jax.nn.log_softmax(some, axis=1)) for some in both)
    return jnp.sum(jnp.where(weight > 0, each, 0.0) * weight) / jnp.maximum(jnp.sum(weight), 1e-8)


def contrastive(
    learner: Learner, params: Params, family: TaskFamily, config: ContrastiveConfig = ContrastiveConfig()
) -> MetaLearner:
    """Builds a meta-learner of an embedding of tasks, from the experience of an agent that does not change.

        meta = similarity.contrastive(agent.learner, params, family, config)
        state = jm.train(meta, jm.init_state(meta, key), num_updates=3)
        alike = similarity.learned_embedding(family, config, state.params)

    An update collects one round on every task, before any adaptation. In a gradient step the streams are divided at
    random into two halves, and `info_nce` tells the tasks of the minibatch apart by the cosines of the halves'
    embeddings, times a learned factor. The metrics are the loss, and the share of tasks whose other half is more
    similar than that of any other task, `accuracy`. It runs on one device, as the loss compares all tasks.

    The embedding is of what tells tasks apart in this experience, and tasks that are never confused are about equally
    dissimilar: it ranks near tasks better than far ones, the more so the longer it is trained.

    Args:
      learner: an agent, trained or not; its policy decides what of a task can be seen.
      params: its params.
      family: observations and actions of any form.
    """
    encoder, plan = config.encoder(family.env.spec), Plan(streams=config.streams)
    params = as_constants(params)

    def init(key: Key) -> ContrastiveParams:
        network = {"network": encoder.init(key), "log_scale": jnp.ones(())}
        return ContrastiveParams(agent=jax.tree.map(jnp.array, params), encoder=network)

    def views(learned: dict[str, Params], trial: Trial, key: Key) -> tuple[Array, Metrics]:
        return _two_views(encoder, learned["network"], trial, key, config.steps), {}

    improve = outer.descend(
        views,
        outer.optimiser(config.learning_rate),
        _contrasted,
        _redrawn(outer.shuffled(config.epochs, config.minibatches)),
        average=True,
    )
    behaviour = embedded(learner, init, lambda params: params.agent)
    return outer.meta_update(
        behaviour,
        plan,
        outer.uniform(family),
        outer.fresh(behaviour, family, plan),
        outer.by_part(encoder=(improve, lambda batch: batch)),
        outer.Info(config.num_tasks, plan, spread=1),
    )


def learned_embedding(family: TaskFamily, config: ContrastiveConfig, params: ContrastiveParams) -> Similarity:
    """Compares tasks by the cosine of their learned embeddings, of all streams of a round.

    Args:
      config: that of `contrastive`.
      params: the params that it learned.
    """
    encoder, network = config.encoder(family.env.spec), as_constants(params.encoder["network"])

    def describe(agent_params: Params, experience: Rollout, key: Key) -> Array:
        return encoder.apply(network, experience)

    return Similarity("learned embedding", describe, cosine)


def _two_views(encoder: nets.RoundEncoder, network: Params, trial: Trial, key: Key, steps: int | None) -> Array:
    """Embeds two random halves of the streams of a task, at random steps: [2, D]."""
    experience = jax.tree.map(lambda leaf: leaf[0], trial.rounds.replace(reset_key=(), output=()))
    length, streams = experience.reward.shape
    order_key, steps_key = jax.random.split(key)
    half, order = streams // 2, jax.random.permutation(order_key, streams)
    when = jnp.arange(length)
    if steps is not None and steps < length:
        when = jax.random.permutation(steps_key, length)[:steps]

    def view(members: Array) -> Array:
        some = jax.tree.map(lambda leaf: leaf[when[:, None], members], experience)
        return encoder.apply(network, some)

    return jnp.stack([view(order[:half]), view(order[half : 2 * half])])


def _contrasted(views: Callable[..., Any], params: Params, batch: outer.Batch, piece: int | None) -> outer.Gradient:
    """Aggregates the views of all tasks, which `views` returns in place of a loss, to the gradient of `info_nce`."""

    def loss(params: Params) -> tuple[Array, Metrics]:
        both, _ = jax.vmap(views, (None, 0, 0))(params, batch.data, batch.keys)
        first, second = both[:, 0], both[:, 1]
        logits = jnp.exp(params["log_scale"]) * first @ second.T
        value = info_nce(logits, batch.weight)
        own = jnp.argmax(logits, axis=1) == jnp.arange(len(first))
        return value, {"loss": value, "accuracy": jnp.mean(own.astype(jnp.float32))}

    (value, metrics), gradient = jax.value_and_grad(loss, has_aux=True)(params)
    return outer.Gradient(value, gradient, metrics, batch.weight)


def _redrawn(minibatches: outer.Minibatches) -> outer.Minibatches:
    """Gives the tasks of every minibatch new keys."""

    def deal(batch: outer.Batch) -> Any:
        members = minibatches.deal(batch)
        return members, jnp.arange(jax.tree.leaves(members)[0].shape[0])

    def take(batch: outer.Batch, taken: Any) -> outer.Batch:
        members, index = taken
        some = minibatches.take(batch, members)
        return some.replace(keys=jax.vmap(lambda key: jax.random.fold_in(key, index))(some.keys))

    return outer.Minibatches(deal, take)
