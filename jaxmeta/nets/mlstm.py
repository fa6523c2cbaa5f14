"""mLSTM: a matrix memory with exponential gates, of xLSTM (Beck et al., 2024, arXiv:2405.04517)."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import struct

from jaxmeta.nets.attention import UNSEEN
from jaxmeta.nets.blocks import scan_chunks
from jaxmeta.nets.networks import Network
from jaxmeta.nets.observations import any_observation
from jaxmeta.nets.residual import CHUNK, Mixer, Steps, residual_actor_critic
from jaxmeta.types import Array, Key, Spec


class Matrices(struct.PyTreeNode):
    """The recurrent state of one layer; memory and normaliser are stored divided by exp(stabiliser)."""

    memory: Array
    """[H, K, V]."""
    normaliser: Array
    """[H, K]."""
    stabiliser: Array
    """[H]; the largest log weight of anything in the memory."""


def advance_matrices(state: Matrices, moment: Any, valid: Array) -> tuple[Matrices, Array]:
    """Advances a matrix memory over a chunk and reads it at every step, in parallel.

    Step by step it is C_t = f_t C_{t-1} + i_t k_t v_tᵀ and n_t = f_t n_{t-1} + i_t k_t, which are read as
    q_tᵀ C_t / max(|q_tᵀ n_t|, 1), with f = sigmoid(forget), i = exp(admit), and queries divided by √K. Here all weights
    are relative to the largest so far, the stabiliser, so that none overflows.

    Args:
      moment: queries and keys, [C, H, K]; values, [C, H, V]; logits `admit` and `forget` of the gates, [C, H].
      valid: [C].

    Returns:
      The state after the chunk, and the reads, [C, H, V].
    """
    query, key, value, admit, forget = moment
    query, happened = query / math.sqrt(query.shape[-1]), valid[:, None] > 0
    log_forget = jax.nn.log_sigmoid(forget)
    kept = jnp.where(happened, log_forget, 0.0)
    total = jnp.cumsum(kept, axis=0)
    # an invalid step forgets for its own read only
    mine = total - kept + log_forget
    carried = mine + state.stabiliser
    earlier = jnp.tril(jnp.ones((len(valid), len(valid)), bool), -1)[:, :, None] & happened
    weights = jnp.where(earlier, mine[:, None] - total + admit, UNSEEN)
    weights = jnp.where(jnp.eye(len(valid), dtype=bool)[:, :, None], admit, weights)  # [C, C, H]
    # the read does not depend on the stabiliser, so neither does its gradient
    largest = jax.lax.stop_gradient(jnp.maximum(carried, weights.max(1)))
    weights, carried = jnp.exp(weights - largest[:, None]), jnp.exp(carried - largest)
    match = jnp.einsum("thk,shk->tsh", query, key) * weights
    read = jnp.einsum("tsh,shv->thv", match, value)
    read += carried[..., None] * jnp.einsum("thk,hkv->thv", query, state.memory)
    norm = match.sum(1) + carried * jnp.einsum("thk,hk->th", query, state.normaliser)
    read /= jnp.maximum(jnp.abs(norm), jnp.exp(-largest))[..., None]

    last = jnp.where(happened, total[-1] - total + admit, UNSEEN)
    stabiliser = jax.lax.stop_gradient(jnp.maximum(total[-1] + state.stabiliser, last.max(0)))
    written, faded = jnp.exp(last - stabiliser), jnp.exp(total[-1] + state.stabiliser - stabiliser)
    memory = faded[:, None, None] * state.memory + jnp.einsum("sh,shk,shv->hkv", written, key, value)
    normaliser = faded[:, None] * state.normaliser + jnp.einsum("sh,shk->hk", written, key)
    return Matrices(memory, normaliser, stabiliser), read


def _gate_bias_init(key: Key, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
    """Initialises the biases of H input gates to zero, and of H forget gates to half-lives from 14 to 280 steps."""
    half = shape[0] // 2
    return jnp.concatenate([jnp.zeros(half, dtype), jnp.linspace(3.0, 6.0, half, dtype=dtype)])


class _MLSTM(nn.Module):
    heads: int

    @nn.compact
    def __call__(self, state: Matrices, x: Array, steps: Steps) -> tuple[Matrices, Array]:
        width = x.shape[-1]
        query, key, value, emit = jnp.split(nn.Dense(4 * width, use_bias=False, name="qkvo")(x), 4, axis=-1)
        by_head = lambda part: part.reshape(len(x), self.heads, -1)  # noqa: E731
        zeros = nn.initializers.zeros
        gates = nn.Dense(2 * self.heads, kernel_init=zeros, bias_init=_gate_bias_init, name="gates")(x)
        moment = (*map(by_head, (query, key, value)), *jnp.split(gates, 2, axis=-1))
        state, read = scan_chunks(
            jax.checkpoint(advance_matrices, prevent_cse=False), state, moment, steps.valid, CHUNK
        )
        # every head is normalised by itself
        read = nn.RMSNorm(use_scale=False)(read).reshape(len(x), -1)
        scale = self.param("scale", nn.initializers.ones, (width,))
        return state, jax.nn.sigmoid(emit) * scale * read


@any_observation
def mlstm_actor_critic(
    spec: Spec, hidden: int = 64, layers: int = 2, init_log_std: float = 0.0, heads: int = 4
) -> Network:
    """Builds a policy of mLSTM layers.

    The block is that of xLSTM 7B (Beck et al., 2025, arXiv:2503.13427), without the convolution of the first paper.

    Args:
      hidden: width of the blocks, a multiple of the heads.
      layers: number of blocks.
      heads: number of matrix memories, each of (hidden / heads)² numbers.

    Raises:
      ValueError: if the heads do not divide the width.
    """
    if hidden < 1 or heads < 1 or hidden % heads:
        raise ValueError(f"hidden is {hidden}; an mLSTM with {heads} heads needs a multiple of {heads}")
    size = hidden // heads

    def initial_state() -> Matrices:
        return Matrices(jnp.zeros((heads, size, size)), jnp.zeros((heads, size)), jnp.zeros(heads))

    return residual_actor_critic(spec, Mixer(lambda: _MLSTM(heads), initial_state), hidden, layers, init_log_std)
