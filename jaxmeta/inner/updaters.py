"""Updaters: inner-loop update rules, possibly meta-learned. Each makes an optax transformation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxmeta.core import paths
from jaxmeta.types import Array, Key, Params, Ratio


class Updater(NamedTuple):
    """A (possibly meta-learned) update rule θ' = U_ψ(θ, gradient)."""

    init: Callable[[Key, Params], Params]
    """Makes ψ for given policy params; `()` where nothing is learned."""
    tx: Callable[[Params], optax.GradientTransformation]
    """Makes the optax transformation from ψ."""


def fixed(tx: optax.GradientTransformation) -> Updater:
    """Wraps any optax transformation as an update rule without learned parameters.

    Example:
      updater = inner.fixed(optax.sgd(0.1, momentum=0.9))
    """
    return Updater(init=lambda key, params: (), tx=lambda psi: tx)


def sgd(learning_rate: float | optax.Schedule) -> Updater:
    """Builds plain gradient descent; a schedule is a function of the inner step on a task, from 0."""
    return fixed(optax.sgd(learning_rate))


def adam(learning_rate: float | optax.Schedule) -> Updater:
    """Builds Adam, with moments reset for every task; `eps_root` keeps meta-gradients finite."""
    return fixed(optax.adam(learning_rate, eps_root=1e-8))


def per_parameter(learning_rate: float) -> Updater:
    """Builds gradient descent with a learned step size for every parameter (Meta-SGD, arXiv:1707.09835).

    ψ is a tree like the params. All step sizes are initialised to `learning_rate`; they may become negative.
    """

    def descend(psi: Params) -> optax.GradientTransformation:
        return optax.stateless(lambda gradient, params: jax.tree.map(lambda rate, leaf: -rate * leaf, psi, gradient))

    return Updater(
        init=lambda key, params: jax.tree.map(lambda leaf: jnp.full_like(leaf, learning_rate), params), tx=descend
    )


def chain(*updaters: Updater) -> Updater:
    """Applies several rules sequentially, as `optax.chain` does; ψ is a tuple of theirs."""

    def init(key: Key, params: Params) -> tuple[Params, ...]:
        keys = jax.random.split(key, len(updaters))
        return tuple(updater.init(key, params) for updater, key in zip(updaters, keys, strict=True))

    def tx(psi: tuple[Params, ...]) -> optax.GradientTransformation:
        return optax.chain(*(updater.tx(one) for updater, one in zip(updaters, psi, strict=True)))

    return Updater(init, tx)


def first_order(updater: Updater) -> Updater:
    """Makes any updater first-order: `stop_gradient` is applied to the inner gradient."""
    constant = optax.stateless(lambda gradient, params: jax.lax.stop_gradient(gradient))
    return updater._replace(tx=lambda psi: optax.chain(constant, updater.tx(psi)))


def adapt_only(updater: Updater, *names: str) -> Updater:
    """Restricts any updater to the params with one of the names in their path; the others are not adapted.

    Case is ignored: "head" is the last layer of the networks of `jaxmeta.nets`. ANIL is
    `inner.adapt_only(inner.sgd(0.1), "head")`.

    Raises:
      ValueError: at the first update, if no param has one of the names in its path.
    """

    # masked before the rule, so that its moments are of these params alone, and after, as its steps may be non-zero
    # where the gradient is zero
    mask = optax.stateless(lambda gradient, params: select(gradient, names, lambda leaf: leaf, jnp.zeros_like))
    return updater._replace(tx=lambda psi: optax.chain(mask, updater.tx(psi), mask))


def select(tree: Params, names: tuple[str, ...], named: Callable[[Array], Array], other: Callable[[Array], Array]):
    """Applies one function to the leaves with one of the names in their path, and another to all others.

    Raises:
      ValueError: if no leaf has one of the names in its path.
    """
    return jax.tree.map(lambda has, leaf: named(leaf) if has else other(leaf), paths.named(tree, names), tree)


def bounded(updater: Updater, max_step: float) -> Updater:
    """Clips the global norm of every step of any updater to at most `max_step`, and counts the clipped steps.

    The meta-gradient is backpropagated through the clipping, and is finite where a step is zero.
    """

    def init(params: Params) -> Any:  # optax's type of a state leaves out records
        return Ratio("bounded_steps", part=jnp.zeros(()), whole=jnp.zeros(()))

    def shorten(updates: Params, state: Any, params: Params | None = None) -> tuple[Params, Any]:
        squared = optax.tree.norm(updates, squared=True)
        acts = squared > max_step**2
        # the square root is masked where no step is clipped: its derivative at zero is infinite
        factor = jnp.where(acts, max_step * jax.lax.rsqrt(jnp.where(acts, squared, 1.0)), 1.0)
        state = state.replace(part=state.part + acts, whole=state.whole + 1.0)
        return jax.tree.map(lambda leaf: factor * leaf, updates), state

    return updater._replace(tx=lambda psi: optax.chain(updater.tx(psi), optax.GradientTransformation(init, shorten)))
