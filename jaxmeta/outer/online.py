"""Meta-trains models of dynamics that adapt online, on windows of past streams: the outer loop of GrBAL and ReBAL.

See Nagabandi et al., 2019, arXiv:1803.11347. A window has M transitions that the model adapts to, and the K that follow
them, on which the adapted model is compared.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from jaxmeta import devices, rl
from jaxmeta.config import checks
from jaxmeta.nets.dynamics import Dynamics, Prediction, prediction_error
from jaxmeta.outer.descend import Minibatches, descend, optimiser
from jaxmeta.outer.dynamics import transition_rows
from jaxmeta.outer.meta_update import Batch, Improve
from jaxmeta.outer.regularise import RegularisationConfig
from jaxmeta.outer.replayed import from_rings
from jaxmeta.outer.sources import Ring
from jaxmeta.outer.supervised import few_rows
from jaxmeta.types import Array, Key, Metrics, Params, Plan, Spec, Task, Trial

Predict = Callable[[Params, tuple[Array, Array, Array], Array], Prediction]
"""(params, (inputs [M, |inputs|], outputs [M, D], valid [M]) of the past, inputs [K, |inputs|]) -> predictions [K, D],
by the model that is adapted to the past."""
HELD_OUT = 1
"""Folded into the keys of trials, for the streams that are held out."""
HELD_OUT_BATCHES = 8
"""Batches of windows that a held-out loss is computed on."""


@dataclasses.dataclass(frozen=True)
class WindowConfig:
    """Meta-training on windows of past streams, at the end of every update."""

    past: int = 16
    """M, transitions that the model adapts to. At the start of a stream there are fewer."""
    future: int = 16
    """K, transitions after them, on which the adapted model is compared; it may differ from M."""
    learning_rate: float = 1e-3
    """Adam's learning rate."""
    steps: int = 300
    """Gradient steps per epoch."""
    epochs: int = 1
    """Largest number of epochs per update."""
    held_out: float = 0.0
    """Share of the streams that are held out; with more than one epoch, the params with the lowest loss of the adapted
    model on windows of these are kept. With 0 all epochs are run, and the last params are kept."""
    patience: int = 2
    """Epochs in a row without a lower loss on held-out windows before the epochs of an update end."""
    batch_size: int = 32
    """Windows per gradient step, each of a random stream of the replay buffer. The number of devices must divide it."""
    capacity: int = 512
    """Capacity of the replay buffer, in streams of all tasks. It is sharded over the devices, and part of every
    checkpoint: 4 (2 |obs| + |action| + 1) bytes per step of a stream."""
    max_grad_norm: float = 10.0
    """Gradients are clipped to this norm."""
    anneal_over: int | None = None
    """Updates over which the learning rate is annealed linearly to zero; None keeps it."""
    regularise: RegularisationConfig = RegularisationConfig()
    """Regularisation of the meta-learned params."""

    def __post_init__(self):
        checks.finite(self)
        checks.positive(self, "learning_rate", "max_grad_norm")
        checks.at_least_one(
            self, "past", "future", "steps", "epochs", "patience", "batch_size", "capacity", "anneal_over"
        )
        checks.fraction(self, "held_out")
        if self.epochs == 1 and self.held_out:
            raise ValueError(f"held_out is {self.held_out}; with 1 epoch it has no effect (try epochs 5)")

    def check_fits(self, plan: Plan, horizon: int, num_tasks: int) -> None:
        """Raises a ValueError if a window is longer than a stream, or the buffer smaller than an update."""
        length, streams = plan.episodes * horizon, num_tasks * plan.streams
        if self.past + self.future > length:
            raise ValueError(
                f"windows.past + windows.future is {self.past + self.future}; a stream has only {length} steps"
            )
        if self.capacity < streams:
            raise ValueError(f"windows.capacity is {self.capacity}; an update collects {streams} streams")


