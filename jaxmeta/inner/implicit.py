"""Agents that adapt to the end, and whose meta-gradient needs to know only where that was (implicit MAML)."""

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
    """Builds an agent that goes down its loss on every round, but not far from where it was before the round.

    Memory of a meta-gradient does not depend on `steps`, and time only as the steps are taken again. It is biased as
    far as the minimum is not reached, or its curvature not positive: few or small steps can lead it far astray. The
    metric `gradient_norm_ratio` says how far: the gradient norm at the last step over that at the first.

    Args:
      policy: a learner without adaptation of its own.
      loss: of params and a round.
      updater: takes the steps; nothing of it is learned, and no derivative is taken through it.
      strength: λ, the weight of half the squared distance; see `proximal_point`, as for the other numbers.
    """

    watched = updater._replace(tx=lambda psi: optax.chain(_watch(), updater.tx(psi)))

    def adapt(params: GradientParams, fast: GradientFast, experience: Rollout, key: Key) -> GradientFast:
        tx = watched.tx(params.updater)
        at = lambda theta: loss(theta, experience)  # noqa: E731
        return GradientFast(*proximal_point(at, fast.policy, tx, strength, steps, cg_iterations, damping))

    return descent(policy, loss, watched)._replace(adapt=adapt)


def _watch() -> optax.GradientTransformation:
    """Keeps the norm of the last gradient over that of the first."""

    def update(updates: Params, state: Any, params: Params | None = None) -> tuple[Params, Any]:
        norm = optax.tree.norm(updates)
        return updates, state.replace(part=norm, whole=jnp.where(state.whole < 0, norm, state.whole))

    def init(params: Params) -> Any:  # optax's type of a state leaves out records
        return Ratio("gradient_norm_ratio", part=jnp.zeros(()), whole=-jnp.ones(()))

    return optax.GradientTransformation(init, update)


def proximal(updater: Updater, strength: float) -> Updater:
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
    """Minimises loss(φ) + λ/2 |φ - anchor|² by descent from the anchor, with its derivative by the end alone.

    At a minimum dφ/danchor = (I + ∇²loss / λ)⁻¹ (Rajeswaran et al., 2019, arXiv:1909.04630), in both modes of
    differentiation and with memory that does not depend on the number of steps. Where the descent has not arrived, or
    conjugate gradient not converged, it is off by as much; λ must exceed what curvature of the loss is negative.

    Args:
      loss: whose derivatives are those of its value: no `stop_gradient` may change them, as in `rl.dice`.
      tx: takes the steps.
      strength: λ.
      cg_iterations: products with the Hessian per derivative; with 0 the derivative is the identity, to first order.
      damping: what λ is raised by in the derivative. It takes the part of negative curvature away and lets conjugate
        gradient converge sooner; the larger it is, the nearer to first order.

    Returns:
      The point, and the state of `tx` at the end.
    """

    start, pulled = jax.lax.stop_gradient(anchor), optax.chain(_pull(strength), tx)

    def step(_, state):
        point, opt_state = state
        change, opt_state = pulled.update(jax.grad(loss)(point), opt_state, point)
        return optax.apply_updates(point, change), opt_state

    # a loop whose derivative nobody asks for: nothing of it is kept
    end, (_, opt_state) = jax.lax.stop_gradient(jax.lax.fori_loop(0, steps, step, (start, pulled.init(start))))

    def product(vector: Params) -> Params:
        bent = jax.jvp(jax.grad(loss), (end,), (vector,))[1]
        return jax.tree.map(lambda leaf, bend: leaf + bend / (strength + damping), vector, bent)

    # zero, but not its derivative
    moved = jax.tree.map(jnp.subtract, anchor, start)
    if cg_iterations:
        moved, _ = jax.scipy.sparse.linalg.cg(product, moved, maxiter=cg_iterations)
    return jax.tree.map(jnp.add, end, moved), opt_state
