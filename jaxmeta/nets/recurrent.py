"""Recurrent policies: GRU, LSTM, and the other cells by name."""

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
from jaxmeta.nets.mamba import mamba_actor_critic
from jaxmeta.nets.mlstm import mlstm_actor_critic
from jaxmeta.nets.networks import MLP, Network, encode_input, policy_and_value
from jaxmeta.nets.observations import any_observation
from jaxmeta.nets.orthogonal import orthogonal
from jaxmeta.nets.s5 import s5_actor_critic
from jaxmeta.nets.transformer import transformer_actor_critic
from jaxmeta.types import Array, Carry, Input, Key, Output, Params, Spec

State = tuple[Array, ...]


class Cell(NamedTuple):
    """The definition of a recurrent cell with hidden size H."""

    gates: int
    """Number of gates: the input and the hidden state are each projected to [gates x H]."""
    keeps: int
    """Index of the gate that keeps the state (the update or forget gate)."""
    admits: int | None
    """Index of the input gate; None if it is one minus the gate that keeps."""
    states: int
    """Number of arrays [H] in the state; the last one is the hidden state that the policy reads."""
    advance: Callable[[State, Array, Array], State]
    """(state, projected input, projected hidden state) -> next state."""


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


LAYERED: dict[str, Callable[..., Network]] = {
    "lru": linear_recurrent_actor_critic,
    "transformer": transformer_actor_critic,
    "s5": s5_actor_critic,
    "mamba": mamba_actor_critic,
    "mlstm": mlstm_actor_critic,
}
"""Cells that are stacks of layers and can unroll in parallel over time."""


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
        state = advance_state(CELLS[self.cell], self.hidden, self.length, state, seen)
        features = state[-1]
        if self.readout:
            features = MLP(self.readout, "relu", math.sqrt(2.0))(jnp.concatenate([features, seen]))
        return state, policy_and_value(features, self.spec, self.init_log_std)


def advance_state(cell: Cell, hidden: int, length: int, state: State, seen: Array) -> State:
    """Updates a recurrent state with an input [D]; to be called inside a compact linen module.

    Args:
      hidden: size of the state.
      length: largest initial time constant of the units, in steps.
    """
    size = cell.gates * hidden
    drive = nn.Dense(size, bias_init=_lasting(cell, hidden, length))(seen)
    recurrent = nn.Dense(size, use_bias=False, kernel_init=_orthogonal_by_gate(cell))(state[-1])
    return cell.advance(state, drive, recurrent)


def _lasting(cell: Cell, hidden: int, length: int) -> Callable[..., Array]:
    """Chrono initialisation: gate biases with time constants from 2 to `length` steps; other biases are zero.

    With the usual zero bias a state halves at every step, so that the gradient of past episodes vanishes (Tallec and
    Ollivier, 2018, arXiv:1804.11188). The input gate is smaller for longer time constants, else the state would
    saturate.
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
    layers: int = 2,
) -> Network:
    """Builds a recurrent policy on the whole `Input`, with linear policy and value heads.

    Args:
      cell: `gru` or `lstm`; or one that can unroll in parallel over time: `associative` (fast weights), `lru` (linear
        recurrent units), `transformer`, `s5`, `mamba` or `mlstm`. `nets.residual` compares what they cost.
      hidden: size of the state; for cells with a parallel form, width of the layers.
      length: steps of a trial. The initial time constants of a `gru` or `lstm` range from 2 to this many steps, and it
        is the context of a `transformer`.
      readout: widths of hidden layers between state and heads, whose input is the state and the policy input. A linear
        head cannot combine the two; the other cells have such layers already.
      layers: layers of `lru`, `transformer`, `s5`, `mamba` and `mlstm`; the other cells have one.
    """
    known = (*CELLS, "associative", *LAYERED)
    if cell not in known:
        raise ValueError(f"cell is {cell!r}; known cells: {', '.join(map(repr, known))}")
    if cell not in CELLS and readout:
        raise ValueError(f"readout is {tuple(readout)}; cell {cell} has its own output layers, leave it ()")
    if cell == "associative":
        return associative_actor_critic(spec, hidden, init_log_std=init_log_std)
    if cell in LAYERED:
        context = {"length": length} if cell == "transformer" else {}
        return LAYERED[cell](spec, hidden=hidden, layers=layers, init_log_std=init_log_std, **context)
    module = _Recurrent(spec, cell, hidden, init_log_std, length, tuple(readout))

    def initial_state() -> Carry:
        return (jnp.zeros(hidden),) * CELLS[cell].states

    return Network(
        init=lambda key: module.init(key, initial_state(), spec.example_input()),
        apply=cast(Callable[[Params, Carry, Input], tuple[Carry, Output]], module.apply),
        initial_state=initial_state,
        head=head_for(spec.action),
    )
