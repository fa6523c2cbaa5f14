"""How meta-gradients go through an adaptation, where plain reverse mode would take too much memory.

Reverse mode through n gradient steps keeps what every step computed. Each of the following keeps less.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import optax

from jaxmeta.core.learner import Learner
from jaxmeta.inner.gradient import Loss
from jaxmeta.inner.updaters import Updater
from jaxmeta.types import Params, Rollout


def mixed_mode(loss: Loss) -> Callable[[Params, Rollout], Params]:
    """Builds the gradient of a loss so that its own derivative is taken forward over reverse.

    A step then keeps nothing but the params that it began with: the cotangent of a gradient is multiplied by the
    Hessian, which is symmetric, and so may go forward through the gradient's computation (MixFlow-MG, Kemaev et al.,
    2025, arXiv:2505.00793). The result is that of `jax.grad`, up to rounding. No derivative goes to the experience.
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
    """Makes every adaptation keep only what it begins with, and compute the rest again on the way back."""
    return learner._replace(adapt=jax.checkpoint(learner.adapt))


def held_back(updater: Updater, strength: float) -> Updater:
    """Lets any updater also go down strength / 2 |θ - θ₀|², where θ₀ is what the adaptation to a task starts from."""
    pull = optax.GradientTransformation(
        lambda params: params,
        lambda updates, state, params=None: (
            jax.tree.map(lambda slope, now, then: slope + strength * (now - then), updates, params, state),
            state,
        ),
    )
    return updater._replace(tx=lambda psi: optax.chain(pull, updater.tx(psi)))
