"""Policies with a recurrent state."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import jax
from flax import linen as nn

from jaxmeta.nets.heads import head_for
from jaxmeta.nets.linear_recurrence import linear_recurrent_actor_critic
from jaxmeta.nets.networks import Network, encode_input, policy_and_value
from jaxmeta.types import Carry, Input, Output, Params, Spec

CELLS: dict[str, type[nn.RNNCellBase]] = {"gru": nn.GRUCell, "lstm": nn.OptimizedLSTMCell}


class _Recurrent(nn.Module):
    spec: Spec
    cell: str
    hidden: int
    init_log_std: float

    @nn.compact
    def __call__(self, carry: Carry, inputs: Input) -> tuple[Carry, Output]:
        carry, features = _make_cell(self.cell, self.hidden)(carry, encode_input(inputs, self.spec))
        return carry, policy_and_value(features, self.spec, self.init_log_std)


def _make_cell(cell: str, hidden: int) -> nn.RNNCellBase:
    if cell not in CELLS:
        raise ValueError(f"cell is {cell!r}; known cells: {', '.join(map(repr, (*CELLS, 'lru')))}")
    return CELLS[cell](hidden)  # pyright: ignore[reportCallIssue]  the base class has no fields


def recurrent_actor_critic(spec: Spec, cell: str = "gru", hidden: int = 64, init_log_std: float = 0.0) -> Network:
    """Builds a policy with memory: a recurrent state that sees the whole `Input`, with linear policy and value heads.

    Args:
      cell: `gru`, `lstm`, or `lru`: linear recurrences, which unroll in parallel over time.
      hidden: size of the state.
    """
    if cell == "lru":
        return linear_recurrent_actor_critic(spec, hidden, init_log_std=init_log_std)
    module = _Recurrent(spec, cell, hidden, init_log_std)
    recurrent = _make_cell(cell, hidden)

    def initial_state() -> Carry:
        return recurrent.initialize_carry(jax.random.key(0), (1,))

    return Network(
        init=lambda key: module.init(key, initial_state(), spec.example_input()),
        apply=cast(Callable[[Params, Carry, Input], tuple[Carry, Output]], module.apply),
        initial_state=initial_state,
        head=head_for(spec.action),
    )
