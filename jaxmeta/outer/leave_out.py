"""Leaving tasks out of an update whose own meta-gradient is not finite, or too long to be trusted."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxmeta import rl
from jaxmeta.core import parallel
from jaxmeta.core.learner import Learner
from jaxmeta.outer.loss import gradient_chunk, trial_loss
from jaxmeta.outer.on_policy import Improve
from jaxmeta.types import Array, Key, Metrics, Params, Trial


def without_outliers(learner: Learner, advantage: rl.Estimator, improve: Improve, max_task_gradient: float) -> Improve:
    """Hides from an improvement the trials whose meta-gradient is longer than a bound, and counts them.

    A trial that is left out stays in its place without a valid step: losses and divergences are zero there, and means
    over trials still divide by all of them. It costs one gradient of every trial.
    """
    loss = trial_loss(learner, rl.ratio, advantage)

    def length(params: Params, trial: Trial) -> Array:
        return optax.global_norm(jax.grad(loss, has_aux=True)(params, trial)[0])

    def masked(params: Params, opt_state: Any, trials: Trial, keys: Key, step: Array) -> tuple[Params, Any, Metrics]:
        lengths = parallel.chunked_vmap(lambda trial: length(params, trial), trials, gradient_chunk(trials))
        # of a NaN this is false too
        kept = lengths <= max_task_gradient
        params, opt_state, metrics = improve(params, opt_state, blank_unless(kept, trials), keys, step)
        return params, opt_state, metrics | {"masked_tasks": parallel.task_mean(1.0 - jnp.mean(kept))}

    return masked


def blank_unless(kept: Array, trials: Trial) -> Trial:
    """Sets all that happened in trials [N, ...] to zero where `kept` [N] is false; no step of them is valid then."""

    def clear(leaf: Array) -> Array:
        return jnp.where(kept.reshape(-1, *[1] * (leaf.ndim - 1)), leaf, jnp.zeros_like(leaf))

    rounds = trials.rounds
    cleared = jax.tree.map(clear, rounds.replace(reset_key=()))
    return trials.replace(rounds=cleared.replace(reset_key=rounds.reset_key))
