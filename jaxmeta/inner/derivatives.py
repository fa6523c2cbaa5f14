"""How meta-gradients go through an adaptation, where plain reverse mode would take too much memory.

Reverse mode through n gradient steps keeps what every step computed. Each of the following keeps less.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import optax
from jax.scipy.sparse.linalg import cg

from jaxmeta.core.learner import Learner
from jaxmeta.inner.gradient import GradientFast, GradientParams, Loss, descent
from jaxmeta.inner.updaters import Updater
from jaxmeta.types import Key, Params, Rollout


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
        lambda gradient, start, params=None: (
            jax.tree.map(lambda slope, now, then: slope + strength * (now - then), gradient, params, start),
            start,
        ),
    )
    return updater._replace(tx=lambda psi: optax.chain(pull, updater.tx(psi)))


def implicit(
    policy: Learner, loss: Loss, updater: Updater, steps: int, strength: float, cg_iterations: int = 10
) -> Learner:
    """Builds an agent that in a round goes `steps` steps down its loss, `held_back` to where every task starts.

    The adapted params are taken for the minimum of loss + strength / 2 |θ - θ₀|², whose derivative by θ₀ needs no step
    on the way there (implicit MAML, Rajeswaran et al., 2019, arXiv:1909.04630): memory and time of a meta-gradient do
    not depend on `steps`. It is biased as far as the minimum is not reached, or its curvature not positive.

    Args:
      updater: one without anything to learn.
      cg_iterations: steps of conjugate gradient that solve for the derivative.
    """

    @jax.custom_vjp
    def settle(start: Params, theta: Params, experience: Rollout) -> Params:
        tx = held_back(updater, strength).tx(())

        def step(_, state):
            theta, opt_state = state
            update, opt_state = tx.update(jax.grad(loss)(theta, experience), opt_state, theta)
            return optax.apply_updates(theta, update), opt_state

        return jax.lax.fori_loop(0, steps, step, (theta, tx.init(start)))[0]

    def forward(start: Params, theta: Params, experience: Rollout):
        settled = settle(start, theta, experience)
        return settled, (settled, experience)

    def backward(kept, cotangent: Params):
        settled, experience = kept

        def curvature(vector: Params) -> Params:
            _, product = jax.jvp(lambda theta: jax.grad(loss)(theta, experience), (settled,), (vector,))
            return jax.tree.map(lambda one, other: one + other / strength, vector, product)

        return cg(curvature, cotangent, maxiter=cg_iterations)[0], None, None

    settle.defvjp(forward, backward)

    def adapt(params: GradientParams, fast: GradientFast, experience: Rollout, key: Key) -> GradientFast:
        return fast.replace(policy=settle(params.policy, fast.policy, experience))

    return descent(policy, loss, updater)._replace(adapt=adapt)
