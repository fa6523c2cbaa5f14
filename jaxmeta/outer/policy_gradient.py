"""Policy-gradient outer optimisation: REINFORCE (VPG) and PPO, differentiated through the adaptation."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct

from jaxmeta import devices, rl
from jaxmeta.config import checks
from jaxmeta.core import guard
from jaxmeta.core.learner import Learner
from jaxmeta.outer.aggregates import Aggregate, Loss, mean, refuse_private, visited
from jaxmeta.outer.balance import Balance, BalancedState, balance_metrics
from jaxmeta.outer.descend import Minibatches, descend, optimiser, shuffled
from jaxmeta.outer.loss import Credit, Critic, gradient_chunk, in_use, no_credit, trial_loss
from jaxmeta.outer.meta_update import Batch, Improve
from jaxmeta.outer.regularise import RegularisationConfig
from jaxmeta.types import Array, Key, Metrics, Params, Rollout, Trial


@dataclasses.dataclass(frozen=True)
class ProximalConfig:
    """Fields of every variant of PPO."""

    learning_rate: float = 1e-3
    """Adam's learning rate."""
    epochs: int = 5
    """Passes over the trials of an update."""
    minibatches: int = 1
    """Minibatches, of whole trials, per epoch; must divide the number of tasks."""
    clip: float | None = 0.2
    """PPO's ε: likelihood ratios are clipped to [1 - ε, 1 + ε]; None does not clip."""
    entropy_weight: float = 0.0
    """Weight of the entropy bonus."""
    max_grad_norm: float = 0.5
    """Clips the global norm of meta-gradients."""
    anneal_over: int | None = None
    """Meta-updates over which learning rate and entropy bonus are annealed linearly to zero; None keeps both."""
    regularise: RegularisationConfig = RegularisationConfig()
    """Regularisation of the params."""

    def __post_init__(self):
        checks.finite(self)
        checks.positive(self, "learning_rate", "max_grad_norm", "clip")
        checks.at_least_one(self, "epochs", "minibatches", "anneal_over")
        checks.not_negative(self, "entropy_weight")

    def why_not_private(self) -> str | None:
        """Returns why the privacy of updates cannot be accounted for; None if it can."""
        if self.epochs * self.minibatches == 1:
            return None
        name = "minibatches" if self.epochs == 1 else "epochs"
        why = "ε counts one release of the clients' gradients per update"
        return f"{name} is {getattr(self, name)}; {why}, so a private mean needs epochs 1 and minibatches 1"

    def check_divides(self, num_tasks: int) -> None:
        """Raises a ValueError unless the minibatches divide the tasks of an update."""
        if num_tasks % self.minibatches:
            raise ValueError(f"minibatches is {self.minibatches}; it must divide num_tasks, which is {num_tasks}")


@dataclasses.dataclass(frozen=True)
class PolicyGradientConfig(ProximalConfig):
    """PPO (Schulman et al., 2017, arXiv:1707.06347); with one epoch and no clipping it is the plain policy gradient."""


@dataclasses.dataclass(frozen=True)
class ActorCriticConfig(ProximalConfig):
    """PPO with a value function."""

    value_weight: float = 0.5
    """Weight of the value loss."""

    def __post_init__(self):
        super().__post_init__()
        checks.not_negative(self, "value_weight")


class Prepared(struct.PyTreeNode):
    """A trial, and the other arguments of its loss."""

    trial: Trial
    options: dict[str, Array]
    """Further arguments of `trial_loss`."""


