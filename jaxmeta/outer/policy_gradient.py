"""Policy-gradient outer optimisation: REINFORCE (VPG) and PPO, differentiated through the adaptation."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct

from jaxmeta import devices, rl
from jaxmeta.config import checks
from jaxmeta.core import guard
from jaxmeta.core.learner import Learner
from jaxmeta.outer.aggregates import Aggregate, mean, refuse_private
from jaxmeta.outer.descend import descend, optimiser, shuffled
from jaxmeta.outer.loss import Credit, Critic, gradient_chunk, no_credit, trial_loss
from jaxmeta.outer.meta_update import Batch, Improve
from jaxmeta.outer.regularise import RegularisationConfig
from jaxmeta.types import Array, Key, Metrics, Params, Trial


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
) -> Improve:
    """Takes meta-gradient steps on fresh trials.

    Args:
      advantage: estimates the advantages of the last round.
      credit: weights E-MAML's score-function term, such as `standardized_credit`; by default there is none.
      critic: predicts the values if the policy's output does not contain them.
      tx: the optimiser of the params; by default Adam as configured.

    Raises:
      ValueError: if `aggregate` is private and takes part in anything that is not accounted for.
    """
    refuse_private(aggregate, config.why_not_private())
    if credit is not no_credit:
        refuse_private(aggregate, "credit compares the clients' returns, which are not noised; leave it out")
    value_weight = config.value_weight if isinstance(config, ActorCriticConfig) else 0.0
    objective = rl.ratio if config.clip is None else rl.clipped(config.clip)

    def loss(params: Params, one: Prepared, key: Key) -> tuple[Array, Metrics]:
        options = {"entropy_weight": config.entropy_weight, **one.options}
        of_trial = trial_loss(learner, objective, advantage, value_weight=value_weight, critic=critic, **options)
        return of_trial(params, one.trial)

    steps = config.epochs * config.minibatches
    tx = tx or optimiser(
        config.learning_rate,
        config.anneal_over,
        steps,
        max_grad_norm=config.max_grad_norm,
        rule=functools.partial(optax.adam, eps=1e-5),
        regularise=config.regularise,
    )
    inner = descend(
        loss,
        tx,
        aggregate,
        shuffled(config.epochs, config.minibatches),
        piece=lambda params, data: gradient_chunk(learner, data.trial),
    )

    def step(params: Params, state: Any, batch: Batch, updates: Array, **more: Array) -> tuple[Params, Any, Metrics]:
        batch = with_values(learner, critic, params, batch)
        options: dict[str, Array] = credit(batch.data, batch.weight)
        if config.entropy_weight and config.anneal_over is not None:
            share = optax.linear_schedule(1.0, 0.0, config.anneal_over)(updates)
            options["entropy_weight"] = jnp.asarray(config.entropy_weight * share)
        return inner.step(params, state, prepared(batch, options | more), updates)

    return Improve(inner.init, step)


def prepared(batch: Batch, options: dict[str, Array]) -> Batch:
    """Adds the same arguments of the loss to every task of a batch."""
    size = batch.weight.shape[0]
    spread = {name: jnp.broadcast_to(value, (size, *jnp.shape(value))) for name, value in options.items()}
    return batch.replace(data=Prepared(batch.data, spread))


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
