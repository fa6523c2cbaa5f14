"""Brax's physics step, vectorised over many bodies on a CPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxmeta.tasks.brax.lanes import batch_last

CHUNKS = (16, 24, 32)
"""Bodies that a core simulates in parallel: a multiple of the vector width, few enough to fit in its cache."""


def lane_stepper(body: Any) -> Callable[[Any, jax.Array], Any]:
    """Returns `body.pipeline_step`, which under `jax.vmap` on a CPU has the batch axis innermost, in small chunks.

    The operations are Brax's, but sums may have another order: results agree with Brax up to float32 rounding, which
    the stiff joint springs amplify over time. Both are equally close to a float64 simulation.

    Args:
      body: Brax's environment on the `spring` backend, whose step has no loops and no linear solver inside.
    """

    substeps: dict[Any, Callable[..., Any]] = {}  # by the shapes of their arguments: all traces of a step share one

    @jax.custom_batching.custom_vmap
    def one(state, action):
        return body.pipeline_step(state, action)

    @jax.custom_batching.custom_vmap
    def many(state, action):
        if jax.default_backend() != "cpu":
            return jax.vmap(body.pipeline_step)(state, action)
        return _chunked(body, substeps, state, action)

    @one.def_vmap
    def _(size, batched, state, action):
        moved = many(*_batch_all(size, tuple(batched), (state, action)))
        return moved, jax.tree.map(lambda leaf: True, moved)

    @many.def_vmap
    def _(size, batched, state, action):
        # a vmap over a vmap (tasks over streams) is one wider batch
        args = _batch_all(size, tuple(batched), (state, action))
        inner = jax.tree.leaves(args)[0].shape[1]
        moved = many(*jax.tree.map(lambda leaf: leaf.reshape(size * inner, *leaf.shape[2:]), args))
        moved = jax.tree.map(lambda leaf: leaf.reshape(size, inner, *leaf.shape[1:]), moved)
        return moved, jax.tree.map(lambda leaf: True, moved)

    return one


def _batch_all(size: int, batched: Any, args: Any) -> Any:
    """Broadcasts leaves without a batch axis to the batch."""
    return jax.tree.map(
        lambda has, leaf: leaf if has else jnp.broadcast_to(leaf, (size, *jnp.shape(leaf))), batched, args
    )


def _chunked(body: Any, substeps: dict[Any, Callable[..., Any]], state: Any, action: jax.Array) -> Any:
    """Simulates all substeps of a step of bodies [B, ...], chunk by chunk."""
    size = action.shape[0]
    chunk = min(CHUNKS, key=lambda chunk: -(-size // chunk) * chunk)
    count = -(-size // chunk)
    example = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), (state, action))
    leaves, structure = jax.tree.flatten(example)
    form = (structure, *((leaf.shape, leaf.dtype) for leaf in leaves))
    if form not in substeps:
        pipeline = body._pipeline
        substeps[form] = batch_last(lambda state, action: pipeline.step(body.sys, state, action, False), *example)
    substep = substeps[form]

    def split(leaf):  # [B, ...] -> [count, ..., chunk]; the last chunk is padded with copies of the last body
        leaf = jnp.pad(leaf, [(0, count * chunk - size)] + [(0, 0)] * (leaf.ndim - 1), mode="edge")
        return jnp.moveaxis(leaf.reshape(count, chunk, *leaf.shape[1:]), 1, -1)

    def join(leaf):
        leaf = jnp.moveaxis(leaf, -1, 1)
        return leaf.reshape(count * chunk, *leaf.shape[2:])[:size]

    def move(args):
        state, action = args
        return jax.lax.scan(lambda state, _: (substep(state, action), None), state, None, body._n_frames)[0]

    return jax.tree.map(join, jax.lax.map(move, jax.tree.map(split, (state, action))))
