"""TRPO as an outer loop (Schulman et al., 2015, arXiv:1502.05477): the optimiser of MAML's paper."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree

from jaxmeta import checks, rl
from jaxmeta.core import parallel
from jaxmeta.core.learner import Learner, MetaLearner
from jaxmeta.core.rollout import replay_last
from jaxmeta.outer.leave_out import without_outliers
from jaxmeta.outer.loss import (
    Credit,
    batch_loss,
    gradient_chunk,
    mean_over_trials,
    no_credit,
    over_sound,
    trial_loss,
)
from jaxmeta.outer.on_policy import on_policy
from jaxmeta.tasks.base import TaskFamily
from jaxmeta.types import Array, Key, Metrics, Output, Params, Plan, Trial


@dataclasses.dataclass(frozen=True)
class TrustRegionConfig:
    """Natural gradient steps within a bound on the mean KL divergence."""

    max_kl: float = 0.01
    """Largest mean KL divergence between the adapted policies before and after an update, in nats."""
    cg_iterations: int = 10
    """Steps of conjugate gradient."""
    damping: float = 1e-5
    """Added to the diagonal of the curvature."""
    backtrack: float = 0.8
    """Factor between tries of the line search."""
    max_backtracks: int = 15
    """Tries of the line search; if all fail the params stay."""
    curvature_fraction: float = 0.25
    """Part of the streams of every round that the curvature is estimated on (five at least), as in TRPO's appendix;
    with fewer than five streams a round, part of the trials.

    The adaptation is linearised on these streams too, so the curvature is that of a policy adapted on less data. It
    only shapes the step: the bound itself is checked on all streams of all trials."""
    value_steps: int = 0
    """Steps of Adam per update that fit predicted values to the returns; 0 where advantages need none. The values must
    not share params with the policy, see `nets.separate_value`: what fits them must not move it."""
    value_learning_rate: float = 1e-3
    """Adam's step size for the values."""

    def __post_init__(self):
        checks.finite(self)
        checks.positive(self, "max_kl", "value_learning_rate")
        checks.at_least_one(self, "cg_iterations", "max_backtracks")
        checks.not_negative(self, "damping", "value_steps")
        for name, top in (("backtrack", 1.0), ("curvature_fraction", math.nextafter(1.0, 2.0))):
            if not 0 < getattr(self, name) < top:
                raise ValueError(f"{name} is {getattr(self, name)}; it must lie between 0 and 1")


def trust_region(
    learner: Learner,
    family: TaskFamily,
    plan: Plan,
    num_tasks: int,
    advantage: rl.Estimator,
    config: TrustRegionConfig = TrustRegionConfig(),
    num_devices: int | None = None,
    credit: Credit = no_credit,
    max_task_gradient: float | None = None,
) -> MetaLearner:
    """Builds an outer loop of trust-region steps on the adapted policies.

    Args:
      advantage: estimates the advantages of the last round.
      num_devices: by default as many as divide `num_tasks`.
      credit: for the data that was adapted on, such as `standardized_credit`; by default there is none.
      max_task_gradient: see `without_outliers`; by default all tasks count.
    """
    value_tx = optax.adam(config.value_learning_rate, eps=1e-5)
    values_alone = batch_loss(trial_loss(learner, lambda *_: jnp.zeros(()), advantage, value_weight=1.0))
    value_loss_and_grad = jax.value_and_grad(lambda params, trials: values_alone(params, trials)[0])

    def improve(params: Params, opt_state: Any, trials: Trial, keys: Key, step: Array) -> tuple[Params, Any, Metrics]:
        flat, unravel = ravel_pytree(params)
        mean_loss = batch_loss(trial_loss(learner, rl.ratio, advantage, **credit(trials)))
        value_and_grad = jax.value_and_grad(mean_loss, has_aux=True)
        (before, at_first), gradient = mean_over_trials(learner, lambda some: value_and_grad(params, some), trials)
        gradient, _ = ravel_pytree(gradient)
        some = _some_experience(trials, config.curvature_fraction)
        # linearised once; a fixed order has parts to linearise one by one, and then does it for every product
        once = None if parallel.has_fixed_order() else curvature(learner, params, some)

        def product(vector: Array) -> Array:
            mean = parallel.mean_over_tasks(lambda part: (once or curvature(learner, params, part))(vector), some)
            return over_sound(mean, some) + config.damping * vector

        natural = natural_step(gradient, product, config.max_kl, config.cg_iterations)

        def evaluate(flat: Array) -> tuple[Array, Array]:
            value, metrics = mean_over_trials(learner, lambda some: mean_loss(unravel(flat), some), trials)
            return value, metrics["kl"]

        flat, metrics = line_search(evaluate, flat, natural, before, config)
        params = unravel(flat)
        metrics = at_first | metrics | {"loss/policy": before, "grad_norm": jnp.linalg.norm(gradient)}
        if config.value_steps:
            params, opt_state, metrics["loss/value"] = fit_value(params, opt_state, trials)
        return params, opt_state, metrics

    def init_opt(params: Params) -> Any:
        return value_tx.init(params) if config.value_steps else ()

    def fit_value(params: Params, opt_state: Any, trials: Trial) -> tuple[Params, Any, Array]:
        def descend(state, _):
            params, opt_state = state
            value, gradient = mean_over_trials(learner, lambda some: value_loss_and_grad(params, some), trials)
            change, opt_state = value_tx.update(gradient, opt_state, params)
            return (optax.apply_updates(params, change), opt_state), value

        (params, opt_state), values = jax.lax.scan(descend, (params, opt_state), None, config.value_steps)
        return params, opt_state, values[-1]

    guarded = improve
    if max_task_gradient is not None:
        guarded = without_outliers(learner, advantage, improve, max_task_gradient, credit)
    return on_policy(learner, family, plan, num_tasks, init_opt, guarded, num_devices, credited=credit is not no_credit)


