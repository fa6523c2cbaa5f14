"""Adaptation to convergence, with implicit meta-gradients that depend on the solution only (iMAML)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxmeta.core.learner import Learner
from jaxmeta.inner.gradient import GradientFast, GradientParams, Loss, descent
from jaxmeta.inner.updaters import Updater
from jaxmeta.types import Array, Key, Params, Ratio, Rollout


def implicit(
    policy: Learner,
    loss: Loss,
    updater: Updater,
    steps: int,
    strength: float,
    cg_iterations: int = 10,
    damping: float = 0.0,
) -> Learner:
    """Builds an agent that minimises its loss with a proximal term on every round, with implicit meta-gradients.

    The memory of a meta-gradient does not depend on `steps`. The meta-gradient is biased where the minimum is not
    reached, or the Hessian there not positive definite; with few or small steps the bias can be large. The metric
    `gradient_norm_ratio`, the gradient norm at the last step over that at the first, shows how well the descent
    converged.

    Args:
      policy: a learner that does not adapt between rounds.
      loss: a function of params and a round.
      updater: takes the steps; it is not meta-learned, and no derivative is taken through it.
      strength: λ, the weight of the proximal term λ/2 |φ - φ₀|²; φ₀ are the params before the round. For the other
        arguments see `proximal_point`.
    """

    watched = updater._replace(tx=lambda psi: optax.chain(_watch(), updater.tx(psi)))

    def adapt(params: GradientParams, fast: GradientFast, experience: Rollout, key: Key) -> GradientFast:
        tx = watched.tx(params.updater)
        at = lambda theta: loss(theta, experience)  # noqa: E731
        return GradientFast(*proximal_point(at, fast.policy, tx, strength, steps, cg_iterations, damping))

    return descent(policy, loss, watched)._replace(adapt=adapt)


def _watch() -> optax.GradientTransformation:
    """Records the norm of the last gradient over that of the first."""

    def update(updates: Params, state: Any, params: Params | None = None) -> tuple[Params, Any]:
        norm = optax.tree.norm(updates)
        return updates, state.replace(part=norm, whole=jnp.where(state.whole < 0, norm, state.whole))

    def init(params: Params) -> Any:  # optax's type of a state leaves out records
        return Ratio("gradient_norm_ratio", part=jnp.zeros(()), whole=-jnp.ones(()))

    return optax.GradientTransformation(init, update)


def proximal_term(updater: Updater, strength: float) -> Updater:
    """Adds the gradient of the proximal term λ/2 |θ - θ₀|² to an updater; θ₀ is where adaptation to the task starts."""
    return updater._replace(tx=lambda psi: optax.chain(_pull(strength), updater.tx(psi)))


def _pull(strength: float) -> optax.GradientTransformation:
    def update(updates, state, params=None):
        back = jax.tree.map(lambda gradient, now, start: gradient + strength * (now - start), updates, params, state)
        return back, state

    return optax.GradientTransformation(lambda params: params, update)


def proximal_point(
    loss: Callable[[Params], Array],
    anchor: Params,
    tx: optax.GradientTransformation,
    strength: float,
    steps: int,
    cg_iterations: int,
    damping: float = 0.0,
) -> tuple[Params, Any]:
    """Minimises loss(φ) + λ/2 |φ - anchor|² by gradient descent from the anchor, with an implicit derivative.

    At a minimum dφ/danchor = (I + ∇²loss / λ)⁻¹ (Rajeswaran et al., 2019, arXiv:1909.04630). It works in forward and
    reverse mode, and its memory does not depend on the number of steps. It is inexact where the descent or conjugate
    gradient has not converged; λ must exceed the magnitude of the loss's most negative curvature.

    Args:
      loss: its derivatives must be those of its value: no `stop_gradient` may change them, as in `rl.dice`.
      tx: takes the steps.
      strength: λ.
      cg_iterations: Hessian-vector products per derivative; with 0 the derivative is the identity (first order).
      damping: added to λ in the derivative. It compensates for negative curvature and speeds up conjugate gradient; the
        larger it is, the closer the derivative is to first order.

    Returns:
      The minimiser, and the final state of `tx`.
    """

    start, pulled = jax.lax.stop_gradient(anchor), optax.chain(_pull(strength), tx)

    def step(_, state):
        point, opt_state = state
        change, opt_state = pulled.update(jax.grad(loss)(point), opt_state, point)
        return optax.apply_updates(point, change), opt_state

    # not differentiated, so no residuals are stored
    end, (_, opt_state) = jax.lax.stop_gradient(jax.lax.fori_loop(0, steps, step, (start, pulled.init(start))))

    def product(vector: Params) -> Params:
        bent = jax.jvp(jax.grad(loss), (end,), (vector,))[1]
        return jax.tree.map(lambda leaf, bend: leaf + bend / (strength + damping), vector, bent)

    # its value is zero, its derivative is not
    moved = jax.tree.map(jnp.subtract, anchor, start)
    if cg_iterations:
        moved, _ = jax.scipy.sparse.linalg.cg(product, moved, maxiter=cg_iterations)
    return jax.tree.map(jnp.add, end, moved), opt_state
