"""Policy objectives: scalars to minimise, from log-probabilities and advantages of one round.

All have the form `objective(log_prob, behaviour_log_prob, advantage, valid) -> scalar`, with arrays [T, E]. They have
the same first derivative at the behaviour policy. They differ in the second derivative, which enters second-order
meta-gradients, and away from the behaviour policy.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxmeta.rl.advantages import masked_mean
from jaxmeta.types import Array

Objective = Callable[[Array, Array, Array, Array], Array]


def log_prob(log_prob: Array, behaviour_log_prob: Array, advantage: Array, valid: Array) -> Array:
    """Weights log-probabilities by advantages: the loss of MAML's original code.

    Its Hessian is that of the loss on fixed samples; in expectation it is not the Hessian of the expected return.
    """
    return -masked_mean(log_prob * advantage, valid)


def ratio(log_prob: Array, behaviour_log_prob: Array, advantage: Array, valid: Array) -> Array:
    """Weights likelihood ratios by advantages: the low-variance curvature objective of ProMP (arXiv:1810.06784)."""
    return -masked_mean(jnp.exp(log_prob - behaviour_log_prob) * advantage, valid)


def loaded_dice(decay: float) -> Objective:
    """Builds Loaded DiCE (Farquhar et al., 2019, arXiv:1909.10549): DiCE for any advantage estimator.

    A step's advantage is weighted by the magic box of all actions up to the step minus that of the actions before it,
    plus 1, so that at the behaviour policy its value is that of `ratio`.

    Args:
      decay: λ, the discount of earlier actions per step. With 1 derivatives of any order are unbiased; smaller values
        lower the variance and bias the second derivative; 0 is `ratio`.
    """

    def objective(log_prob: Array, behaviour_log_prob: Array, advantage: Array, valid: Array) -> Array:
        def step(past: Array, moment: tuple[Array, Array]) -> tuple[Array, Array]:
            log_prob, valid = moment
            faded = decay * past
            now = faded + log_prob * valid
            return jnp.where(valid > 0, now, past), _magic_box(now) - _magic_box(faded) + 1.0

        _, weight = jax.lax.scan(step, jnp.zeros_like(log_prob[0]), (log_prob, valid))
        return -masked_mean(weight * advantage, valid)

    return objective


def dice(log_prob: Array, behaviour_log_prob: Array, advantage: Array, valid: Array) -> Array:
    """Weights advantages by DiCE's magic box (Foerster et al., 2018, arXiv:1802.05098).

    With plain returns as advantages and episodes of equal length it equals the paper's objective up to a constant, so
    that derivatives of all orders are unbiased.

    Args:
      log_prob: log-probabilities of the actions, [T, E].
      behaviour_log_prob: ignored; the magic box needs no behaviour policy.
      advantage: [T, E].
      valid: 1.0 at valid steps, [T, E].
    """
    return loaded_dice(1.0)(log_prob, behaviour_log_prob, advantage, valid)


def _magic_box(log_prob: Array) -> Array:
    """Returns 1, with the derivatives of a likelihood ratio."""
    return jnp.exp(log_prob - jax.lax.stop_gradient(log_prob))


def clipped(clip: float = 0.2) -> Objective:
    """Builds PPO's clipped surrogate objective (Schulman et al., 2017, arXiv:1707.06347).

    Args:
      clip: ratios are clipped to [1 - clip, 1 + clip].
    """

    def objective(log_prob: Array, behaviour_log_prob: Array, advantage: Array, valid: Array) -> Array:
        ratio = jnp.exp(log_prob - behaviour_log_prob)
        limited = jnp.clip(ratio, 1.0 - clip, 1.0 + clip)
        return -masked_mean(jnp.minimum(ratio * advantage, limited * advantage), valid)

    return objective
