"""Fits an ensemble of models to the transitions of one task, with early stopping on transitions that are held out."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import optax
from flax import struct

from jaxmeta.config import checks
from jaxmeta.nets.dynamics import Dynamics, dynamics_loss
from jaxmeta.types import Array, Key, Params


@dataclasses.dataclass(frozen=True)
class FitConfig:
    """How a model is fitted to the transitions of a task."""

    learning_rate: float = 1e-3
    """Adam's learning rate."""
    weight_decay: float = 1e-4
    """L2 regularisation, as decoupled weight decay, times the learning rate."""
    batch_size: int = 64
    """Transitions per gradient step and member of the ensemble."""
    steps: int = 50
    """Gradient steps per epoch; after each epoch the model is compared on the held-out transitions."""
    epochs: int = 40
    """Largest number of epochs of a fit."""
    patience: int = 10
    """Epochs in a row in which no member improves on held-out transitions before the fit ends."""
    held_out: float = 0.1
    """Share of the transitions that are held out; 0 fits for all epochs to all transitions."""
    max_grad_norm: float = 10.0
    """Gradients of a member are clipped to this norm."""
    capacity: int = 4000
    """Transitions of a task that are kept; the oldest are overwritten."""

    def __post_init__(self):
        checks.finite(self)
        checks.positive(self, "learning_rate", "max_grad_norm")
        checks.not_negative(self, "weight_decay")
        checks.at_least_one(self, "batch_size", "steps", "epochs", "patience", "capacity")
        checks.fraction(self, "held_out")

    def optimiser(self) -> optax.GradientTransformation:
        """Builds the optimiser of one member."""
        adam = optax.adamw(self.learning_rate, weight_decay=self.weight_decay)
        return optax.chain(optax.clip_by_global_norm(self.max_grad_norm), adam)


class FitData(struct.PyTreeNode):
    """Normalised transitions of a task, C rows; only the first `size` of them are used."""

    inputs: Array
    """[C, |inputs|]."""
    outputs: Array
    """[C, D]."""
    counts: Array
    """How often the bootstrap of each member drew a transition, [C, B]; zero where it is held out."""
    held_out: Array
    """1.0 where a transition is held out, [C]."""
    size: Array
    """Int32 scalar."""


class Fitted(struct.PyTreeNode):
    """An ensemble of B models after a fit."""

    model: Params
    """Leaves [B, ...]: of each member, the params with the lowest held-out loss."""
    opt_state: optax.OptState
    """Leaves [B, ...]."""
    loss: Array
    """The lowest held-out loss of each member, [B]; 0 if nothing is held out."""


class _Progress(struct.PyTreeNode):
    """The state of a fit between epochs."""

    best: Fitted
    model: Params
    epoch: Array
    since: Array
    """Epochs since the last improvement of any member."""


def bootstrap(key: Key, num: int, members: int, held_out: float) -> tuple[Array, Array]:
    """Draws how often the bootstrap of each member draws each of `num` new transitions, and which are held out.

    The counts are Poisson with mean 1, the limit of drawing as many transitions as there are with replacement; unlike
    such a draw they need not be made again when transitions are added (Oza and Russell, 2001).

    Returns:
      Counts [num, members], zero where a transition is held out, and 1.0 where it is, [num].
    """
    count_key, held_key = jax.random.split(key)
    held = jax.random.bernoulli(held_key, held_out, (num,)).astype(jnp.float32)
    counts = jax.random.poisson(count_key, 1.0, (num, members)).astype(jnp.float32)
    return counts * (1.0 - held[:, None]), held


def fitted(
    dynamics: Dynamics, config: FitConfig, model: Params, opt_state: optax.OptState, data: FitData, key: Key
) -> Fitted:
    """Fits an ensemble from where it is, until `config.epochs` or no member improves on what is held out.

    It is not differentiable: the number of steps depends on the data.

    Args:
      dynamics: one member.
      model: params with leaves [B, ...].
      opt_state: of `config.optimiser()`, leaves [B, ...].
    """
    tx, members = config.optimiser(), data.counts.shape[1]
    present = (jnp.arange(len(data.inputs)) < data.size).astype(jnp.float32)
    held = data.held_out * present

    def step(state: tuple[Params, optax.OptState], key: Key) -> tuple[tuple[Params, optax.OptState], None]:
        rows = jax.random.randint(key, (members, config.batch_size), 0, jnp.maximum(data.size, 1))
        counts = jnp.take_along_axis(data.counts.T, rows, axis=1)

        def member(model: Params, opt_state: optax.OptState, rows: Array, counts: Array):
            gradient = jax.grad(dynamics_loss, 1)(dynamics, model, data.inputs[rows], data.outputs[rows], counts)
            change, opt_state = tx.update(gradient, opt_state, model)
            return optax.apply_updates(model, change), opt_state

        return jax.vmap(member)(*state, rows, counts), None

    def held_out_loss(model: Params) -> Array:
        error = jax.vmap(dynamics.apply, (0, None))(model, data.inputs).negative_log_likelihood(data.outputs)
        return jnp.sum(error * held, -1) / jnp.maximum(jnp.sum(held), 1.0)

    def epoch(now: _Progress) -> _Progress:
        keys = jax.random.split(jax.random.fold_in(key, now.epoch), config.steps)
        (model, opt_state), _ = jax.lax.scan(step, (now.model, now.best.opt_state), keys)
        loss = held_out_loss(model)
        better = (loss < now.best.loss) | (jnp.sum(held) == 0)
        kept = jax.tree.map(
            lambda new, old: jnp.where(better.reshape(-1, *[1] * (new.ndim - 1)), new, old), model, now.best.model
        )
        best = Fitted(kept, opt_state, jnp.where(better, loss, now.best.loss))
        return _Progress(best, model, now.epoch + 1, jnp.where(better.any(), 0, now.since + 1))

    zero = jnp.zeros((), jnp.int32)
    begin = _Progress(Fitted(model, opt_state, held_out_loss(model)), model, zero, zero)
    unfinished = lambda now: (now.epoch < config.epochs) & (now.since < config.patience)  # noqa: E731
    return jax.lax.while_loop(unfinished, epoch, begin).best
