"""Mamba: a selective state-space layer (Gu and Dao, 2023, arXiv:2312.00752)."""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import struct

from jaxmeta.nets.blocks import scan_chunks
from jaxmeta.nets.linear_recurrence import in_parallel_here, parallel_over
from jaxmeta.nets.networks import Network
from jaxmeta.nets.observations import any_observation
from jaxmeta.nets.residual import CHUNK, Mixer, Steps, residual_actor_critic
from jaxmeta.types import Array, Key, Spec

MIN_STEP, MAX_STEP = 1e-3, 1e-1
"""Range of the initial step sizes."""


class Selective(struct.PyTreeNode):
    """The recurrent state of one layer with F channels."""

    window: Array
    """The inputs of the convolution at the last steps, [kernel - 1, F]; the latest is last."""
    state: Array
    """[N, F], N states per channel."""


def preceding(window: Array, x: Array, steps: Steps) -> tuple[Array, Array]:
    """Returns the window after a stream, and the last W valid inputs before each of its steps, [T, W, F].

    Args:
      window: the last inputs before the stream, [W, F].
      x: inputs, [T, F].
    """
    size = len(window)
    if not steps.gaps:
        known = jnp.concatenate([window, x])
        return known[len(x) :], jnp.stack([known[shift : shift + len(x)] for shift in range(size)], axis=1)
    happened = steps.valid > 0
    known = jnp.concatenate([window, x[jnp.argsort(~happened, stable=True)]])  # valid inputs first
    earlier = known[steps.before[:, None] + jnp.arange(size)]
    return jax.lax.dynamic_slice_in_dim(known, happened.sum(), size), earlier


def selective_scan(state: Array, moment: Any, valid: Array, rate: Array, parallel: bool) -> tuple[Array, Array]:
    """Advances h_t = exp(-Δ_t rate) h_{t-1} + Δ_t u_t B_t and reads h_t C_t, for each of F channels with N states.

    Args:
      state: [N, F]. Channels are last, and the read is a sum of products: as small matrix products, each would be slow.
      moment: u and Δ, [T, F]; B and C, [T, N].
      valid: [T].
      rate: [N, F], positive.

    Returns:
      The last state, and the reads, [T, F].
    """

    def coefficients(u: Array, step: Array, write: Array) -> tuple[Array, Array]:
        return jnp.exp(-step[..., None, :] * rate), write[..., None] * (step * u)[..., None, :]

    if parallel or len(valid) == 1:
        u, step, write, query = moment
        state, hidden = parallel_over(valid)(state, *coefficients(u, step, write))
        return state, jnp.sum(hidden * query[..., None], axis=-2)

    # inside the scan nothing of size [T, N, F] is written to memory
    def advance(state: Array, one: Any) -> tuple[Array, Array]:
        (u, step, write, query), keep = one
        decay, drive = coefficients(u, step, write)
        after = decay * state + drive
        return jnp.where(keep, after, state), jnp.sum(after * query[:, None], axis=0)

    return jax.lax.scan(advance, state, (moment, valid > 0))


def _step_bias_init(key: Key, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
    """Samples step sizes log-uniformly; their softplus is inverted."""
    step = jnp.exp(jax.random.uniform(key, shape, dtype, math.log(MIN_STEP), math.log(MAX_STEP)))
    return step + jnp.log(-jnp.expm1(-step))


def _log_rate_init(key: Key, shape: tuple[int, int], dtype: Any = jnp.float32) -> Array:
    return jnp.broadcast_to(jnp.log(jnp.arange(1.0, shape[0] + 1.0, dtype=dtype))[:, None], shape)


class _Mamba(nn.Module):
    channels: int
    states: int
    kernel: int
    parallel: bool

    @nn.compact
    def __call__(self, state: Selective, x: Array, steps: Steps) -> tuple[Selective, Array]:
        size, states = self.channels, self.states
        content, gate = jnp.split(nn.Dense(2 * size, use_bias=False, name="input")(x), 2, axis=-1)
        taps = self.param("taps", nn.initializers.uniform(2.0 / math.sqrt(self.kernel)), (self.kernel, size))
        taps = taps - 1.0 / math.sqrt(self.kernel)
        window, earlier = preceding(state.window, content, steps)
        bias = self.param("taps_bias", nn.initializers.zeros, (size,))
        u = jax.nn.silu(jnp.einsum("twf,wf->tf", earlier, taps[:-1]) + content * taps[-1] + bias)

        rank = math.ceil(x.shape[-1] / 16)
        flat = nn.Dense(rank + 2 * states, use_bias=False, name="select")(u)
        low, write, query = jnp.split(flat, [rank, rank + states], axis=-1)
        step = jax.nn.softplus(nn.Dense(size, bias_init=_step_bias_init, name="step")(low))
        rate = jnp.exp(self.param("log_rate", _log_rate_init, (states, size)))

        # only the states between chunks are stored: inside, they are `states` times as large as the activations
        @functools.partial(jax.checkpoint, prevent_cse=False)
        def advance(state: Array, moment: Any, valid: Array) -> tuple[Array, Array]:
            return selective_scan(state, moment, valid, rate, self.parallel)

        hidden, read = scan_chunks(advance, state.state, (u, step, write, query), steps.valid, CHUNK)
        direct = self.param("direct", nn.initializers.ones, (size,))
        return Selective(window, hidden), (read + direct * u) * jax.nn.silu(gate)


@any_observation
def mamba_actor_critic(
    spec: Spec,
    hidden: int = 64,
    layers: int = 2,
    init_log_std: float = 0.0,
    states: int = 16,
    kernel: int = 4,
    parallel: bool | None = None,
) -> Network:
    """Builds a policy of Mamba layers: linear recurrences whose decay, input and output depend on the input.

    Args:
      hidden: width of the blocks, and channels of a layer. The paper's layers have twice as many, but no MLP.
      layers: number of blocks.
      states: N, states per channel.
      kernel: length of the causal convolution, in steps.
      parallel: whether the recurrence within a chunk is an associative scan; by default except on a CPU.
    """

    def initial_state() -> Selective:
        return Selective(jnp.zeros((kernel - 1, hidden)), jnp.zeros((states, hidden)))

    mixer = Mixer(lambda: _Mamba(hidden, states, kernel, in_parallel_here(parallel)), initial_state)
    return residual_actor_critic(spec, mixer, hidden, layers, init_log_std)
