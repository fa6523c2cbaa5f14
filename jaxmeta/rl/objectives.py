"""Policy objectives: scalars to minimise, from log-probabilities and advantages of one round.

All have the form `objective(log_prob, behaviour_log_prob, advantage, valid) -> scalar`, with arrays [T, E]. They share
their value and first derivative at the behaviour policy; what differs is the second derivative, which second-order
meta-gradients see, and what happens away from the behaviour policy.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxmeta.rl.advantages import masked_mean
from jaxmeta.types import Array

Objective = Callable[[Array, Array, Array, Array], Array]


def log_prob(log_prob: Array, behaviour_log_prob: Array, advantage: Array, valid: Array) -> Array:
    """Weighs log-probabilities by advantages: the loss of MAML's original code.

    Its derivatives are those of the update as a function of fixed samples; its expected Hessian is not that of the
    expected return.
    """
    return -masked_mean(log_prob * advantage, valid)


def ratio(log_prob: Array, behaviour_log_prob: Array, advantage: Array, valid: Array) -> Array:
    """Weighs likelihood ratios by advantages: the low-variance curvature form of ProMP (arXiv:1810.06784)."""
    return -masked_mean(jnp.exp(log_prob - behaviour_log_prob) * advantage, valid)


def loaded_dice(decay: float) -> Objective:
    """Builds Loaded DiCE (Farquhar et al., 2019, arXiv:1909.10549): magic boxes that take any advantage.

    A step weighs by the box over all actions up to it less the box over those before it, so that its value is that of
    `ratio` at the behaviour policy.

    Args:
      decay: λ, by which an action counts less for every step that passes. 1 has unbiased derivatives of any order; less
        has a lower variance, for a bias in the second derivative; 0 is `ratio`.
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
    """Weighs what follows by DiCE's magic box (Foerster et al., 2018, arXiv:1802.05098).

    With plain returns for advantages, and episodes of one length, all derivatives are unbiased, and it is the paper's
    sum of boxed rewards, summed by parts, less a constant.
    """
    return loaded_dice(1.0)(log_prob, behaviour_log_prob, advantage, valid)


def _magic_box(log_prob: Array) -> Array:
    """Is 1, and has the derivatives of a likelihood ratio."""
    return jnp.exp(log_prob - jax.lax.stop_gradient(log_prob))


def clipped(clip: float = 0.2) -> Objective:
    """Builds PPO's pessimistic clipped ratio (Schulman et al., 2017, arXiv:1707.06347)."""

    def objective(log_prob: Array, behaviour_log_prob: Array, advantage: Array, valid: Array) -> Array:
        ratio = jnp.exp(log_prob - behaviour_log_prob)
        limited = jnp.clip(ratio, 1.0 - clip, 1.0 + clip)
        return -masked_mean(jnp.minimum(ratio * advantage, limited * advantage), valid)

    return objective
