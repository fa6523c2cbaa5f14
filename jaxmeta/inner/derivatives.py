"""Memory-efficient differentiation through an adaptation.

Plain reverse mode stores the residuals of every gradient step. The functions here store less.
"""

from __future__ import annotations

from collections.abc import Callable

import jax

from jaxmeta.core.learner import Learner
from jaxmeta.inner.gradient import Loss
from jaxmeta.types import Params, Rollout


def mixed_mode(loss: Loss) -> Callable[[Params, Rollout], Params]:
    """Builds the gradient of a loss, whose own derivative is computed in forward-over-reverse mode.

    A step then stores only its initial params: the cotangent of the gradient is multiplied by the Hessian, which is
    symmetric, so that a JVP of the gradient can replace its VJP (MixFlow-MG, Kemaev et al., 2025, arXiv:2505.00793).
    The result equals that of `jax.grad` up to rounding. No derivative with respect to the experience is computed.

        learner = inner.descent(policy, loss, inner.sgd(0.1), differentiate=inner.mixed_mode)
    """

    @jax.custom_vjp
    def gradient(theta: Params, experience: Rollout) -> Params:
        return jax.grad(loss)(theta, experience)

    def forward(theta: Params, experience: Rollout):
        return gradient(theta, experience), (theta, experience)

    def backward(kept, cotangent: Params):
        theta, experience = kept
        _, product = jax.jvp(lambda theta: jax.grad(loss)(theta, experience), (theta,), (cotangent,))
        return product, None

    gradient.defvjp(forward, backward)
    return gradient


def rematerialised(learner: Learner) -> Learner:
    """Applies `jax.checkpoint` to every adaptation: only its inputs are stored, and the rest is recomputed."""
    return learner._replace(adapt=jax.checkpoint(learner.adapt))
