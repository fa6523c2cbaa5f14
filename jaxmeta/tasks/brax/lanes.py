"""Vectorises an unbatched function with the batch as the innermost axis.

`jax.vmap` puts the batch first. The innermost axis of a physics step then has 3 or 4 elements, the components of a
vector or a quaternion, and most lanes of a CPU's vector units stay idle; lookups by link become gathers and scatters.
With the batch innermost every operation runs over full lanes, and lookups at constant indices are slices.

The function is traced once, and the operations of its jaxpr are evaluated with a batch axis appended. Values that do
not depend on the inputs are computed ahead. Operations without a rule here use `jax.vmap`, so rules affect speed only.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import Literal

from jaxmeta.types import Array

# fmt: off
ELEMENTWISE = frozenset((
    "abs", "acos", "add", "and", "asin", "atan2", "ceil", "clamp", "convert_element_type", "copy", "cos", "div", "eq",
    "exp", "floor", "ge", "gt", "integer_pow", "is_finite", "le", "log", "lt", "max", "min", "mul", "ne", "neg", "not",
    "or", "pow", "rem", "rsqrt", "select_n", "sign", "sin", "sqrt", "square", "sub", "tan", "tanh", "xor",
))
# fmt: on
REDUCTIONS = frozenset(("reduce_and", "reduce_max", "reduce_min", "reduce_or", "reduce_prod", "reduce_sum"))
INLINED = {"jit": "jaxpr", "pjit": "jaxpr", "closed_call": "call_jaxpr", "custom_jvp_call": "call_jaxpr"}

Rule = Callable[[Any, "list[Value]"], "list[Value]"]


@dataclasses.dataclass(eq=False)
class Value:
    """An intermediate result."""

    array: Any
    """[..., B] if it varies with the inputs, else [...] and concrete while tracing."""
    varies: bool
    pending: bool = False
    """Whether it is a constant that no varying value has used so far."""


def batch_last(function: Callable[..., Any], *example: Any) -> Callable[..., Any]:
    """Vectorises `function` over a last axis of all leaves of its inputs and outputs.

    Args:
      function: pure; the arrays that it closes over must be concrete.
      *example: its arguments, without the batch axis; only shapes and dtypes matter.
    """
    # without the mesh of the caller: what is traced in a sharded update is used outside of it too
    with jax.sharding.use_abstract_mesh(jax.sharding.AbstractMesh((), ())):
        closed, shape = jax.make_jaxpr(function, return_shape=True)(*example)
    # compiled as one program, not as hundreds of operations; it runs immediately, even inside a trace
    constants = jax.device_get(jax.jit(lambda: _constants(closed)).lower().compile()())

    def batched(*args):
        leaves, following = jax.tree.leaves(args), iter(constants)
        size = leaves[0].shape[-1]

        def need(value):
            if value.pending:
                value.array, value.pending = next(following), False
            return value

        outputs = _evaluate(
            closed,
            [Value(leaf, True) for leaf in leaves],
            lambda equation, operands: [Value(None, False, pending=True) for _ in equation.outvars],
            lambda equation, operands: _apply(equation, [need(operand) for operand in operands], size),
        )
        return jax.tree.unflatten(jax.tree.structure(shape), [_widen(need(value), size) for value in outputs])

    return batched


def _constants(closed: Any) -> list[Any]:
    """Computes the values that do not depend on a program's inputs and are used by varying ones, in order of use."""
    needed = []

    def need(value):
        if value.pending:
            needed.append(value.array)
            value.pending = False

    def compute(equation, operands):  # `cond` too is evaluated by the program
        return [Value(array, False, pending=True) for array in _bind(equation, [one.array for one in operands])]

    def skip(equation, operands):
        for operand in operands:
            need(operand)
        return [Value(None, True) for _ in equation.outvars]

    for value in _evaluate(closed, [Value(None, True) for _ in closed.jaxpr.invars], compute, skip):
        need(value)
    return needed


def _evaluate(closed: Any, args: Sequence[Value], constant: Rule, varying: Rule) -> list[Value]:
    """Evaluates a closed jaxpr with one rule for the operations that depend on its inputs, and one for the others."""
    known = dict(zip(closed.jaxpr.invars, args, strict=True))
    consts = [Value(const, False) for const in closed.consts]
    known.update(zip(closed.jaxpr.constvars, consts, strict=True))

    def read(atom):
        return Value(atom.val, False) if isinstance(atom, Literal) else known[atom]

    for equation in closed.jaxpr.eqns:
        operands, name = [read(atom) for atom in equation.invars], equation.primitive.name
        if name in INLINED:
            outputs = _evaluate(equation.params[INLINED[name]], operands, constant, varying)
        else:
            rule = varying if any(operand.varies for operand in operands) else constant
            outputs = rule(equation, operands)
        known.update(zip(equation.outvars, outputs, strict=True))
    return [read(atom) for atom in closed.jaxpr.outvars]


def _apply(equation: Any, operands: list[Value], size: int) -> list[Value]:
    """Evaluates one operation that depends on the inputs."""
    name, arrays = equation.primitive.name, [operand.array for operand in operands]
    if name in ELEMENTWISE:
        shape = equation.outvars[0].aval.shape
        result = _bind(equation, [_spread(operand, shape, size) for operand in operands])
    elif name in REDUCTIONS:
        result = _bind(equation, arrays)  # the primitive's axes count from the front
    elif name in RULES and (one := RULES[name](equation, operands, size)) is not None:
        result = [one]
    else:
        in_axes = [-1 if operand.varies else None for operand in operands]
        result = jax.vmap(lambda *args: _bind(equation, args), in_axes=in_axes, out_axes=-1)(*arrays)
    return [Value(array, True) for array in result]