def stream_rings(spec: Spec, dynamics: Dynamics, plan: Plan, config: WindowConfig, num_rings: int) -> dict[str, Ring]:
    """Defines the replay buffers of whole streams: "streams", and "held-out" if any are.

    A row has, for every step of a stream, inputs and outputs of the model, not normalised, and 1.0 if it is valid.
    """
    learns_reward = dynamics.outputs > spec.observation[0]
    length = plan.episodes * spec.horizon

    def rows(trials: Trial) -> tuple[Array, Array, Array]:
        rows, valid = transition_rows(spec, trials, learns_reward)
        rows = jnp.concatenate([rows, valid[..., None]], axis=-1)
        rows = rows.reshape(len(rows), -1, length * rows.shape[-1])
        keys = jax.vmap(lambda key: jax.random.fold_in(key, HELD_OUT))(trials.start_key)
        held = jax.vmap(lambda key: jax.random.bernoulli(key, config.held_out, rows.shape[1:2]))(keys)
        # a non-finite trial has no valid step, and is not stored
        return rows, valid.reshape(*rows.shape[:2], length).max(-1), held.astype(jnp.float32)

    def kept(trials: Trial, tasks: Task) -> tuple[Array, Array]:
        found, stored, held = rows(trials)
        return found, stored * (1.0 - held)

    def held_out(trials: Trial, tasks: Task) -> tuple[Array, Array]:
        found, stored, held = rows(trials)
        return found, stored * held

    width, capacity = length * (dynamics.inputs + dynamics.outputs + 1), config.capacity // num_rings
    rings = {"streams": Ring(capacity, width, kept)}
    return rings | ({"held-out": Ring(capacity, width, held_out)} if config.held_out else {})


def window_loss(
    dynamics: Dynamics, predict: Predict, statistics: rl.Statistics, config: WindowConfig
) -> Callable[[Params, Array, Key], tuple[Array, Metrics]]:
    """Builds the loss of a random window of one stream: the error of the adapted model on the next K transitions.

    The gradient goes through the adaptation, but not through the statistics. Windows may begin before the stream does;
    the model then adapts to fewer transitions, as an agent at the start of a stream.

    Returns:
      A function (params, stream [T, |inputs| + D + 1], key) -> (scalar, metrics).
    """
    past, future, size = config.past, config.future, dynamics.inputs

    def loss(params: Params, stream: Array, key: Key) -> tuple[Array, Metrics]:
        begin = jax.random.randint(key, (), 0, len(stream) - future + 1)
        padded = jnp.concatenate([jnp.zeros((past, stream.shape[1])), stream])
        window = jax.lax.dynamic_slice_in_dim(padded, begin, past + future)
        inputs, outputs = rl.standardised(statistics, (window[:, :size], window[:, size:-1]))
        valid = window[:, -1]

        def error(params: Params, seen: Array) -> Array:
            prediction = predict(params, (inputs[:past], outputs[:past], seen), inputs[past:])
            return prediction_error(prediction, outputs[past:], valid[past:])

        adapted = error(params, valid[:past])
        unadapted = error(jax.lax.stop_gradient(params), jnp.zeros(past))
        return adapted + dynamics.penalty(params), {"loss/adapted": adapted, "loss/unadapted": unadapted}

    return loss


