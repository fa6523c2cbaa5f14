"""A policy of linear recurrent units: it steps like a recurrent cell and can unroll in parallel over time.

The recurrent layer is the LRU (Orvieto et al., 2023, arXiv:2303.06349). Stepping and unrolling share the network and
differ only in the `Recur` that is passed to it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, cast

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxmeta.nets.heads import head_for
from jaxmeta.nets.networks import Network, encode_input, policy_and_value
from jaxmeta.nets.observations import any_observation
from jaxmeta.types import Array, Carry, Input, Key, Output, Params, Spec

Recur = Callable[[Array, Array, Array], tuple[Array, Array]]
"""(state [H], decay [H] or [..., H], drive [..., H]) -> (next state [H], hidden [..., H]); the decay is the same at all
steps, or has the axes of the drive. H may be several axes."""

# the ring of the initial eigenvalues: time constants from 1.4 to 1,000 steps, with little rotation
MIN_RADIUS, MAX_RADIUS, MAX_PHASE = 0.5, 0.999, math.pi / 10


def step_once(state: Array, decay: Array, drive: Array) -> tuple[Array, Array]:
    """Advances h_t = λ h_{t-1} + drive_t by one step."""
    state = decay * state + drive
    return state, state


def scan_over(valid: Array) -> Recur:
    """Builds the sequential form over a stream with invalid steps; equal to `parallel_over`.

    Args:
      valid: [T]. Where it is zero the state is not updated.
    """

    def recur(state: Array, decay: Array, drive: Array) -> tuple[Array, Array]:
        varies = decay.ndim == drive.ndim

        def step(state, moment):
            of_step, drive, keep = moment
            after = (of_step if varies else decay) * state + drive
            return jnp.where(keep, after, state), after

        return jax.lax.scan(step, state, (decay if varies else None, drive, valid > 0))

    return recur


def parallel_over(valid: Array) -> Recur:
    """Builds the parallel form over a stream with invalid steps: depth log2 T, memory linear in T.

    Args:
      valid: [T]. Where it is zero the state is not updated.
    """

    def combine(earlier, later):
        return later[0] * earlier[0], later[0] * earlier[1] + later[1]

    def recur(state: Array, decay: Array, drive: Array) -> tuple[Array, Array]:
        keeps = (valid > 0).reshape(-1, *(1 for _ in drive.shape[1:]))
        factors = jnp.where(keeps, decay, 1.0)
        factors, sums = jax.lax.associative_scan(combine, (factors, jnp.where(keeps, drive, 0.0)))
        kept = factors * state + sums
        # from the previous state, not `kept`: an invalid step also has an output, but does not update the state
        before = jnp.concatenate([state[None], kept[:-1]])
        return kept[-1], decay * before + drive

    return recur


def in_parallel_here(parallel: bool | None) -> bool:
    """Returns whether to take the parallel form; by default except on a CPU, where a sequential scan is faster."""
    return jax.default_backend() != "cpu" if parallel is None else parallel


def _log_decay_init(key: Key, shape: tuple[int, ...]) -> Array:
    """Samples eigenvalues uniformly on the ring; their magnitudes are exp(-exp(log_decay))."""
    squared = jax.random.uniform(key, shape, minval=MIN_RADIUS**2, maxval=MAX_RADIUS**2)
    return jnp.log(-0.5 * jnp.log(squared))


def _log_phase_init(key: Key, shape: tuple[int, ...]) -> Array:
    return jnp.log(jax.random.uniform(key, shape, minval=1e-3, maxval=MAX_PHASE))


class _LRUBlock(nn.Module):
    """A residual block of layer norm, linear recurrence and gate: [..., D] to [..., D]."""

    hidden: int

    @nn.compact
    def __call__(self, recur: Recur, state: Array, x: Array) -> tuple[Array, Array]:
        rate = jnp.exp(self.param("log_decay", _log_decay_init, (self.hidden,)))
        phase = jnp.exp(self.param("log_phase", _log_phase_init, (self.hidden,)))
        seen = nn.LayerNorm()(x)
        real, imaginary = jnp.split(nn.Dense(2 * self.hidden, use_bias=False)(seen), 2, axis=-1)
        # √(1 - |λ|²) scales the input, so that slow and fast states have the same magnitude
        scale = jnp.sqrt(-jnp.expm1(-2.0 * rate))
        drive = scale * jax.lax.complex(real, imaginary)
        state, hidden = recur(state, jnp.exp(jax.lax.complex(-rate, phase)), drive)
        y = jax.nn.gelu(nn.Dense(x.shape[-1])(jnp.concatenate([hidden.real, hidden.imag, seen], axis=-1)))
        return state, x + y * jax.nn.sigmoid(nn.Dense(x.shape[-1])(y))


class _LinearRecurrent(nn.Module):
    spec: Spec
    hidden: int
    layers: int
    init_log_std: float

    @nn.compact
    def __call__(self, recur: Recur, carry: Carry, x: Array) -> tuple[Carry, Output]:
        x = nn.Dense(self.hidden)(x)
        states = []
        for state in carry:
            state, x = _LRUBlock(self.hidden)(recur, state, x)
            states.append(state)
        return tuple(states), policy_and_value(nn.LayerNorm()(x), self.spec, self.init_log_std)


@any_observation
def linear_recurrent_actor_critic(
    spec: Spec, hidden: int = 64, layers: int = 2, init_log_std: float = 0.0, parallel: bool | None = None
) -> Network:
    """Builds a policy of stacked linear recurrent layers, for long trials.

    Args:
      hidden: width of the layers, and complex states in each.
      layers: recurrent layers; with a single one, updates of the state could not depend on the state.
      parallel: whether to unroll by an associative scan; by default except on a CPU, where a sequential scan is faster.
    """
    module = _LinearRecurrent(spec, hidden, layers, init_log_std)
    run = cast(Callable[..., tuple[Carry, Output]], module.apply)
    recur_over = parallel_over if in_parallel_here(parallel) else scan_over

    def initial_state() -> Carry:
        return tuple(jnp.zeros(hidden, jnp.complex64) for _ in range(layers))

    def unroll(params: Params, carry: Carry, inputs: Input, valid: Array) -> Output:
        def stream(carry: Any, inputs: Input, valid: Array) -> Output:
            seen = jax.vmap(lambda one: encode_input(one, spec))(inputs)
            return run(params, recur_over(valid), carry, seen)[1]

        return jax.vmap(stream, (0, 1, 1), 1)(carry, inputs, valid)

    return Network(
        init=lambda key: module.init(key, step_once, initial_state(), encode_input(spec.example_input(), spec)),
        apply=lambda params, carry, inputs: run(params, step_once, carry, encode_input(inputs, spec)),
        initial_state=initial_state,
        head=head_for(spec.action),
        unroll=unroll,
    )
