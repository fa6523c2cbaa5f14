"""Runs an unbatched function on many inputs at once, with the batch as the innermost axis.

`jax.vmap` puts the batch first. The innermost axis of a physics step then has 3 or 4 elements, the components of a
vector or a quaternion, and most lanes of a CPU's vector units stay idle; lookups by link become gathers and scatters.
With the batch innermost every operation runs over full lanes, and lookups at constant indices are slices.

The function is traced once, and its operations are replayed with a batch axis behind the axes that they know. What
does not depend on the inputs is computed while tracing. An operation without a rule here goes through `jax.vmap`, so a
rule is about speed only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

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


class Value(NamedTuple):
    """An intermediate result."""

    array: Any
    """[..., B] where it varies, else [...] and known while tracing."""
    varies: bool


def batch_last(function: Callable[..., Any], *example: Any) -> Callable[..., Any]:
    """Returns `function` over inputs and outputs whose leaves have one more axis behind all others, the batch.

    Args:
      function: pure; the arrays that it closes over must be concrete.
      *example: its arguments, without the batch; only shapes and dtypes matter.
    """
    closed, shape = jax.make_jaxpr(function, return_shape=True)(*example)

    def batched(*args):
        leaves = jax.tree.leaves(args)
        size = leaves[0].shape[-1]
        outputs = _evaluate(closed, [Value(leaf, True) for leaf in leaves], size)
        return jax.tree.unflatten(jax.tree.structure(shape), [_widen(value, size) for value in outputs])

    return batched


def _evaluate(closed: Any, args: Sequence[Value], size: int) -> list[Value]:
    """Replays a closed jaxpr."""
    known = dict(zip(closed.jaxpr.invars, args, strict=True))
    consts = [Value(const, False) for const in closed.consts]
    known.update(zip(closed.jaxpr.constvars, consts, strict=True))

    def read(atom):
        return Value(atom.val, False) if isinstance(atom, Literal) else known[atom]

    for equation in closed.jaxpr.eqns:
        outputs = _apply(equation, [read(atom) for atom in equation.invars], size)
        known.update(zip(equation.outvars, outputs, strict=True))
    return [read(atom) for atom in closed.jaxpr.outvars]


def _apply(equation: Any, operands: list[Value], size: int) -> list[Value]:
    """Replays one operation."""
    primitive, params = equation.primitive, equation.params
    arrays = [operand.array for operand in operands]
    if primitive.name in INLINED:
        return _evaluate(params[INLINED[primitive.name]], operands, size)
    if primitive.name == "cond" and not operands[0].varies:
        return _evaluate(params["branches"][int(arrays[0])], operands[1:], size)
    varies = any(operand.varies for operand in operands)
    if not varies:
        with jax.ensure_compile_time_eval():
            result = primitive.bind(*arrays, **params)
    elif primitive.name in ELEMENTWISE:
        shape = equation.outvars[0].aval.shape
        result = primitive.bind(*(_spread(operand, shape, size) for operand in operands), **params)
    elif primitive.name in REDUCTIONS:
        result = primitive.bind(*arrays, **params)  # its axes count from the front
    else:
        rule = RULES.get(primitive.name)
        result = rule(equation, operands, size) if rule else None
    if result is None:
        in_axes = [-1 if operand.varies else None for operand in operands]
        result = jax.vmap(lambda *args: primitive.bind(*args, **params), in_axes=in_axes, out_axes=-1)(*arrays)
    return [Value(array, varies) for array in (result if primitive.multiple_results else [result])]


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
    """Multiplies and sums: the matrices of physics are too small for a matrix product per element of the batch."""
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
    """Takes rows at constant indices as slices."""
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
    """Adds rows at constant indices one by one; as in XLA an index out of range adds nothing."""
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
