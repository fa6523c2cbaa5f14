"""TRPO as an outer loop (Schulman et al., 2015, arXiv:1502.05477), as in MAML's paper."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree

from jaxmeta import devices, rl
from jaxmeta.config import checks
from jaxmeta.core import guard
from jaxmeta.core.learner import Learner
from jaxmeta.core.rollout import replay_last
from jaxmeta.outer.aggregates import Aggregate, mean, refuse_private, weighted_mean
from jaxmeta.outer.descend import descend, whole
from jaxmeta.outer.loss import Credit, Critic, gradient_chunk, no_credit, trial_loss
from jaxmeta.outer.meta_update import Batch, Improve
from jaxmeta.outer.policy_gradient import Prepared, prepared, stored_values, with_values
from jaxmeta.outer.regularise import RegularisationConfig, regularised
from jaxmeta.types import Array, Key, Metrics, Output, Params, Trial


@dataclasses.dataclass(frozen=True)
class RegionConfig:
    """Fields of TRPO, with or without a value function."""

    max_kl: float = 0.01
    """Largest mean KL divergence between the adapted policies before and after an update, in nats."""
    cg_iterations: int = 10
    """Conjugate gradient iterations."""
    damping: float = 1e-5
    """Added to the diagonal of the Fisher matrix."""
    backtrack: float = 0.8
    """Step-size factor of the backtracking line search."""
    max_backtracks: int = 15
    """Attempts of the line search; if all fail, the params are not changed."""
    curvature_fraction: float = 0.25
    """Fraction of the streams of every round that the Fisher matrix is estimated on (at least five), as in TRPO's
    appendix; with fewer than five streams per round, the fraction of the trials.

    The adaptation also uses these streams only, so the Fisher matrix is that of a policy adapted on less data. It only
    affects the step direction: the constraint is checked on all streams of all trials."""

    def __post_init__(self):
        checks.finite(self)
        checks.positive(self, "max_kl")
        checks.at_least_one(self, "cg_iterations", "max_backtracks")
        checks.not_negative(self, "damping")
        for name, top in (("backtrack", 1.0), ("curvature_fraction", math.nextafter(1.0, 2.0))):
            if not 0 < getattr(self, name) < top:
                raise ValueError(f"{name} is {getattr(self, name)}; it must lie between 0 and 1")


@dataclasses.dataclass(frozen=True)
class TrustRegionConfig(RegionConfig):
    """Natural gradient steps under a constraint on the mean KL divergence.

    There is no regularisation: a proximal step or weight decay after the natural step would leave the trust region.
    """


@dataclasses.dataclass(frozen=True)
class TrustRegionCriticConfig(RegionConfig):
    """Trust-region steps of a policy, and Adam steps that fit a value function to the returns.

    The value function must not share params with the policy, see `nets.separate_value`.
    """

    value_steps: int = 10
    """Adam steps per update."""
    value_learning_rate: float = 1e-3
    """Adam's step size."""
    value_regularise: RegularisationConfig = RegularisationConfig()
    """Regularisation of the value function, after the Adam steps; that of the policy would leave the trust region."""

    def __post_init__(self):
        super().__post_init__()
        checks.positive(self, "value_learning_rate")
        checks.at_least_one(self, "value_steps")


