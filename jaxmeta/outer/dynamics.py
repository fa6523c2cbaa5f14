"""Fits the prior of a model of dynamics: an ensemble for the transitions of all training tasks, as a start for each."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from jaxmeta import devices, rl
from jaxmeta.config import checks
from jaxmeta.nets.dynamics import Dynamics, dynamics_loss, dynamics_rows, ensemble
from jaxmeta.outer.descend import descend, optimiser
from jaxmeta.outer.meta_update import Batch, Improve
from jaxmeta.outer.regularise import RegularisationConfig
from jaxmeta.outer.replayed import from_rings
from jaxmeta.outer.sources import Ring
from jaxmeta.types import Array, Key, Metrics, Params, Rollout, Spec, Task, Trial


@dataclasses.dataclass(frozen=True)
class DynamicsConfig:
    """Training of the prior on past transitions of all tasks, at the end of every update."""

    learning_rate: float = 1e-3
    """Adam's learning rate."""
    steps: int = 500
    """Gradient steps per update."""
    batch_size: int = 256
    """Transitions per gradient step, sampled from the replay buffer. The number of devices must divide it."""
    capacity: int = 100_000
    """Capacity of the replay buffer, in transitions of all tasks. It is sharded over the devices, and part of every
    checkpoint."""
    max_grad_norm: float = 10.0
    """Gradients are clipped to this norm."""
    anneal_over: int | None = None
    """Updates over which the learning rate is annealed linearly to zero; None keeps it."""
    regularise: RegularisationConfig = RegularisationConfig()
    """Regularisation of the prior."""

    def __post_init__(self):
        checks.finite(self)
        checks.positive(self, "learning_rate", "max_grad_norm")
        checks.at_least_one(self, "steps", "batch_size", "capacity", "anneal_over")


def transition_rows(spec: Spec, trials: Trial, learns_reward: bool) -> tuple[Array, Array]:
    """Returns inputs and outputs of a model for all steps of trials, and 1.0 for valid steps.

    Args:
      trials: leaves [n, R + 1, T, E, ...].

    Returns:
      Rows [n, (R + 1) T E, |inputs| + D], not normalised, in the order of the rounds, and valid [n, (R + 1) T E].
    """
    rounds: Rollout = trials.rounds.replace(output=(), reset_key=())
    rows, valid = jax.vmap(jax.vmap(lambda one: dynamics_rows(spec, one, learns_reward)))(rounds)
    return rows.reshape(rows.shape[0], -1, rows.shape[-1]), valid.reshape(valid.shape[0], -1)


def dynamics_ring(spec: Spec, dynamics: Dynamics, members: int, capacity: int) -> Ring:
    """Defines the replay buffer of the prior, for all transitions of an update.

    A row has inputs, outputs and how often the bootstrap of each member drew the transition, Poisson with mean 1.

    Args:
      capacity: transitions per ring.
    """
    learns_reward = dynamics.outputs > spec.observation[0]

    def rows(trials: Trial, tasks: Task) -> tuple[Array, Array]:
        rows, valid = transition_rows(spec, trials, learns_reward)
        draw = lambda key: jax.random.poisson(key, 1.0, (rows.shape[1], members)).astype(jnp.float32)  # noqa: E731
        keys = jax.vmap(lambda key: jax.random.fold_in(key, members))(trials.start_key)
        return jnp.concatenate([rows, jax.vmap(draw)(keys)], axis=-1), valid

    return Ring(capacity, dynamics.inputs + dynamics.outputs + members, rows)


def fit_dynamics(spec: Spec, dynamics: Dynamics, members: int, config: DynamicsConfig, strata: int) -> Improve:
    """Fits the ensemble of `rl.DynamicsParams` to replayed transitions.

    First the statistics move by the valid transitions of the update; they are constant in the gradient steps, and the
    optimiser does not see them.

    Args:
      dynamics: one member.
      strata: number of rings, see `dynamics_ring`, named "transitions".
    """
    many, inputs = ensemble(dynamics, members), dynamics.inputs
    learns_reward = dynamics.outputs > spec.observation[0]
    adam = optimiser(
        config.learning_rate,
        config.anneal_over,
        config.steps,
        max_grad_norm=config.max_grad_norm,
        regularise=config.regularise,
    )
    by_stratum = lambda rows: rows.reshape(-1, config.batch_size // strata, rows.shape[-1])  # noqa: E731
    minibatches = from_rings("transitions", lambda rows: rows, config.steps, config.batch_size, strata)

    def pairs(rows: Array) -> tuple[Array, Array]:
        return rows[..., :inputs], rows[..., inputs : inputs + dynamics.outputs]

    def step(
        params: rl.DynamicsParams, opt_state: Any, batch: Batch, updates: Array
    ) -> tuple[rl.DynamicsParams, Any, Metrics]:
        rows, valid = transition_rows(spec, batch.data[0], learns_reward)
        seen = rl.statistics_of(pairs(rows), valid, params.statistics, devices.task_sum)
        statistics = rl.merged(params.statistics, seen)

        def loss(model: Params, rows: Array, key: Key) -> tuple[Array, Metrics]:
            x, y = (jnp.broadcast_to(leaf, (members, *leaf.shape)) for leaf in rl.standardised(statistics, pairs(rows)))
            value = dynamics_loss(many, model, x, y, rows[:, inputs + dynamics.outputs :].T) / members
            return value, {"loss/model": value}

        def take(batch: Batch, keys: Key) -> Batch:
            some, part = minibatches.take(batch, keys), config.batch_size // strata
            return Batch(by_stratum(some.data), some.keys[::part], some.weight[::part])

        descent = descend(loss, adam, minibatches=minibatches._replace(take=take), average=True)
        model, opt_state, metrics = descent.step(params.model, opt_state, batch, updates)
        return rl.DynamicsParams(model, statistics), opt_state, metrics

    return Improve(lambda params: adam.init(params.model), step)


def unchanged() -> Improve:
    """Leaves the params as they are: what the agent learns, it learns within a task."""
    return Improve(lambda params: (), lambda params, opt_state, batch, updates: (params, opt_state, {}))
