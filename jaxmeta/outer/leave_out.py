"""Leaving tasks out of an update whose own meta-gradient is not finite, or too long to be trusted."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxmeta import rl
from jaxmeta.core import guard, parallel
from jaxmeta.core.learner import Learner
from jaxmeta.outer.loss import Credit, gradient_chunk, no_credit, trial_loss
from jaxmeta.outer.on_policy import Improve
from jaxmeta.types import Array, Key, Metrics, Params, Trial


def without_outliers(
    learner: Learner, advantage: rl.Estimator, improve: Improve, max_task_gradient: float, credit: Credit = no_credit
) -> Improve:
    """Hides from an improvement the trials whose meta-gradient is longer than a bound, and counts them.

    The meta-gradient is that of the returns, credit included, without entropy bonus or penalties. What is left out
    counts as a fault, see `core.guard`. It costs one gradient of every trial.
    """

    def masked(params: Params, opt_state: Any, trials: Trial, keys: Key, step: Array) -> tuple[Params, Any, Metrics]:
        gradient = jax.grad(trial_loss(learner, rl.ratio, advantage, **credit(trials)), has_aux=True)
        lengths = parallel.chunked_vmap(
            lambda trial: optax.global_norm(gradient(params, trial)[0]), trials, gradient_chunk(learner, trials)
        )
        outlying = ~(lengths <= max_task_gradient)  # of a NaN this is true too
        params, opt_state, metrics = improve(params, opt_state, guard.leave_out(trials, outlying), keys, step)
        return params, opt_state, metrics | {"masked_tasks": parallel.mean_over_tasks(jnp.mean, outlying)}

    return masked