def trust_region(
    learner: Learner,
    advantage: rl.Estimator,
    config: RegionConfig = TrustRegionConfig(),
    *,
    credit: Credit = no_credit,
    critic: Critic | None = None,
    aggregate: Aggregate = mean(),
) -> Improve:
    """Takes trust-region steps on fresh trials; the constraint is on the adapted policies.

    Args:
      advantage: estimates the advantages of the last round.
      credit: weights E-MAML's score-function term, such as `standardized_credit`; by default there is none.
      critic: predicts the values if the policy's output does not contain them.
      aggregate: tasks that it leaves out are also left out of the Fisher matrix and of the line search.

    Raises:
      ValueError: if `aggregate` is private.
    """
    why = "the Fisher matrix and the line search use the clients' trials without noise (try outer.policy_gradient)"
    refuse_private(aggregate, f"max_kl is {config.max_kl}; {why}")

    def loss(params: Params, one: Prepared, key: Key) -> tuple[Array, Metrics]:
        options: dict[str, Any] = one.options
        return trial_loss(learner, rl.ratio, advantage, **options)(params, one.trial)

    values = _value_fit(learner, advantage, critic, config) if isinstance(config, TrustRegionCriticConfig) else None

    def step(params: Params, opt_state: Any, batch: Batch, updates: Array) -> tuple[Params, Any, Metrics]:
        batch = with_values(learner, critic, params, batch)
        piece = gradient_chunk(learner, batch.data)
        options = credit(batch.data, batch.weight)
        first = aggregate(loss, params, prepared(batch, options), piece)
        # a task that was left out may be non-finite, and 0 * NaN is NaN: its trial is emptied too
        batch = batch.replace(data=guard.empty(batch.data, first.weight == 0), weight=first.weight)
        told = prepared(batch, options)
        flat, unravel = ravel_pytree(params)
        gradient, _ = ravel_pytree(first.gradient)
        some, weight = _some_experience(batch.data, batch.weight, config.curvature_fraction)
        bend, share = curvature(learner, params, some, weight), devices.task_mean(jnp.mean(weight))

        def product(vector: Array) -> Array:
            return devices.task_mean(bend(vector)) / jnp.where(share > 0, share, 1.0) + config.damping * vector

        natural = natural_step(gradient, product, config.max_kl, config.cg_iterations)

        def evaluate(flat: Array) -> tuple[Array, Array]:
            value, metrics = weighted_mean(loss, unravel(flat), told, piece)
            return value, metrics["kl"]

        flat, metrics = line_search(evaluate, flat, natural, first.loss, config)
        params = unravel(flat)
        metrics = first.metrics | metrics | {"loss/policy": first.loss, "grad_norm": jnp.linalg.norm(gradient)}
        if values is not None:
            params, opt_state, of_values = values.step(params, opt_state, batch, updates)
            metrics["loss/value"] = of_values["loss"]
        return params, opt_state, metrics

    fitted = critic or (None if values is None else stored_values)
    return Improve((lambda params: ()) if values is None else values.init, step, fitted)


def _value_fit(
    learner: Learner, advantage: rl.Estimator, critic: Critic | None, config: TrustRegionCriticConfig
) -> Improve:
    """Fits predicted values to the returns of the last round; the policy stays."""

    def loss(params: Params, trial: Trial, key: Key) -> tuple[Array, Metrics]:
        no_policy = lambda *_: jnp.zeros(())  # noqa: E731
        value, _ = trial_loss(learner, no_policy, advantage, value_weight=1.0, critic=critic)(params, trial)
        return value, {"loss": value}

    rate = config.value_learning_rate
    tx = regularised(optax.adam(rate, eps=1e-5), rate, config.value_regularise, within="value/")
    return descend(
        loss,
        tx,
        minibatches=whole(config.value_steps),
        piece=lambda params, trials: gradient_chunk(learner, trials),
    )


def curvature(learner: Learner, params: Params, trials: Trial, weight: Array) -> Callable[[Array], Array]:
    """Builds the product of a vector with the Hessian of the mean KL divergence from the adapted policies.

    The mean is over the trials [n, ...], weighted by their weights [n] and divided by n.

    At the current params the divergence is minimal, so its Hessian is exactly JᵀFJ: J is the Jacobian of the action
    distributions of the last round, through all adaptations, and F is the Fisher matrix of those distributions. The
    function is linearised once, and no third derivatives are needed.
    """
    flat, unravel = ravel_pytree(params)

    def distributions(flat: Array):
        one = lambda trial: replay_last(learner, unravel(flat), trial).dist  # noqa: E731
        return devices.chunked_vmap(one, trials, gradient_chunk(learner, trials))

    here, push = jax.linearize(distributions, flat)
    pull = jax.linear_transpose(push, flat)
    valid = trials.rounds.valid[:, -1]

    def head(dist):
        return learner.head(Output(dist=dist, value=jnp.zeros(())))

    def divergence(dist):
        kl = head(here).kl_divergence(head(dist))
        return jnp.mean(jax.vmap(rl.masked_mean)(kl, valid) * weight)

    def product(vector: Array) -> Array:
        return pull(jax.jvp(jax.grad(divergence), (here,), (push(vector),))[1])[0]

    return product


