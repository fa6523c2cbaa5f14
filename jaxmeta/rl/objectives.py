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


def dice(log_prob: Array, behaviour_log_prob: Array, advantage: Array, valid: Array) -> Array:
    """Weighs advantages by DiCE's magic box (Foerster et al., 2018, arXiv:1802.05098) in its loaded form.

    The loaded form (Farquhar et al., 2019, arXiv:1909.10549) takes any advantage: a step weighs by the box over all
    actions up to it less the box over those before it. The value is that of `ratio` at the behaviour policy; all
    derivatives are unbiased.
    """
    past = jnp.cumsum(log_prob * valid, axis=0)
    before = jnp.concatenate([jnp.zeros_like(past[:1]), past[:-1]])
    weight = _magic_box(past) - _magic_box(before) + 1.0
    return -masked_mean(weight * advantage, valid)


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
