"""SNAIL: temporal convolutions and causal attention (Mishra et al., 2018, arXiv:1707.03141).

Stepping and unrolling share the network and differ only in how a layer accesses the past: from a cache, or along the
sequence. That is the `_Past` that is passed to it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import struct

from jaxmeta.nets.attention import attend_along, attend_in_step, put
from jaxmeta.nets.heads import head_for
from jaxmeta.nets.networks import MLP, Network, encode_input, policy_and_value
from jaxmeta.nets.observations import any_observation
from jaxmeta.nets.orthogonal import lecun
from jaxmeta.types import Array, Carry, Input, Output, Params, Spec


class SnailState(struct.PyTreeNode):
    """The recurrent state of a stream: the caches."""

    time: Array
    """Number of steps so far, int32 scalar."""
    rings: tuple[Array, ...]
    """For each convolution, its projections of the last `dilation` inputs, [dilation, 2 x filters]; a ring buffer."""
    keys: Array
    """[heads, length, key size], a ring buffer of each head."""
    values: Array
    """[heads, length, value size], a ring buffer of each head."""


class _Past(NamedTuple):
    """How layers access the past. In the parallel form the caches are None."""

    shift: Callable[[Any, Array, int], tuple[Any, Array]]
    """(ring, x [..., D], steps) -> (ring, x delayed by that many steps, [..., D], zero before the first step)."""
    attend: Callable[[Any, Array, Array, Array], tuple[Any, Array]]
    """(cache, query [..., H, K], key [..., H, K], value [..., H, V]) -> (cache, attention output [..., H, V])."""


def _stepwise(time: Array, length: int) -> _Past:
    def shift(ring: Array, x: Array, steps: int) -> tuple[Array, Array]:
        slot = time % steps
        return put(ring, slot, x), ring[slot]

    def attend(cache: tuple[Array, Array], query: Array, key: Array, value: Array):
        cache, read = attend_in_step(cache, time, query[:, None], key, value)
        return cache, read[:, 0]

    return _Past(shift, attend)


def _parallel(valid: Array, length: int, gaps: bool) -> _Past:
    """Accesses the past along a stream.

    Args:
      valid: [T].
      length: window of the attention, in steps.
      gaps: whether there can be invalid steps, which are skipped.
    """
    times = jnp.arange(valid.shape[0])
    happened = valid > 0
    before = jnp.cumsum(happened) - happened if gaps else times
    valid_times = jnp.argsort(~happened, stable=True)

    def shift(ring: None, x: Array, steps: int) -> tuple[None, Array]:
        if not gaps:
            return ring, jnp.pad(x, ((steps, 0), (0, 0)))[: len(x)]
        source = valid_times[jnp.maximum(before - steps, 0)]
        return ring, jnp.where((before >= steps)[:, None], x[source], 0.0)

    def attend(cache: None, query: Array, key: Array, value: Array) -> tuple[None, Array]:
        return cache, attend_along(query[:, :, None], key, value, valid, before, length)[:, :, 0]

    return _Past(shift, attend)


class _DenseBlock(nn.Module):
    """A gated causal convolution of kernel size 2, concatenated to its input: [..., D] to [..., D + filters]."""

    filters: int
    dilation: int

    @nn.compact
    def __call__(self, past: _Past, ring: Any, x: Array) -> tuple[Any, Array]:
        # half the variance each: together the two taps are one kernel with twice the inputs
        half = lecun(0.5**0.5)
        now = nn.Dense(2 * self.filters, kernel_init=half, name="now")(x)
        # caches the projection, not its inputs, which grow from layer to layer
        ring, then = past.shift(
            ring, nn.Dense(2 * self.filters, use_bias=False, kernel_init=half, name="then")(x), self.dilation
        )
        content, gate = jnp.split(now + then, 2, axis=-1)
        return ring, jnp.concatenate([x, jnp.tanh(content) * jax.nn.sigmoid(gate)], axis=-1)


class _AttentionBlock(nn.Module):
    """Causal attention, concatenated to its input: [..., D] to [..., D + heads x value size]."""

    heads: int
    key_size: int
    value_size: int
    init_gain: float

    @nn.compact
    def __call__(self, past: _Past, cache: Any, x: Array) -> tuple[Any, Array]:
        def by_head(size: int, name: str, gain: float = 1.0) -> Array:
            flat = nn.Dense(self.heads * size, kernel_init=lecun(gain), name=name)(x)
            return flat.reshape(*x.shape[:-1], self.heads, size)

        query, key = (by_head(self.key_size, name, self.init_gain) for name in ("query", "key"))
        cache, read = past.attend(cache, query, key, by_head(self.value_size, "value"))
        return cache, jnp.concatenate([x, read.reshape(*x.shape[:-1], -1)], axis=-1)


class _Snail(nn.Module):
    spec: Spec
    filters: int
    dilations: tuple[int, ...]
    heads: int
    key_size: int
    value_size: int
    readout: tuple[int, ...]
    init_log_std: float
    init_gain: float

    @nn.compact
    def __call__(self, past: _Past, rings: Any, cache: Any, x: Array) -> tuple[Any, Any, Output]:
        x = nn.Dense(self.filters, kernel_init=lecun(self.init_gain))(x)
        next_rings = []
        for dilation, ring in zip(self.dilations, rings, strict=True):
            ring, x = _DenseBlock(self.filters, dilation)(past, ring, x)
            next_rings.append(ring)
        cache, x = _AttentionBlock(self.heads, self.key_size, self.value_size, self.init_gain)(past, cache, x)
        if self.readout:
            x = jnp.concatenate([x, MLP(self.readout, "relu", 2.0**0.5)(x)], axis=-1)
        return tuple(next_rings), cache, policy_and_value(x, self.spec, self.init_log_std)


@any_observation
def snail_actor_critic(
    spec: Spec,
    length: int,
    filters: int = 32,
    tc_blocks: int = 2,
    key_size: int = 32,
    value_size: int = 32,
    init_log_std: float = 0.0,
    readout: Sequence[int] = (),
    layers: int | None = None,
    init_gain: float = 1.0,
    heads: int = 1,
) -> Network:
    """Builds SNAIL as in its paper's bandits and MDPs: two temporal-convolution blocks, and attention on top.

    A temporal-convolution block has ⌈log2 length⌉ dense blocks of dilations 1, 2, 4, ..., so that its receptive field
    is the whole trial. With fewer dense blocks only attention covers it. In trials longer than `length` attention
    covers the last `length` steps.

    It has more than eight parameters because the paper has that many sizes.

    Args:
      length: steps of the longest trial, episodes x horizon.
      filters: channels that each dense block adds, and width of the layer below them.
      tc_blocks: temporal-convolution blocks.
      key_size: width of the keys and queries of a head.
      value_size: width of the values of a head.
      readout: widths of hidden layers between attention and heads, concatenated to their input. Attention outputs are
        averages, and a linear head cannot divide them, such as an arm's rewards by its pulls.
      layers: dense blocks per temporal-convolution block, if not ⌈log2 length⌉.
      init_gain: factor of LeCun's initialisation for the first layer, keys and queries. One-hot inputs are nearly all
        zero: with 1 all keys are small, the initial attention is uniform, and it takes hundreds of updates to become
        selective.
      heads: number of attention heads; one in the paper. One head computes one average, such as over all actions in a
        state; with one head per action, each can look up one action.
    """
    if length < 1:
        raise ValueError(f"length is {length}; it must be at least 1")
    layers = (length - 1).bit_length() if layers is None else layers
    dilations = tuple(2**layer for layer in range(layers)) * tc_blocks
    module = _Snail(spec, filters, dilations, heads, key_size, value_size, tuple(readout), init_log_std, init_gain)
    run = cast(Callable[..., tuple[Any, Any, Output]], module.apply)

    def initial_state() -> SnailState:
        return SnailState(
            time=jnp.zeros((), jnp.int32),
            rings=tuple(jnp.zeros((dilation, 2 * filters)) for dilation in dilations),
            keys=jnp.zeros((heads, length, key_size)),
            values=jnp.zeros((heads, length, value_size)),
        )

    def apply(params: Params, carry: Carry, inputs: Input) -> tuple[Carry, Output]:
        past = _stepwise(carry.time, length)
        rings, (keys, values), output = run(
            params, past, carry.rings, (carry.keys, carry.values), encode_input(inputs, spec)
        )
        return SnailState(carry.time + 1, rings, keys, values), output

    def unroll(params: Params, carry: Carry, inputs: Input, valid: Array) -> Output:
        def stream(inputs: Input, valid: Array) -> Output:
            past = _parallel(valid, length, gaps=spec.terminates)
            seen = jax.vmap(lambda one: encode_input(one, spec))(inputs)
            return run(params, past, (None,) * len(dilations), None, seen)[2]

        return jax.vmap(stream, (1, 1), 1)(inputs, valid)

    def init(key):
        state, example = initial_state(), encode_input(spec.example_input(), spec)
        return module.init(key, _stepwise(state.time, length), state.rings, (state.keys, state.values), example)

    return Network(init=init, apply=apply, initial_state=initial_state, head=head_for(spec.action), unroll=unroll)
