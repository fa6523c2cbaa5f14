"""Learned update rules beyond step sizes: preconditioners per layer, and a coordinatewise recurrent optimiser.

All are initialised to plain gradient descent, so that MAML with one of them starts as MAML.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxmeta.inner.updaters import Updater
from jaxmeta.nets import Coordinatewise
from jaxmeta.types import Array, Key, Params


def kronecker(learning_rate: float) -> Updater:
    """Builds gradient descent with a learned preconditioner A ⊗ B for every layer (Meta-Curvature, arXiv:1902.03356).

    The gradient G of a kernel, [inputs, outputs], becomes A G B; that of a bias, B g. ψ is a tree like the params, of
    pairs (A, B).
    """

    def init(key: Key, params: Params) -> Params:
        return jax.tree.map(lambda leaf: tuple(map(jnp.eye, _as_matrix(leaf))), params)

    def descend(psi: Params) -> optax.GradientTransformation:
        def one(leaf: Array, sides: tuple[Array, Array]) -> Array:
            left, right = sides
            return -learning_rate * (left @ leaf.reshape(_as_matrix(leaf)) @ right).reshape(leaf.shape)

        return optax.stateless(lambda gradient, params: jax.tree.map(one, gradient, psi))

    return Updater(init, descend)


def block_diagonal(learning_rate: float, size: int = 16) -> Updater:
    """Builds gradient descent with a learned block-diagonal preconditioner for every layer.

    ψ is a tree like the params, of blocks [number, size, size]; a block mixes `size` neighbouring coordinates.
    """

    def init(key: Key, params: Params) -> Params:
        return jax.tree.map(lambda leaf: jnp.tile(jnp.eye(size), (-(-leaf.size // size), 1, 1)), params)

    def descend(psi: Params) -> optax.GradientTransformation:
        def one(leaf: Array, blocks: Array) -> Array:
            padded = jnp.pad(leaf.ravel(), (0, len(blocks) * size - leaf.size)).reshape(-1, size)
            mixed = jnp.einsum("bij,bj->bi", blocks, padded).ravel()
            return -learning_rate * mixed[: leaf.size].reshape(leaf.shape)

        return optax.stateless(lambda gradient, params: jax.tree.map(one, gradient, psi))

    return Updater(init, descend)


def recurrent(network: Coordinatewise, nominal: Updater, scale: float = 0.1) -> Updater:
    """Builds a rule θ', h' = f_ψ(θ, ∇L, h), a recurrent network that scales the steps of another rule and adds to them.

    The network is shared by all coordinates; each has its own recurrent state, which is reset for every task. Its input
    is the gradient. Its outputs (m, d) turn the nominal step n into exp(m) n + scale d, following Harrison et al.
    (2022, arXiv:2209.11208).

    Args:
      nominal: the rule that it is initialised to, without learned parameters.
      scale: scale of the added steps.
    """
    base = nominal.tx(())

    def tx(psi: Params) -> optax.GradientTransformation:
        def init(params: Params) -> Any:
            return base.init(params), jax.tree.map(lambda leaf: network.initial_state(leaf.size), params)

        def update(gradient: Params, state: Any, params: Params | None = None) -> tuple[Params, Any]:
            nominal_step, base_state = base.update(gradient, state[0], params)
            leaves, structure = jax.tree.flatten(gradient)
            memories, nominals = structure.flatten_up_to(state[1]), structure.flatten_up_to(nominal_step)
            after, steps = [], []
            for leaf, memory, planned in zip(leaves, memories, nominals, strict=True):
                memory, said = network.apply(psi, memory, leaf.ravel())
                size, added = (said[:, index].reshape(leaf.shape) for index in range(2))
                after.append(memory)
                steps.append(jnp.exp(size) * planned + scale * added)
            return structure.unflatten(steps), (base_state, structure.unflatten(after))

        return optax.GradientTransformation(init, update)  # pyright: ignore[reportArgumentType]

    return Updater(init=lambda key, params: network.init(key), tx=tx)


def _as_matrix(leaf: Array) -> tuple[int, int]:
    """Returns the numbers of rows and columns of a layer's kernel as a matrix; a bias or a scalar is a single row."""
    columns = leaf.shape[-1] if leaf.ndim else 1
    return leaf.size // columns, columns
