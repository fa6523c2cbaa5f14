"""Agents that adapt to the end, and whose meta-gradient needs to know only where that was (implicit MAML)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxmeta.core.learner import Learner
from jaxmeta.inner.gradient import GradientFast, GradientParams, Loss, descent, surrogate
from jaxmeta.inner.updaters import Updater
from jaxmeta.rl import Estimator, Objective
from jaxmeta.types import Array, Key, Params, Rollout


def implicit(
    policy: Learner,
    objective: Objective,
    solver: Updater,
    advantage: Estimator,
    strength: float,
    steps: int,
    cg_iterations: int,
) -> Learner:
    """Builds an agent that goes down its inner loss on every round, but not far from where it was before the round.

    Args:
      policy: a learner without adaptation of its own.
      objective: the inner loss; it is also taken away from the behaviour policy, where `log_prob` would be none.
      solver: takes the steps; nothing of it is learned, and no derivative is taken through it.
      strength: λ, the weight of half the squared distance; see `proximal_point`, as for the other numbers.
    """
    loss = surrogate(policy, objective, advantage)
    return settled(policy, loss, solver, strength, steps, cg_iterations)


def settled(policy: Learner, loss: Loss, solver: Updater, strength: float, steps: int, cg_iterations: int) -> Learner:
    """Builds an agent that goes down any loss of its experience on every round, as `implicit` does."""

    def adapt(params: GradientParams, fast: GradientFast, experience: Rollout, key: Key) -> GradientFast:
        tx = solver.tx(params.updater)
        end = proximal_point(lambda theta: loss(theta, experience), fast.policy, tx, strength, steps, cg_iterations)
        return GradientFast(*end)

    return descent(policy, loss, solver)._replace(adapt=adapt)


def proximal_point(
    loss: Callable[[Params], Array],
    anchor: Params,
    tx: optax.GradientTransformation,
    strength: float,
    steps: int,
    cg_iterations: int,
) -> tuple[Params, Any]:
    """Minimises loss(φ) + λ/2 |φ - anchor|² by descent from the anchor, with its derivative by the end alone.

    At a minimum dφ/danchor = (I + ∇²loss / λ)⁻¹ (Rajeswaran et al., 2019, arXiv:1909.04630), in both modes of
    differentiation and with memory that does not depend on the number of steps. Where the descent has not arrived, or
    conjugate gradient not converged, it is off by as much; λ must exceed what curvature of the loss is negative.

    Args:
      tx: takes the steps.
      strength: λ.
      cg_iterations: products with the Hessian per derivative; with 0 the derivative is the identity, to first order.

    Returns:
      The point, and the state of `tx` at the end.
    """

    start = jax.lax.stop_gradient(anchor)

    def slope(point: Params) -> Params:
        return jax.tree.map(lambda leaf, at, begin: leaf + strength * (at - begin), jax.grad(loss)(point), point, start)

    def step(_, state):
        point, opt_state = state
        change, opt_state = tx.update(slope(point), opt_state, point)
        return optax.apply_updates(point, change), opt_state

    # a loop whose derivative nobody asks for: nothing of it is kept
    end, opt_state = jax.lax.stop_gradient(jax.lax.fori_loop(0, steps, step, (start, tx.init(start))))

    def product(vector: Params) -> Params:
        bent = jax.jvp(jax.grad(loss), (end,), (vector,))[1]
        return jax.tree.map(lambda leaf, bend: leaf + bend / strength, vector, bent)

    # zero, but not its derivative
    moved = jax.tree.map(jnp.subtract, anchor, start)
    if cg_iterations:
        moved, _ = jax.scipy.sparse.linalg.cg(product, moved, maxiter=cg_iterations)
    return jax.tree.map(jnp.add, end, moved), opt_state
