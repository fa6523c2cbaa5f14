"""Updaters: what an agent does with the gradient of its inner loss. Each makes an optax transformation."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import optax

from jaxmeta.types import Key, Params


class Updater(NamedTuple):
    """A (possibly meta-learned) update rule θ' = U_ψ(θ, gradient)."""

    init: Callable[[Key, Params], Params]
    """Makes ψ for given policy params; `()` where nothing is learned."""
    tx: Callable[[Params], optax.GradientTransformation]
    """Makes the optax transformation from ψ."""


def sgd(learning_rate: float | optax.Schedule) -> Updater:
    """Builds plain gradient descent; a schedule counts the adaptations to one task from 0."""
    return Updater(init=lambda key, params: (), tx=lambda psi: optax.sgd(learning_rate))


def first_order(updater: Updater) -> Updater:
    """Makes any updater first-order: meta-gradients see the inner gradient as a constant."""
    constant = optax.stateless(lambda gradient, params: jax.lax.stop_gradient(gradient))
    return updater._replace(tx=lambda psi: optax.chain(constant, updater.tx(psi)))