def conjugate_gradient(product: Callable[[Array], Array], target: Array, iterations: int) -> tuple[Array, Array]:
    """Solves `product(x) = target` for a positive definite `product`, by `iterations` steps from zero.

    Returns:
      x, and `product(x)`, which the iteration knows without another call.
    """

    def step(_, state):
        x, residual, direction, squared = state
        image = product(direction)
        # once converged, the residual is zero and further steps must be zero too
        length = jnp.where(squared > 1e-20, squared / jnp.maximum(direction @ image, 1e-30), 0.0)
        x, residual = x + length * direction, residual - length * image
        next_squared = residual @ residual
        ratio = jnp.where(squared > 1e-20, next_squared / jnp.maximum(squared, 1e-30), 0.0)
        return x, residual, residual + ratio * direction, next_squared

    start = (jnp.zeros_like(target), target, target, target @ target)
    x, residual, *_ = jax.lax.fori_loop(0, iterations, step, start)
    return x, target - residual


def natural_step(gradient: Array, product: Callable[[Array], Array], max_kl: float, iterations: int) -> Array:
    """Returns the step that minimises a linear loss subject to ½ sᵀHs <= max_kl."""
    direction, image = conjugate_gradient(product, gradient, iterations)
    quadratic = direction @ image
    return -direction * jnp.where(quadratic > 0, jnp.sqrt(2.0 * max_kl / jnp.maximum(quadratic, 1e-30)), 0.0)


def line_search(
    evaluate: Callable[[Array], tuple[Array, Array]],
    start: Array,
    step: Array,
    before: Array,
    config: RegionConfig,
) -> tuple[Array, Metrics]:
    """Backtracks until the loss decreases and the KL divergence is within its bound; else returns the start.

    Args:
      evaluate: params -> (loss, divergence).
      before: the loss at `start`.
    """

    def rejected(state):
        tries, accepted, *_ = state
        return (tries < config.max_backtracks) & ~accepted

    def attempt(state):
        tries, *_ = state
        loss, kl = evaluate(start + config.backtrack**tries * step)
        return tries + 1, (loss < before) & (kl <= config.max_kl), loss, kl

    tries, accepted, loss, kl = jax.lax.while_loop(
        rejected, attempt, (jnp.zeros(()), jnp.array(False), before, jnp.zeros(()))
    )
    taken = jnp.where(accepted, config.backtrack ** (tries - 1.0), 0.0)
    metrics = {"kl": jnp.where(accepted, kl, 0.0), "loss/after": jnp.where(accepted, loss, before), "step": taken}
    return jnp.where(accepted, start + taken * step, start), metrics


def _some_experience(trials: Trial, weight: Array, fraction: float) -> tuple[Trial, Array]:
    """Keeps the first streams of every round, at least five; with fewer streams, every k-th trial.

    k divides the number of trials of a stratum.
    """
    rounds = trials.rounds
    if rounds.reward.shape[3] < 5:
        # as many trials from every stratum, so that the choice does not depend on the number of devices
        size = rounds.reward.shape[0] * devices.num_devices()
        stride = math.gcd(round(1.0 / fraction), size // devices.num_strata(size))
        return jax.tree.map(lambda leaf: leaf[::stride], (trials, weight))
    streams = max(5, round(fraction * rounds.reward.shape[3]))
    some = jax.tree.map(lambda leaf: leaf[:, :, :, :streams], rounds.replace(reset_key=()))
    return trials.replace(rounds=some.replace(reset_key=rounds.reset_key[:, :, :streams])), weight