def learn_online(
    spec: Spec, dynamics: Dynamics, predict: Predict, config: WindowConfig, plan: Plan, strata: int
) -> Improve:
    """Takes gradient steps on windows of replayed streams; the params are `rl.DynamicsParams`.

    First the statistics move by the valid transitions of the update; they are constant in all gradient steps, and the
    optimiser does not see them. The metrics are means over the windows of all steps of the last epoch: the loss after
    the adaptation, and of the same model without a past.

    Args:
      strata: number of rings, see `stream_rings`.
    """
    adam = optimiser(
        config.learning_rate,
        config.anneal_over,
        config.steps * config.epochs,
        max_grad_norm=config.max_grad_norm,
        regularise=config.regularise,
    )
    learns_reward, length = dynamics.outputs > spec.observation[0], plan.episodes * spec.horizon
    unpack = lambda rows: rows.reshape(len(rows), length, -1)  # noqa: E731
    minibatches = from_rings("streams", unpack, config.steps, config.batch_size, strata)
    held = from_rings("held-out", unpack, HELD_OUT_BATCHES, config.batch_size, strata) if config.held_out else None

    def step(
        params: rl.DynamicsParams, opt_state: Any, batch: Batch, updates: Array
    ) -> tuple[rl.DynamicsParams, Any, Metrics]:
        rows, valid = transition_rows(spec, batch.data[0], learns_reward)
        pair = (rows[..., : dynamics.inputs], rows[..., dynamics.inputs :])
        seen = rl.statistics_of(pair, valid, params.statistics, devices.task_sum)
        statistics = rl.merged(params.statistics, seen)
        loss = window_loss(dynamics, predict, statistics, config)
        descent = descend(loss, adam, minibatches=minibatches, piece=few_rows, average=True)
        if config.epochs > 1:
            held_out = None if held is None else functools.partial(_mean_adapted_loss, loss, held, batch)
            descent = best_epoch(descent, held_out, config.epochs, config.patience)
        model, opt_state, metrics = descent.step(params.model, opt_state, batch, updates)
        return rl.DynamicsParams(model, statistics), opt_state, metrics

    return Improve(lambda params: adam.init(params.model), step)


def _mean_adapted_loss(loss: Any, held: Minibatches, batch: Batch, params: Params) -> Array:
    """Returns the mean loss of the adapted model on windows of held-out streams, 0 if there are none."""

    def one(sums: tuple[Array, Array], keys: Any) -> tuple[tuple[Array, Array], None]:
        some = held.take(batch, keys)
        error = jax.vmap(loss, (None, 0, 0))(params, some.data, some.keys)[1]["loss/adapted"]
        return (sums[0] + jnp.sum(error * some.weight), sums[1] + jnp.sum(some.weight)), None

    sums, _ = jax.lax.scan(one, (jnp.zeros(()), jnp.zeros(())), held.deal(batch))
    total, weight = devices.task_sum(sums)
    return total / jnp.maximum(weight, 1.0)


class _Epochs(struct.PyTreeNode):
    """The state of a loop over epochs."""

    best: Params
    lowest: Array
    params: Params
    opt_state: Any
    metrics: Metrics
    epoch: Array
    since: Array
    """Epochs since the loss was lowest."""


def best_epoch(improve: Improve, held_out: Callable[[Params], Array] | None, epochs: int, patience: int) -> Improve:
    """Repeats an improvement, and keeps the params of the epoch with the lowest held-out loss.

    The params from before the first epoch count as well. The optimiser's state is that after the last epoch.

    Args:
      held_out: params -> the held-out loss, equal on all devices. If it is constant, or None, the newest params are
        kept, and all epochs are run.
      patience: epochs in a row without a lower loss before the loop ends.
    """
    loss = held_out or (lambda params: jnp.zeros(()))

    def step(params: Params, opt_state: Any, batch: Batch, updates: Array) -> tuple[Params, Any, Metrics]:
        def epoch(now: _Epochs) -> _Epochs:
            keys = jax.vmap(lambda key: jax.random.fold_in(key, now.epoch))(batch.keys)
            new, state, metrics = improve.step(now.params, now.opt_state, batch.replace(keys=keys), updates)
            found = loss(new)
            better = found <= now.lowest
            best = jax.tree.map(lambda new, old: jnp.where(better, new, old), new, now.best)
            since = jnp.where(better, 0, now.since + 1)
            return _Epochs(best, jnp.where(better, found, now.lowest), new, state, metrics, now.epoch + 1, since)

        form = jax.eval_shape(lambda: improve.step(params, opt_state, batch, updates))[2]
        none = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), form)
        zero = jnp.zeros((), jnp.int32)
        begin = _Epochs(params, loss(params), params, opt_state, none, zero, zero)
        unfinished = lambda now: (now.epoch < epochs) & (now.since < patience)  # noqa: E731
        end = jax.lax.while_loop(unfinished, epoch, begin)
        told = {} if held_out is None else {"loss/held_out": end.lowest}
        return end.best, end.opt_state, end.metrics | told | {"epochs": end.epoch.astype(jnp.float32)}

    return Improve(improve.init, step)
