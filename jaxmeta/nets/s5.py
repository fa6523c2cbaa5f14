"""S5: a linear state-space layer with a diagonal state matrix (Smith et al., 2022, arXiv:2208.04933)."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from jaxmeta.nets.linear_recurrence import in_parallel_here, parallel_over, scan_over
from jaxmeta.nets.networks import Network
from jaxmeta.nets.observations import any_observation
from jaxmeta.nets.residual import Mixer, Steps, residual_actor_critic
from jaxmeta.types import Array, Key, Spec

MIN_STEP, MAX_STEP = 1e-3, 1e-1
"""Range of the initial step sizes: with eigenvalues of real part -1/2, time constants from 20 to 2,000 steps."""


def hippo_frequencies(num: int) -> np.ndarray:
    """Returns the positive imaginary parts of the eigenvalues of the normal part of the HiPPO matrix, [num], ascending.

    The matrix has 2 num states. Its eigenvalues are conjugate pairs of real part -1/2, and one of each pair is enough
    for a real output.
    """
    root = np.sqrt(2.0 * np.arange(2 * num) + 1.0)
    lower = np.tril(np.outer(root, root), -1)
    skew = 0.5 * (lower.T - lower)  # of -(lower + diagonal) + ½ root rootᵀ, without its -½ I
    return np.sort(np.linalg.eigvalsh(1j * skew))[num:]


def discretised(rate: Array, frequency: Array, step: Array) -> tuple[Array, Array]:
    """Discretises the modes dh/dt = λ h + u by a zero-order hold; λ = -rate + i frequency.

    Returns:
      The decay exp(λ Δ) of each mode, and the factor (exp(λ Δ) - 1) / λ of its input, complex [P].
    """
    eigenvalue = jax.lax.complex(-rate, frequency)
    decay = jnp.exp(eigenvalue * step)
    return decay, (decay - 1.0) / eigenvalue


def _log_step_init(key: Key, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
    return jax.random.uniform(key, shape, dtype, math.log(MIN_STEP), math.log(MAX_STEP))


class _S5(nn.Module):
    modes: int
    parallel: bool

    @nn.compact
    def __call__(self, state: Array, x: Array, steps: Steps) -> tuple[Array, Array]:
        shape = (self.modes,)
        rate = jnp.exp(self.param("log_rate", nn.initializers.constant(math.log(0.5)), shape))
        frequency = self.param("frequency", lambda key: jnp.asarray(hippo_frequencies(self.modes), jnp.float32))
        step = jnp.exp(self.param("log_step", _log_step_init, shape))
        decay, factor = discretised(rate, frequency, step)
        real, imaginary = jnp.split(nn.Dense(2 * self.modes, use_bias=False, name="input")(x), 2, axis=-1)
        over = parallel_over if self.parallel or len(x) == 1 else scan_over
        state, hidden = over(steps.valid)(state, decay, factor * jax.lax.complex(real, imaginary))
        # the real part of a complex matrix product, as one real product
        parts = jnp.concatenate([hidden.real, hidden.imag], axis=-1)
        direct = self.param("direct", nn.initializers.ones, (x.shape[-1],))
        return state, jax.nn.gelu(nn.Dense(x.shape[-1], use_bias=False, name="output")(parts) + direct * x)


@any_observation
def s5_actor_critic(
    spec: Spec, hidden: int = 64, layers: int = 2, init_log_std: float = 0.0, parallel: bool | None = None
) -> Network:
    """Builds a policy of S5 layers, each with `hidden` states: half as many complex ones, of conjugate pairs.

    Args:
      hidden: width of the blocks.
      layers: number of blocks.
      parallel: whether to unroll by an associative scan; by default except on a CPU, where a sequential scan is faster.
    """
    modes = max(1, hidden // 2)
    mixer = Mixer(lambda: _S5(modes, in_parallel_here(parallel)), lambda: jnp.zeros(modes, jnp.complex64))
    return residual_actor_critic(spec, mixer, hidden, layers, init_log_std)
