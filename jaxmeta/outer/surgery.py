"""Gradient surgery: rules that combine the gradients of K tasks so that they conflict less.

Every rule here depends on the gradients only through their Gram matrix, the matrix [K, K] of their inner products, and
returns the weights [K] of their sum. `outer.combined` applies a rule.

    outer.policy_gradient(learner, advantage, aggregate=outer.combined(outer.surgery.pcgrad))
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxmeta.types import Array, Key, Metrics

Rule = Callable[..., Array]
"""(Gram matrix [K, K], key) -> weights [K] of the gradients in the update direction.

A rule may have a third parameter, `present`, bool [K]: which tasks take part. Rows and columns of the others are zero,
and their weights have no effect."""


def pcgrad(gram: Array, key: Key, present: Array | None = None) -> Array:
    """Removes conflicts by projection, PCGrad (Yu et al., 2020, arXiv:2001.06782).

    The gradient of each task is projected, in a random order of its own, onto the normal plane of every other gradient
    with which its inner product is negative. The direction is the mean of the projected gradients; the paper sums them.
    """
    present = jnp.ones(len(gram), bool) if present is None else present
    size, unit = jnp.diagonal(gram), jnp.eye(len(gram))
    inverse = jnp.where(size > 0, 1.0 / jnp.where(size > 0, size, 1.0), 0.0)

    def projected(index: Array, order: Array) -> Array:
        def project(weights: Array, other: Array) -> tuple[Array, None]:
            conflict = jnp.where(other == index, 0.0, jnp.minimum(weights @ gram[:, other], 0.0))
            return weights - conflict * inverse[other] * unit[other], None

        return jax.lax.scan(project, unit[index], order)[0]

    each = jax.vmap(projected)(jnp.arange(len(gram)), projection_orders(key, present))
    return present @ each / jnp.maximum(jnp.sum(present), 1)


def projection_orders(key: Key, present: Array) -> Array:
    """Draws the order in which PCGrad projects the gradient of each task, int32 [K, K], each row a permutation.

    The order of the present tasks among themselves is the same as without the others.
    """
    rank = jnp.cumsum(present)

    def order(one: Array) -> Array:
        own = jax.random.fold_in(key, one)
        return jnp.argsort(jax.vmap(lambda other: jax.random.uniform(jax.random.fold_in(own, other)))(rank))

    return jax.vmap(order)(rank)


def cagrad(c: float = 0.5) -> Rule:
    """Builds conflict-averse gradient descent, CAGrad (Liu et al., 2021, arXiv:2110.14048).

    Of all directions d within c |g₀| of the mean gradient g₀, it takes the one with the largest min_k g_k · d, the
    improvement of the worst task. Its length is up to (1 + c) |g₀|. Tasks with a zero gradient count in g₀ only.

    Args:
      c: 0 gives the mean gradient; below 1 the mean loss still converges.

    Raises:
      ValueError: if c is negative or not finite.
    """
    if not 0 <= c < math.inf:
        raise ValueError(f"c is {c}; it must be finite and not negative")

    def rule(gram: Array, key: Key, present: Array | None = None) -> Array:
        present = jnp.ones(len(gram), bool) if present is None else present
        gram = _scaled(gram)
        size = jnp.sqrt(jnp.diagonal(gram))
        mean = present / jnp.maximum(jnp.sum(present), 1)
        radius = c * jnp.sqrt(jnp.maximum(mean @ gram @ mean, 0.0))
        worst = _minimum(gram, gram @ mean, radius, present & (size > 0))
        # where gradients cancel, |g_w| is below the rounding error of the Gram matrix
        norm = jnp.sqrt(jnp.maximum(worst @ gram @ worst, 0.0) + 1e-7 * jnp.square(worst @ size))
        return mean + radius * worst / jnp.where(norm > 0, norm, 1.0)

    return rule


def min_norm(gram: Array, key: Key, present: Array | None = None) -> Array:
    """Finds the shortest vector in the convex hull of the gradients (MGDA, Désidéri, 2012; Sener and Koltun, 2018).

    Its inner products with all gradients are at least its squared norm. It is zero where no direction improves all
    tasks, for example where one gradient is zero.
    """
    present = jnp.ones(len(gram), bool) if present is None else present
    gram = _scaled(gram)
    return _minimum(gram, jnp.zeros(len(gram)), jnp.ones(()), present)


def _scaled(gram: Array) -> Array:
    """Divides by the largest squared norm."""
    largest = jnp.max(jnp.diagonal(gram))
    return gram / jnp.where(largest > 0, largest, 1.0)


class _Search(NamedTuple):
    """State of the search for the minimum over the simplex."""

    w: Array
    """Feasible, [K]."""
    face: Array
    """The face of the simplex that is searched: which entries of w may be positive, bool [K]."""
    done: Array
    steps: Array


def _minimum(gram: Array, slope: Array, radius: Array, allowed: Array) -> Array:
    """Minimises `slope @ w + radius * sqrt(w @ gram @ w)` over the probability simplex.

    An active-set method, Wolfe's (1976) for the shortest vector: it minimises exactly on the plane of one face after
    another, until the duality gap is a few rounding errors. With two tasks, at most two steps are needed.

    Args:
      allowed: which entries of w may be positive, bool [K]; if none may, the result is a unit vector.
    """
    size = jnp.sqrt(jnp.diagonal(gram))

    def step(state: _Search) -> _Search:
        end, downhill, bounded = _face_minimum(gram, slope, radius, state.face)
        way = jnp.where(bounded, end - state.w, downhill)
        reach = jnp.where(state.face & (way < 0), -state.w / jnp.where(way < 0, way, 1.0), jnp.inf)
        leaving = jnp.argmin(reach)
        inside = bounded & (reach[leaving] >= 1.0)

        at_minimum = jnp.maximum(end, 0.0)
        inner = gram @ at_minimum
        squared = jnp.maximum(at_minimum @ inner, 0.0)
        slopes = slope * jnp.sqrt(squared) + radius * inner  # the gradient times the norm
        entering = jnp.argmin(jnp.where(allowed, slopes, jnp.inf))
        gap = at_minimum @ slopes - slopes[entering]
        enough = 64.0 * jnp.finfo(gram.dtype).eps * (radius * squared + jnp.abs(at_minimum @ slope) * jnp.sqrt(squared))
        optimal = (gap <= enough) | state.face[entering]

        moves = jnp.isfinite(reach[leaving])
        at_border = jnp.maximum(state.w + jnp.where(moves, reach[leaving], 0.0) * way, 0.0).at[leaving].set(0.0)
        return _Search(
            w=jnp.where(inside, at_minimum, jnp.where(moves, at_border, state.w)),
            face=jnp.where(inside, state.face.at[entering].set(True), state.face.at[leaving].set(False)),
            done=jnp.where(inside, optimal, ~moves),
            steps=state.steps + 1,
        )

    start = jnp.argmin(jnp.where(allowed, slope + radius * size, jnp.inf)) == jnp.arange(len(gram))
    first = _Search(start.astype(gram.dtype), start, jnp.zeros((), bool), jnp.zeros((), jnp.int32))
    limit = 20 + 4 * len(gram)  # in case that rounding makes it cycle
    found = jax.lax.while_loop(lambda state: ~state.done & (state.steps < limit), step, first)
    return found.w / jnp.sum(found.w)


def _face_minimum(gram: Array, slope: Array, radius: Array, face: Array) -> tuple[Array, Array, Array]:
    """Minimises the objective of `_minimum` over weights of any sign that sum to 1 and are zero off a face.

    Returns:
      The minimum [K], a direction of descent [K], and whether the minimum exists; if not, the objective decreases
      without bound along the direction.
    """
    size = jnp.sqrt(jnp.diagonal(gram))
    inverse = jnp.where(face & (size > 0), 1.0 / jnp.where(size > 0, size, 1.0), 0.0)
    cosine = gram * inverse[:, None] * inverse + jnp.diag(jnp.where(inverse > 0, 0.0, 1.0))
    # nearly equal gradients make the system singular; the second solution corrects the error of the ridge
    factors = jax.scipy.linalg.lu_factor(cosine + 8.0 * jnp.finfo(gram.dtype).eps * jnp.eye(len(gram)))
    right = jnp.stack([inverse, slope * inverse], axis=1)
    solved = jax.scipy.linalg.lu_solve(factors, right)
    solved += jax.scipy.linalg.lu_solve(factors, right - cosine @ solved)
    ones, slopes = (inverse[:, None] * solved).T  # inverse of the matrix on the face, times ones and times the slope
    total, sloping = jnp.sum(ones), jnp.sum(slopes)
    total_or_one = jnp.where(total > 0, total, 1.0)
    downhill = sloping / total_or_one * ones - slopes
    root = jnp.square(sloping) - total * (slope @ slopes) + total * jnp.square(radius)
    end = ones / total_or_one + downhill / jnp.sqrt(jnp.where(root > 0, root, 1.0))
    return end, downhill, (root > 0) & (total > 0)


def relations(gram: Array, present: Array) -> Metrics:
    """Computes how the gradients of the present tasks relate.

    Returns:
      `conflicts`: the share of pairs of tasks with a negative cosine. `cosine/min`: the smallest cosine of a pair, 1 if
      there is none. `grad_norm_ratio`: the largest gradient norm over the smallest that is not zero.
    """
    norm = jnp.where(present, jnp.sqrt(jnp.diagonal(gram)), 0.0)
    unit = jnp.where(norm > 0, 1.0 / jnp.where(norm > 0, norm, 1.0), 0.0)
    pairs = present[:, None] & present & ~jnp.eye(len(gram), dtype=bool)
    cosine = gram * unit[:, None] * unit
    largest = jnp.max(norm)
    smallest = jnp.min(jnp.where(norm > 0, norm, jnp.inf))
    return {
        "conflicts": jnp.sum(pairs & (gram < 0)) / jnp.maximum(jnp.sum(pairs), 1),
        "cosine/min": jnp.min(cosine, where=pairs, initial=1.0),
        "grad_norm_ratio": jnp.where(largest > 0, largest / smallest, 1.0),
    }
