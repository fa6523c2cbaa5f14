"""Policies with a recurrent state."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxmeta.nets.fast_weights import associative_actor_critic
from jaxmeta.nets.heads import head_for
from jaxmeta.nets.linear_recurrence import linear_recurrent_actor_critic
from jaxmeta.nets.networks import MLP, Network, encode_input, policy_and_value
from jaxmeta.nets.observations import any_observation
from jaxmeta.nets.orthogonal import orthogonal
from jaxmeta.types import Array, Carry, Input, Key, Output, Params, Spec

State = tuple[Array, ...]


class Cell(NamedTuple):
    """What is particular to a kind of recurrent state of size H."""

    gates: int
    """Products that it needs of the input, [gates x H], and as many of the state."""
    keeps: int
    """Which of them decides how much of the state is kept."""
    admits: int | None
    """Which of them decides how much is added; None where that is what is not kept."""
    states: int
    """Arrays [H] that the state is made of; the last one is what the policy sees."""
    advance: Callable[[State, Array, Array], State]
    """(state, products of the input, products of the last array of the state) -> next state."""


def _gru(state: State, drive: Array, recurrent: Array) -> State:
    (hidden,) = state
    keep, reset, content = jnp.split(drive, 3)
    kept, reset_by, recalled = jnp.split(recurrent, 3)
    keep, reset = jax.nn.sigmoid(keep + kept), jax.nn.sigmoid(reset + reset_by)
    return (keep * hidden + (1.0 - keep) * jnp.tanh(content + reset * recalled),)


def _lstm(state: State, drive: Array, recurrent: Array) -> State:
    cell, _ = state
    keep, admit, content, emit = jnp.split(drive + recurrent, 4)
    cell = jax.nn.sigmoid(keep) * cell + jax.nn.sigmoid(admit) * jnp.tanh(content)
    return cell, jax.nn.sigmoid(emit) * jnp.tanh(cell)


CELLS = {
    # Cho et al., 2014, arXiv:1406.1078; the reset gate acts on the product, as in cuDNN
    "gru": Cell(gates=3, keeps=0, admits=None, states=1, advance=_gru),
    # Hochreiter and Schmidhuber, 1997, with a forget gate
    "lstm": Cell(gates=4, keeps=0, admits=1, states=2, advance=_lstm),
}


class _Recurrent(nn.Module):
    spec: Spec
    cell: str
    hidden: int
    init_log_std: float
    length: int
    readout: tuple[int, ...]

    @nn.compact
    def __call__(self, state: State, inputs: Input) -> tuple[State, Output]:
        seen = encode_input(inputs, self.spec)
        state = remember(CELLS[self.cell], self.hidden, self.length, state, seen)
        features = state[-1]
        if self.readout:
            features = MLP(self.readout, "relu", math.sqrt(2.0))(jnp.concatenate([features, seen]))
        return state, policy_and_value(features, self.spec, self.init_log_std)


def remember(cell: Cell, hidden: int, length: int, state: State, seen: Array) -> State:
    """Takes what is seen, [D], into a recurrent state; to be called inside a compact linen module.

    Args:
      hidden: size of the state.
      length: steps over which units of the state last at first, at most.
    """
    size = cell.gates * hidden
    drive = nn.Dense(size, bias_init=_lasting(cell, hidden, length))(seen)
    recurrent = nn.Dense(size, use_bias=False, kernel_init=_orthogonal_by_gate(cell))(state[-1])
    return cell.advance(state, drive, recurrent)


def _lasting(cell: Cell, hidden: int, length: int) -> Callable[..., Array]:
    """Draws biases with which memories last from 2 to `length` steps at first; those of other gates are zero.

    With the usual zero a state halves at every step: what happened an episode ago could not be told from noise, and
    nothing would be learned from it (Tallec and Ollivier, 2018, arXiv:1804.11188). What lasts longer is admitted less,
    else it would add up until the state is saturated.
    """

    def init(key: Key, shape: tuple[int], dtype: Any = jnp.float32) -> Array:
        steps = jax.random.uniform(key, (hidden,), dtype, minval=1.0, maxval=float(max(length, 2) - 1))
        bias = jnp.zeros((cell.gates, hidden), dtype).at[cell.keeps].set(jnp.log(steps))
        if cell.admits is not None:
            bias = bias.at[cell.admits].set(-jnp.log(steps))
        return bias.reshape(shape)

    return init


def _orthogonal_by_gate(cell: Cell) -> Callable[..., Array]:
    def init(key: Key, shape: tuple[int, int], dtype: Any = jnp.float32) -> Array:
        one = orthogonal()
        parts = [one(part, (shape[0], shape[1] // cell.gates), dtype) for part in jax.random.split(key, cell.gates)]
        return jnp.concatenate(parts, axis=1)

    return init


@any_observation
def recurrent_actor_critic(
    spec: Spec,
    cell: str = "gru",
    hidden: int = 64,
    init_log_std: float = 0.0,
    length: int = 1,
    readout: Sequence[int] = (),
) -> Network:
    """Builds a policy with memory: a recurrent state that sees the whole `Input`, with linear policy and value heads.

    Args:
      cell: `gru` or `lstm`; `lru`, linear recurrences, or `associative`, tables of fast weights: these two can unroll
        in parallel over time.
      hidden: size of the state; for `associative`, width of the layers around its tables.
      length: steps of a trial. At first the units of a `gru` or `lstm` keep what they saw for times between 2 steps and
        that many.
      readout: widths of hidden layers that look the state and the input up together before the heads. A linear head
        cannot ask the state for what belongs to the present observation; the other cells have such layers of their own.
    """
    whole = {"lru": linear_recurrent_actor_critic, "associative": associative_actor_critic}
    if cell in whole:
        if readout:
            raise ValueError(f"readout is {tuple(readout)}; cell {cell} has layers of its own, leave it ()")
        return whole[cell](spec, hidden, init_log_std=init_log_std)
    if cell not in CELLS:
        raise ValueError(f"cell is {cell!r}; known cells: {', '.join(map(repr, (*CELLS, *whole)))}")
    module = _Recurrent(spec, cell, hidden, init_log_std, length, tuple(readout))

    def initial_state() -> Carry:
        return (jnp.zeros(hidden),) * CELLS[cell].states

    return Network(
        init=lambda key: module.init(key, initial_state(), spec.example_input()),
        apply=cast(Callable[[Params, Carry, Input], tuple[Carry, Output]], module.apply),
        initial_state=initial_state,
        head=head_for(spec.action),
    )
