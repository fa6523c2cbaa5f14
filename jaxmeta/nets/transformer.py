"""A causal transformer: pre-norm blocks, rotary positions, grouped key-value heads, and a ring of keys and values."""

from __future__ import annotations

import math

import jax.numpy as jnp
from flax import linen as nn
from flax import struct

from jaxmeta.nets.attention import attend_along, attend_in_step
from jaxmeta.nets.networks import Network
from jaxmeta.nets.observations import any_observation
from jaxmeta.nets.orthogonal import lecun
from jaxmeta.nets.residual import Mixer, Steps, residual_actor_critic
from jaxmeta.types import Array, Carry, Input, Output, Params, Spec

BASE = 10_000.0
"""The slowest pair of rotary features turns by one radian in about this many steps."""


class KeysAndValues(struct.PyTreeNode):
    """The recurrent state of one layer of a transformer."""

    time: Array
    """Number of steps so far, int32 scalar."""
    keys: Array
    """Rotated keys, [key-value heads, length, K]; a ring buffer of each head."""
    values: Array
    """[key-value heads, length, K], ring buffers too."""


def rotate(x: Array, position: Array) -> Array:
    """Applies rotary positions (Su et al., 2021, arXiv:2104.09864), so that products depend on distances only.

    Args:
      x: [T, ..., K] with an even K; feature i and feature i + K / 2 are one pair.
      position: [T].
    """
    half = x.shape[-1] // 2
    angle = position.reshape(-1, *(1 for _ in x.shape[1:])) * BASE ** (-jnp.arange(half) / half)
    one, other = x[..., :half], x[..., half:]
    cosine, sine = jnp.cos(angle), jnp.sin(angle)
    return jnp.concatenate([one * cosine - other * sine, one * sine + other * cosine], axis=-1)


class _Attention(nn.Module):
    heads: int
    kv_heads: int
    length: int

    @nn.compact
    def __call__(self, state: KeysAndValues, x: Array, steps: Steps) -> tuple[KeysAndValues, Array]:
        size, groups = x.shape[-1] // self.heads, self.kv_heads
        # √2: with LeCun's own scale the initial attention is nearly uniform
        flat = nn.Dense((self.heads + 2 * groups) * size, use_bias=False, kernel_init=lecun(math.sqrt(2.0)))(x)
        query, key, value = jnp.split(flat, [self.heads * size, (self.heads + groups) * size], axis=-1)
        query = query.reshape(len(x), groups, self.heads // groups, size)
        key, value = (part.reshape(len(x), groups, size) for part in (key, value))
        if len(x) == 1:
            query, key = (rotate(part, state.time[None]) for part in (query, key))
            rings = (state.keys, state.values)
            (keys, values), read = attend_in_step(rings, state.time, query[0], key[0], value[0])
            return KeysAndValues(state.time + 1, keys, values), read.reshape(1, -1)
        query, key = (rotate(part, steps.before) for part in (query, key))
        read = attend_along(query, key, value, steps.valid, steps.before, self.length)
        return state, read.reshape(len(x), -1)


@any_observation
def transformer_actor_critic(
    spec: Spec,
    length: int,
    hidden: int = 64,
    layers: int = 2,
    init_log_std: float = 0.0,
    heads: int = 4,
    kv_heads: int = 2,
) -> Network:
    """Builds a causal transformer as a policy, with policy and value heads.

    Beyond `length` steps it goes on acting, on the last `length` of them; `unroll` refuses such a stream.

    Args:
      length: context, the steps of the longest trial, episodes x horizon.
      hidden: width of the blocks, a multiple of twice the heads.
      layers: number of blocks.
      heads: attention heads.
      kv_heads: heads of keys and values, each shared by heads / kv_heads query heads.

    Raises:
      ValueError: if the sizes do not fit, or by `unroll`, as it is traced, if a stream is longer than `length`.
    """
    if length < 1:
        raise ValueError(f"length is {length}; it must be at least 1")
    if heads < 1 or kv_heads < 1 or heads % kv_heads:
        raise ValueError(f"kv_heads is {kv_heads}; it must divide the number of heads, which is {heads}")
    if hidden < 1 or hidden % (2 * heads):
        raise ValueError(
            f"hidden is {hidden}; a transformer with {heads} heads needs a multiple of {2 * heads}"
            f" (try {max(1, round(hidden / (2 * heads))) * 2 * heads})"
        )

    def initial_state() -> KeysAndValues:
        ring = jnp.zeros((kv_heads, length, hidden // heads))
        return KeysAndValues(jnp.zeros((), jnp.int32), ring, ring)

    mixer = Mixer(lambda: _Attention(heads, kv_heads, length), initial_state)
    network = residual_actor_critic(spec, mixer, hidden, layers, init_log_std)
    in_parallel = network.unroll
    assert in_parallel is not None

    def unroll(params: Params, carry: Carry, inputs: Input, valid: Array) -> Output:
        if len(valid) > length:
            raise ValueError(f"length is {length}; a context of {len(valid)} steps is longer than the model's")
        return in_parallel(params, carry, inputs, valid)

    return network._replace(unroll=unroll)