def curvature(learner: Learner, params: Params, trials: Trial) -> Callable[[Array], Array]:
    """Builds the product of a vector with the Hessian of the mean KL divergence from the adapted policies.

    At the params themselves the divergence is at its minimum, so its Hessian is exactly JᵀFJ: J maps params to the
    action distributions of the last round, through all adaptations, and F is the Fisher matrix of those
    distributions. J is linearised once; no third derivative is ever taken.
    """
    flat, unravel = ravel_pytree(params)

    def distributions(flat: Array):
        one = lambda trial: replay_last(learner, unravel(flat), trial).dist  # noqa: E731
        return parallel.vmap_in_pieces(one, trials, gradient_chunk(learner, trials))

    here, push = jax.linearize(distributions, flat)
    pull = jax.linear_transpose(push, flat)
    valid = trials.rounds.valid[:, -1]

    def head(dist):
        return learner.head(Output(dist=dist, value=jnp.zeros(())))

    def divergence(dist):
        kl = head(here).kl_divergence(head(dist))
        return jnp.mean(jax.vmap(rl.masked_mean)(kl, valid))

    def product(vector: Array) -> Array:
        return pull(jax.jvp(jax.grad(divergence), (here,), (push(vector),))[1])[0]

    return product


def conjugate_gradient(product: Callable[[Array], Array], target: Array, iterations: int) -> Array:
    """Solves `product(x) = target` for a positive definite `product`, by `iterations` steps from zero."""

    def step(_, state):
        x, residual, direction, squared = state
        image = product(direction)
        # once solved, the residual is zero and every further step must be too
        length = jnp.where(squared > 1e-20, squared / jnp.maximum(direction @ image, 1e-30), 0.0)
        x, residual = x + length * direction, residual - length * image
        next_squared = residual @ residual
        ratio = jnp.where(squared > 1e-20, next_squared / jnp.maximum(squared, 1e-30), 0.0)
        return x, residual, residual + ratio * direction, next_squared

    start = (jnp.zeros_like(target), target, target, target @ target)
    return jax.lax.fori_loop(0, iterations, step, start)[0]


def natural_step(gradient: Array, product: Callable[[Array], Array], max_kl: float, iterations: int) -> Array:
    """Returns the step that lowers a linear loss most within the quadratic bound ½ sᵀHs = max_kl."""
    direction = conjugate_gradient(product, gradient, iterations)
    quadratic = direction @ product(direction)
    return -direction * jnp.where(quadratic > 0, jnp.sqrt(2.0 * max_kl / jnp.maximum(quadratic, 1e-30)), 0.0)


def line_search(
    evaluate: Callable[[Array], tuple[Array, Array]],
    start: Array,
    step: Array,
    before: Array,
    config: TrustRegionConfig,
) -> tuple[Array, Metrics]:
    """Shortens a step until the loss falls and the divergence is within its bound; else stays.

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


def _some_experience(trials: Trial, fraction: float) -> Trial:
    """Keeps the first streams of every round, at least five; where there are fewer, every so many-th trial.

    The number of trials between two that are kept divides the size of a part.
    """
    rounds = trials.rounds
    if rounds.reward.shape[3] < 5:
        # not the first trials, and as many of every part: they would be others if there were more devices
        stride = math.gcd(round(1.0 / fraction), parallel.part_size(rounds.reward.shape[0]))
        return jax.tree.map(lambda leaf: leaf[::stride], trials)
    streams = max(5, round(fraction * rounds.reward.shape[3]))
    some = jax.tree.map(lambda leaf: leaf[:, :, :, :streams], rounds.replace(reset_key=()))
    return trials.replace(rounds=some.replace(reset_key=rounds.reset_key[:, :, :streams]))
