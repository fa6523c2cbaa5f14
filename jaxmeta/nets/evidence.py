"""PEARL's encoders: from transitions of a task to a posterior over its latent variable z.

An encoder processes transitions in batches of any size. It accumulates them in its evidence, a pytree of fixed size,
from which the posterior is computed; without transitions it is the prior N(0, I).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import struct

from jaxmeta.nets.networks import MLPWithOutput
from jaxmeta.types import Array, Key, Params

MIN_VARIANCE = 1e-7


class Belief(struct.PyTreeNode):
    """A diagonal Gaussian over z, [..., L]."""

    mean: Array
    variance: Array

    def sample(self, key: Key) -> Array:
        """Samples z, [..., L]."""
        return self.mean + jnp.sqrt(self.variance) * jax.random.normal(key, self.mean.shape)

    def kl_from_prior(self) -> Array:
        """Computes KL(self || N(0, I)), summed over the L dimensions, [...]."""
        return 0.5 * jnp.sum(self.variance + jnp.square(self.mean) - 1.0 - jnp.log(self.variance), axis=-1)


class EvidenceEncoder(NamedTuple):
    """An encoder, as pure functions of one task's transitions."""

    size: int
    """L, the length of z."""
    init: Callable[[Key], Params]
    start: Callable[[], Any]
    """Makes the evidence without transitions."""
    add: Callable[[Params, Any, Array, Array], Any]
    """(params, evidence, transitions [n, D], valid [n]) -> evidence."""
    belief: Callable[[Params, Any], Belief]
    """(params, evidence) -> posterior [L]."""
    ordered: bool = False
    """Whether the order of transitions matters; batches must then be consecutive transitions."""


def _prior_without_evidence(count: Array, mean: Array, variance: Array) -> Belief:
    some = count > 0
    return Belief(mean=jnp.where(some, mean, 0.0), variance=jnp.where(some, variance, 1.0))


class Factors(struct.PyTreeNode):
    """A product of Gaussian factors."""

    precision: Array
    """Sum of 1 / σ², [L]."""
    weighted_mean: Array
    """Sum of μ / σ², [L]."""
    count: Array
    """Number of factors, scalar."""


def product_encoder(transition_size: int, size: int = 5, hidden: Sequence[int] = (200, 200, 200)) -> EvidenceEncoder:
    """Builds PEARL's encoder: each transition is a Gaussian factor, the posterior their product.

    It is permutation-invariant, and precisions add. As in PEARL's own code, the prior is not a factor of the product;
    it is the belief only where there is no evidence.

    Args:
      transition_size: length of a transition, see `rl.replay.evidence_size`.
      size: length of z.
      hidden: widths of the hidden layers.
    """
    module = MLPWithOutput(tuple(hidden), 2 * size, scale=1.0)

    def add(params: Params, factors: Factors, transitions: Array, valid: Array) -> Factors:
        mean, spread = jnp.split(cast(Array, module.apply(params, transitions)), 2, axis=-1)
        precision = valid[:, None] / jnp.maximum(jax.nn.softplus(spread), MIN_VARIANCE)
        return Factors(
            precision=factors.precision + jnp.sum(precision, 0),
            weighted_mean=factors.weighted_mean + jnp.sum(precision * mean, 0),
            count=factors.count + jnp.sum(valid),
        )

    def belief(params: Params, factors: Factors) -> Belief:
        # without evidence the quotients are not used, but their gradients must be finite
        precision = jnp.where(factors.count > 0, factors.precision, 1.0)
        return _prior_without_evidence(factors.count, factors.weighted_mean / precision, 1.0 / precision)

    return EvidenceEncoder(
        size=size,
        init=lambda key: module.init(key, jnp.zeros(transition_size)),
        start=lambda: Factors(jnp.zeros(size), jnp.zeros(size), jnp.zeros(())),
        add=add,
        belief=belief,
    )


class Memory(struct.PyTreeNode):
    """The evidence of a recurrent encoder."""

    hidden: Array
    """[H]."""
    count: Array
    """Number of transitions, scalar."""


class _Recurrent(nn.Module):
    hidden: int
    size: int

    def setup(self):
        self.cell = nn.GRUCell(self.hidden)
        self.out = nn.Dense(2 * self.size)

    def __call__(self, hidden: Array, x: Array) -> Array:
        return self.out(self.advance(hidden, x))

    def advance(self, hidden: Array, x: Array) -> Array:
        return self.cell(hidden, x)[0]

    def read(self, hidden: Array) -> Array:
        return self.out(hidden)


def recurrent_encoder(transition_size: int, size: int = 5, hidden: int = 200) -> EvidenceEncoder:
    """Builds the recurrent encoder of PEARL's ablation, a GRU over the transitions in their order."""
    module = _Recurrent(hidden, size)

    def add(params: Params, memory: Memory, transitions: Array, valid: Array) -> Memory:
        def step(state, moment):
            transition, valid = moment
            after = cast(Array, module.apply(params, state, transition, method="advance"))
            return jnp.where(valid > 0, after, state), None

        after, _ = jax.lax.scan(step, memory.hidden, (transitions, valid))
        return Memory(after, memory.count + jnp.sum(valid))

    def belief(params: Params, memory: Memory) -> Belief:
        mean, spread = jnp.split(cast(Array, module.apply(params, memory.hidden, method="read")), 2)
        return _prior_without_evidence(memory.count, mean, jnp.maximum(jax.nn.softplus(spread), MIN_VARIANCE))

    return EvidenceEncoder(
        size=size,
        init=lambda key: module.init(key, jnp.zeros(hidden), jnp.zeros(transition_size)),
        start=lambda: Memory(jnp.zeros(hidden), jnp.zeros(())),
        add=add,
        belief=belief,
        ordered=True,
    )


def no_evidence() -> EvidenceEncoder:
    """Builds an encoder for agents that are not conditioned on the task: z has length 0."""
    return EvidenceEncoder(
        size=0,
        init=lambda key: {},
        start=lambda: (),
        add=lambda params, evidence, transitions, valid: evidence,
        belief=lambda params, evidence: Belief(jnp.zeros(0), jnp.zeros(0)),
    )
