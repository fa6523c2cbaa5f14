"""Action distributions, as arrays that a policy emits and as distrax objects that are built where they are used."""

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
    """Returns the function that turns an `Output` into a distrax distribution for an action space.

    Discrete actions read `output.dist` as logits [..., num], several choices as theirs concatenated, [..., sum(nums)];
    continuous ones as a `Gaussian`.
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
    """Imports distrax when it is first needed: it takes longer than all else that a refused run would wait for."""
    with jax.ensure_compile_time_eval():  # its constants are none of the program that is being traced
        import distrax

        return distrax


def _normal(gaussian: Gaussian) -> Any:
    return _distrax().Independent(_distrax().Normal(gaussian.loc, jnp.exp(gaussian.log_scale)), 1)


class Categoricals:
    """Several independent choices at once: actions are [..., number of choices], int32."""

    def __init__(self, logits: Array, nums: tuple[int, ...]):
        ends = [sum(nums[: index + 1]) for index in range(len(nums))]
        self._parts = [_distrax().Categorical(logits=part) for part in jnp.split(logits, ends[:-1], axis=-1)]

    def sample(self, seed: Key) -> Array:
        """Draws every choice."""
        keys = jax.random.split(seed, len(self._parts))
        return jnp.stack([part.sample(seed=key) for part, key in zip(self._parts, keys, strict=True)], axis=-1)

    def mode(self) -> Array:
        """Returns the likeliest of every choice."""
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
    """All mass on one action [..., action size]: what says a prediction, and has nothing to explore."""

    def __init__(self, loc: Array):
        self._loc = loc

    def sample(self, seed: Key) -> Array:
        """Returns the prediction."""
        return self._loc

    def mode(self) -> Array:
        """Returns the prediction."""
        return self._loc

    def log_prob(self, action: Array) -> Array:
        """Is zero, [...], for the one action that can be drawn; no gradient goes through it."""
        return jnp.zeros(self._loc.shape[:-1])

    def kl_divergence(self, other: Certain) -> Array:
        """Is zero, [...]: where predictions may differ there is no finite one."""
        return jnp.zeros(self._loc.shape[:-1])

    def entropy(self) -> Array:
        """Is zero, [...]."""
        return jnp.zeros(self._loc.shape[:-1])


class SquashedGaussian:
    """A diagonal Gaussian pressed into a box by tanh: actions are `scale` tanh(u), u ~ N(loc, exp(log_scale)²).

    Densities come from u where it is known: from an action that was rounded to the edge it could not be told.
    """

    def __init__(self, gaussian: Gaussian, scale: float = 1.0):
        self._normal = _normal(gaussian)
        self._scale = scale

    def sample(self, seed: Key) -> Array:
        """Draws actions [..., action size]."""
        return jnp.tanh(jnp.asarray(self._normal.sample(seed=seed))) * self._scale

    def sample_and_log_prob(self, seed: Key) -> tuple[Array, Array]:
        """Draws actions [..., action size], with their log densities [...]."""
        before = jnp.asarray(self._normal.sample(seed=seed))
        return jnp.tanh(before) * self._scale, self._log_prob_before(before)

    def log_prob(self, action: Array) -> Array:
        """Computes log densities [...] of actions, those at the edge taken for some just within it."""
        edge = 1.0 - 1e-6
        return self._log_prob_before(jnp.arctanh(jnp.clip(action / self._scale, -edge, edge)))

    def mode(self) -> Array:
        """Returns the actions of the Gaussian's mode, which is not quite that of the density over actions."""
        return jnp.tanh(jnp.asarray(self._normal.mode())) * self._scale

    def kl_divergence(self, other: SquashedGaussian) -> Array:
        """Computes KL(self || other), [...]; pressing both into the same box leaves it as it is."""
        return jnp.asarray(self._normal.kl_divergence(other._normal))

    def entropy(self) -> Array:
        """Raises: there is no closed form; estimate it by `-sample_and_log_prob(seed)[1]`."""
        raise NotImplementedError("a tanh-Gaussian has no closed entropy; average -log_prob over samples")

    def _log_prob_before(self, before: Array) -> Array:
        # log(1 - tanh²u) = 2 (log 2 - u - softplus(-2u)), without cancellation at large |u|
        stretch = 2.0 * (math.log(2.0) - before - jax.nn.softplus(-2.0 * before))
        return jnp.asarray(self._normal.log_prob(before)) - jnp.sum(stretch + math.log(self._scale), axis=-1)