def policy_gradient(
    learner: Learner,
    advantage: rl.Estimator,
    config: ProximalConfig = PolicyGradientConfig(),
    *,
    credit: Credit = no_credit,
    critic: Critic | None = None,
    aggregate: Aggregate = mean(),
    tx: optax.GradientTransformation | None = None,
    balance: Balance | None = None,
) -> Improve:
    """Takes meta-gradient steps on fresh trials.

    Args:
      advantage: estimates the advantages of the last round.
      credit: weights E-MAML's score-function term, such as `standardized_credit`; by default there is none.
      critic: predicts the values if the policy's output does not contain them.
      tx: the optimiser of the params; by default Adam as configured.
      balance: how the losses of K tasks are weighted against each other. Visits of one task are neighbours in the
        batch, [K, visits]. What it does to the gradients in the first step of an update is in the metrics.

    Raises:
      ValueError: if `aggregate` is private and takes part in anything that is not accounted for.
    """
    refuse_private(aggregate, config.why_not_private())
    if balance is not None:
        refuse_private(aggregate, "balance computes the clients' gradients without noise; leave it out")
    if credit is not no_credit:
        refuse_private(aggregate, "credit compares the clients' returns, which are not noised; leave it out")
    value_weight = config.value_weight if isinstance(config, ActorCriticConfig) else 0.0
    objective = rl.ratio if config.clip is None else rl.clipped(config.clip)

    def loss(params: Params, one: Prepared, key: Key, balanced: bool = True) -> tuple[Array, Metrics]:
        options = {"advantage": advantage, "value_weight": value_weight, "entropy_weight": config.entropy_weight}
        options |= one.options
        if balance is not None:
            options = balance.arguments(params, options, balanced)
        return trial_loss(learner, objective, critic=critic, **options)(params, one.trial)

    steps = config.epochs * config.minibatches
    tx = tx or optimiser(
        config.learning_rate,
        config.anneal_over,
        steps,
        max_grad_norm=config.max_grad_norm,
        rule=functools.partial(optax.adam, eps=1e-5),
        regularise=config.regularise,
    )
    minibatches = shuffled(config.epochs, config.minibatches)
    piece = lambda params, data: gradient_chunk(learner, data.trial)  # noqa: E731
    inner = descend(loss, tx, aggregate, minibatches, piece)

    def ready(params: Params, batch: Batch, updates: Array) -> tuple[Batch, dict[str, Array]]:
        batch = with_values(learner, critic, params, batch)
        options: dict[str, Array] = credit(batch.data, batch.weight)
        if in_use(config.entropy_weight) and config.anneal_over is not None:
            share = optax.linear_schedule(1.0, 0.0, config.anneal_over)(updates)
            options["entropy_weight"] = jnp.asarray(config.entropy_weight * share)
        return batch, options

    def step(params: Params, state: Any, batch: Batch, updates: Array, **more: Array) -> tuple[Params, Any, Metrics]:
        batch, options = ready(params, batch, updates)
        return inner.step(params, state, prepared(batch, options | more), updates)

    values = critic or (stored_values if in_use(value_weight) else None)
    if balance is None:
        return Improve(inner.init, step, values)
    both = (functools.partial(loss, balanced=False), loss)
    return _balanced(inner, ready, both, minibatches, piece, balance)._replace(values=values)


def stored_values(params: Params, experience: Rollout) -> Array:
    """Returns the values in the output of the behaviour policy, [T, E]: those of a policy that predicts values."""
    return experience.output.value


def _balanced(
    inner: Improve,
    ready: Callable[[Params, Batch, Array], tuple[Batch, dict[str, Array]]],
    losses: tuple[Loss, Loss],
    minibatches: Minibatches,
    piece: Callable[[Params, Any], int | None],
    balance: Balance,
) -> Improve:
    """Adds a balance to the steps of `inner`.

    Args:
      ready: (params, fresh trials, updates) -> (trials with values, options that are the same for all).
      losses: without and with the balance.
    """

    def step(
        params: Params, state: BalancedState, batch: Batch, updates: Array
    ) -> tuple[Params, BalancedState, Metrics]:
        batch, options = ready(params, batch, updates)
        task = jnp.argmax(visited(len(batch.weight), balance.num_tasks), axis=0)
        params, kept, batch, each = balance.begin(params, state.balance, batch, task)
        batch = prepared(batch, options, each)
        first = minibatches.take(batch, jax.tree.map(lambda leaf: leaf[0], minibatches.deal(batch)))
        told = balance_metrics(losses, balance.weight(params, kept), params, first, piece(params, first.data))
        params, optimiser, metrics = inner.step(params, state.optimiser, batch, updates)
        return params, BalancedState(optimiser, kept), metrics | told

    return Improve(lambda params: BalancedState(inner.init(params), balance.init()), step)


def prepared(batch: Batch, options: dict[str, Array], each: dict[str, Array] | None = None) -> Batch:
    """Adds arguments of the loss to the tasks of a batch: `options`, the same for all, and `each`, leaves [n, ...]."""
    size = batch.weight.shape[0]
    spread = {name: jnp.broadcast_to(value, (size, *jnp.shape(value))) for name, value in options.items()}
    return batch.replace(data=Prepared(batch.data, spread | (each or {})))


def with_values(learner: Learner, critic: Critic | None, params: Params, batch: Batch) -> Batch:
    """Adds a critic's values to fresh trials; trials with non-finite values are left out."""
    if critic is None:
        return batch
    trials: Trial = batch.data
    value = devices.chunked_vmap(
        jax.vmap(functools.partial(critic, params)), trials.rounds, gradient_chunk(learner, trials)
    )
    finite = guard.is_finite(jnp.where(trials.rounds.valid > 0, value, 0.0), leading=1)
    rounds = trials.rounds.replace(output=trials.rounds.output.replace(value=value))
    return batch.replace(data=guard.empty(trials.replace(rounds=rounds), ~finite), weight=batch.weight * finite)