def _bind(equation: Any, arrays: Sequence[Any]) -> list[Any]:
    """Binds the primitive of an equation; returns a list of results."""
    result = equation.primitive.bind(*arrays, **equation.params)
    return result if equation.primitive.multiple_results else [result]


def _widen(value: Value, size: int) -> Array:
    """Returns a value with its batch axis."""
    if value.varies:
        return value.array
    return jnp.broadcast_to(jnp.asarray(value.array)[..., None], (*jnp.shape(value.array), size))


def _spread(operand: Value, shape: tuple[int, ...], size: int) -> Array:
    """Widens an operand of an elementwise operation; a scalar (of select_n, clamp) is repeated to the others' shape."""
    array = _widen(operand, size)
    return array if array.ndim == len(shape) + 1 else jnp.broadcast_to(array, (*shape, size))


def _broadcast_in_dim(equation, operands, size):
    shape = equation.params["shape"]
    dimensions = equation.params["broadcast_dimensions"]
    return lax.broadcast_in_dim(operands[0].array, (*shape, size), (*dimensions, len(shape)))


def _concatenate(equation, operands, size):
    return lax.concatenate([_widen(operand, size) for operand in operands], equation.params["dimension"])


def _dot_general(equation, operands, size):
    """Multiplies and sums elementwise: the matrices of physics are too small for batched matrix products."""
    (left_sum, right_sum), (left_batch, right_batch) = equation.params["dimension_numbers"]
    left, right = (_widen(operand, size) for operand in operands)
    left_free = [d for d in range(left.ndim - 1) if d not in (*left_sum, *left_batch)]
    right_free = [d for d in range(right.ndim - 1) if d not in (*right_sum, *right_batch)]
    left = left.transpose(*left_batch, *left_free, *left_sum, left.ndim - 1)
    right = right.transpose(*right_batch, *right_free, *right_sum, right.ndim - 1)
    batch, free = len(left_batch), len(left_free)
    left = jnp.expand_dims(left, range(batch + free, batch + free + len(right_free)))
    product = left * jnp.expand_dims(right, range(batch, batch + free))
    return product.sum(tuple(range(product.ndim - 1 - len(left_sum), product.ndim - 1)))


def _gather(equation, operands, size):
    """Implements gathers of rows at constant indices by slices."""
    table, indices = operands
    numbers, rank = equation.params["dimension_numbers"], equation.outvars[0].aval.ndim
    by_row = (
        not indices.varies
        and np.ndim(indices.array) == 2
        and not numbers.operand_batching_dims
        and (numbers.collapsed_slice_dims, numbers.start_index_map) == ((0,), (0,))
        and numbers.offset_dims == tuple(range(1, rank))
        and equation.params["slice_sizes"][1:] == table.array.shape[1:-1]
    )
    rows = np.asarray(indices.array)[:, 0] if by_row else np.zeros(0, np.int32)
    if rows.size == 0 or rows.min() < 0 or rows.max() >= table.array.shape[0]:
        return None
    return jnp.concatenate([table.array[row : row + 1] for row in rows.tolist()])


def _scatter_add(equation, operands, size):
    """Adds rows at constant indices one by one; out-of-bounds indices are dropped, as in XLA."""
    table, indices, updates = operands
    numbers = equation.params["dimension_numbers"]
    by_row = (
        not indices.varies
        and np.ndim(indices.array) == 2
        and not numbers.operand_batching_dims
        and (numbers.inserted_window_dims, numbers.scatter_dims_to_operand_dims) == ((0,), (0,))
        and numbers.update_window_dims == tuple(range(1, np.ndim(table.array) - table.varies))
    )
    if not by_row:
        return None
    table, updates = _widen(table, size), _widen(updates, size)
    rows = [table[row : row + 1] for row in range(table.shape[0])]
    for position, row in enumerate(np.asarray(indices.array)[:, 0].tolist()):
        if 0 <= row < len(rows):
            rows[row] = rows[row] + updates[position : position + 1]
    return jnp.concatenate(rows)


def _pad(equation, operands, size):
    if operands[1].varies:
        return None
    return lax.pad(_widen(operands[0], size), operands[1].array, (*equation.params["padding_config"], (0, 0, 0)))


def _slice(equation, operands, size):
    starts, limits, strides = (equation.params[name] for name in ("start_indices", "limit_indices", "strides"))
    return lax.slice(operands[0].array, (*starts, 0), (*limits, size), strides and (*strides, 1))


def _transpose(equation, operands, size):
    permutation = equation.params["permutation"]
    return lax.transpose(operands[0].array, (*permutation, len(permutation)))


RULES = {
    "broadcast_in_dim": _broadcast_in_dim,
    "concatenate": _concatenate,
    "dot_general": _dot_general,
    "gather": _gather,
    "pad": _pad,
    "reshape": lambda equation, operands, size: operands[0].array.reshape(*equation.params["new_sizes"], size),
    "scatter-add": _scatter_add,
    "slice": _slice,
    "squeeze": lambda equation, operands, size: lax.squeeze(operands[0].array, equation.params["dimensions"]),
    "tile": lambda equation, operands, size: jnp.tile(operands[0].array, (*equation.params["reps"], 1)),
    "transpose": _transpose,
}
