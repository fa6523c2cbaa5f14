"""Action distributions: the arrays that a policy returns, and the distrax objects built from them where needed."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from jaxmeta.types import Action, Array, Discrete, Key, MultiDiscrete, Output


class Gaussian(struct.PyTreeNode):
    """A diagonal Gaussian over action vectors."""

    loc: Array
    """[..., action size]."""
    log_scale: Array
    """[..., action size]."""


def head_for(action: Action):
    """Returns the function from an `Output` to a distrax distribution for an action space.

    `output.dist` is logits [..., num] for discrete actions, concatenated logits [..., sum(nums)] for multi-discrete
    ones, and a `Gaussian` for continuous ones.
    """

    # distrax objects must not cross a jit or vmap boundary
    def categorical(output: Output) -> Any:
        return _distrax().Categorical(logits=output.dist)

    def gaussian(output: Output) -> Any:
        return _normal(output.dist)

    if isinstance(action, MultiDiscrete):
        return lambda output: Categoricals(output.dist, action.nums)
    return categorical if isinstance(action, Discrete) else gaussian


def _distrax() -> Any:
    """Imports distrax lazily: it is slow to import, and invalid configurations should be rejected fast."""
    with jax.ensure_compile_time_eval():  # its constants must not be traced into the current program
        import distrax

        return distrax


def _normal(gaussian: Gaussian) -> Any:
    return _distrax().Independent(_distrax().Normal(gaussian.loc, jnp.exp(gaussian.log_scale)), 1)


def mostly(logits: Array, epsilon: float) -> Array:
    """Mixes the distribution of logits [..., A] with a uniform one of weight `epsilon`; returns logits."""
    if isinstance(epsilon, int | float) and epsilon == 0.0:
        return jax.nn.log_softmax(logits)  # the logarithm below has no gradient where a probability underflows
    return jnp.log((1.0 - epsilon) * jax.nn.softmax(logits) + epsilon / logits.shape[-1])


class Categoricals:
    """Independent categorical distributions: actions are int32 [..., number of choices]."""

    def __init__(self, logits: Array, nums: tuple[int, ...]):
        ends = [sum(nums[: index + 1]) for index in range(len(nums))]
        self._parts = [_distrax().Categorical(logits=part) for part in jnp.split(logits, ends[:-1], axis=-1)]

    def sample(self, seed: Key) -> Array:
        """Samples all choices."""
        keys = jax.random.split(seed, len(self._parts))
        return jnp.stack([part.sample(seed=key) for part, key in zip(self._parts, keys, strict=True)], axis=-1)

    def mode(self) -> Array:
        """Returns the most likely value of every choice."""
        return jnp.stack([part.mode() for part in self._parts], axis=-1)

    def log_prob(self, action: Array) -> Array:
        """Computes log probabilities [...]."""
        return jnp.asarray(sum(part.log_prob(action[..., index]) for index, part in enumerate(self._parts)))

    def kl_divergence(self, other: Categoricals) -> Array:
        """Computes KL(self || other), [...]."""
        return jnp.asarray(
            sum(part.kl_divergence(those) for part, those in zip(self._parts, other._parts, strict=True))
        )

    def entropy(self) -> Array:
        """Computes the entropy, [...]."""
        return jnp.asarray(sum(part.entropy() for part in self._parts))


class Certain:
    """A deterministic distribution at one action [..., action size], for predictors, which do not explore."""

    def __init__(self, loc: Array):
        self._loc = loc

    def sample(self, seed: Key) -> Array:
        """Returns the prediction."""
        return self._loc

    def mode(self) -> Array:
        """Returns the prediction."""
        return self._loc

    def log_prob(self, action: Array) -> Array:
        """Returns zero, [...], for the only possible action, without a gradient."""
        return jnp.zeros(self._loc.shape[:-1])

    def kl_divergence(self, other: Certain) -> Array:
        """Returns zero, [...]: for different predictions it would be infinite."""
        return jnp.zeros(self._loc.shape[:-1])

    def entropy(self) -> Array:
        """Returns zero, [...]."""
        return jnp.zeros(self._loc.shape[:-1])


class SquashedGaussian:
    """A tanh-squashed diagonal Gaussian: actions are `scale` tanh(u), u ~ N(loc, exp(log_scale)²).

    Densities are computed from u where it is known: it cannot be recovered from an action that was rounded to ±scale.
    """

    def __init__(self, gaussian: Gaussian, scale: float = 1.0):
        self._normal = _normal(gaussian)
        self._scale = scale

    def sample(self, seed: Key) -> Array:
        """Samples actions [..., action size]."""
        return jnp.tanh(jnp.asarray(self._normal.sample(seed=seed))) * self._scale

    def sample_and_log_prob(self, seed: Key) -> tuple[Array, Array]:
        """Samples actions [..., action size], with their log densities [...]."""
        before = jnp.asarray(self._normal.sample(seed=seed))
        return jnp.tanh(before) * self._scale, self._log_prob_before(before)

    def log_prob(self, action: Array) -> Array:
        """Computes log densities [...] of actions; actions at ±scale are moved slightly inwards."""
        edge = 1.0 - 1e-6
        return self._log_prob_before(jnp.arctanh(jnp.clip(action / self._scale, -edge, edge)))

    def mode(self) -> Array:
        """Returns tanh of the Gaussian's mode, times `scale`; it is not exactly the mode of the squashed density."""
        return jnp.tanh(jnp.asarray(self._normal.mode())) * self._scale

    def kl_divergence(self, other: SquashedGaussian) -> Array:
        """Computes KL(self || other), [...], that of the Gaussians: KL is invariant under the common tanh."""
        return jnp.asarray(self._normal.kl_divergence(other._normal))

    def entropy(self) -> Array:
        """Raises: there is no closed form; estimate it by `-sample_and_log_prob(seed)[1]`."""
        raise NotImplementedError("a tanh-Gaussian has no closed-form entropy; average -log_prob over samples")

    def _log_prob_before(self, before: Array) -> Array:
        # log(1 - tanh²u) = 2 (log 2 - u - softplus(-2u)), without cancellation at large |u|
        stretch = 2.0 * (math.log(2.0) - before - jax.nn.softplus(-2.0 * before))
        return jnp.asarray(self._normal.log_prob(before)) - jnp.sum(stretch + math.log(self._scale), axis=-1)
