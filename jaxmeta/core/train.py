"""The meta-training loop: jitted chunks of updates on the devices, everything else between them as callbacks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np

from jaxmeta.core import guard, parallel
from jaxmeta.core.learner import MetaLearner
from jaxmeta.types import Array, Key, Metrics, TrainState


class Callback(Protocol):
    """Called after every chunk, outside of the device program."""

    def __call__(self, update: int, state: TrainState, metrics: dict[str, np.ndarray]) -> None:
        """Reacts to progress.

        Args:
          update: updates done since the run began, restarts included.
          state: after that update; with several seeds its leaves have a leading axis.
          metrics: of the updates of this chunk, [chunk] or, with several seeds, [chunk, seeds].
        """
        ...


def init_state(meta: MetaLearner, key: Key, num_seeds: int | None = None) -> TrainState:
    """Makes the state that meta-training starts from.

    Args:
      num_seeds: if given, that many independent runs side by side, on a leading axis of every leaf.
    """
    init, keys = meta.init, key
    if num_seeds is not None:
        # one by one: the batched decompositions behind orthogonal weights wait for each other on a CPU's devices
        init, keys = lambda keys: jax.lax.map(meta.init, keys), jax.random.split(key, num_seeds)
    placement = jax.tree.map(lambda leaf: leaf.sharding, state_form(meta, num_seeds))
    return parallel.compiled(init, out_shardings=placement)(keys)


def state_form(meta: MetaLearner, num_seeds: int | None = None) -> TrainState:
    """Says what `init_state` makes, without making it: shapes, and the devices that each leaf lives on."""
    key = jax.random.key(0)
    if num_seeds is None:
        form, leading = jax.eval_shape(meta.init, key), 0
    else:
        form, leading = jax.eval_shape(jax.vmap(meta.init), jax.random.split(key, num_seeds)), 1
    placement = parallel.placement(form, meta.num_devices, leading)
    return jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place), form, placement
    )


def make_chunk(
    meta: MetaLearner, num_updates: int, num_seeds: int | None = None
) -> Callable[..., tuple[TrainState, Metrics]]:
    """Compiles `num_updates` updates into one device call that consumes its argument's memory.

    Returns:
      A function of a state and, optionally, of how many updates to do, at most `num_updates`: one program does all
      such numbers. It returns the next state and metrics with leaves [num_updates, ...], zero where none was done.
    """
    update = guard.guarded(meta.update)
    if num_seeds is not None:
        update = jax.vmap(update)

    def several(state: TrainState, count: Array | int = num_updates) -> tuple[TrainState, Metrics]:
        traced = jax.jit(update, inline=True)  # once, for its form and for the loop
        rows = jax.tree.map(
            lambda leaf: jnp.zeros((num_updates, *leaf.shape), leaf.dtype), jax.eval_shape(traced, state)[1]
        )

        def one(index: Array, sofar: tuple[TrainState, Metrics]) -> tuple[TrainState, Metrics]:
            state, metrics = traced(sofar[0])
            return state, jax.tree.map(lambda rows, row: rows.at[index].set(row), sofar[1], metrics)

        return jax.lax.fori_loop(0, count, one, (state, rows))

    return parallel.compiled(
        several,
        simplify=meta.simplify,
        # side by side, the parts of all runs would have to wait for each other
        fixed_order=meta.fixed_order and num_seeds is None,
        donate_argnums=0,
    )


def train(
    meta: MetaLearner,
    state: TrainState,
    num_updates: int,
    *,
    chunk: int = 1,
    num_seeds: int | None = None,
    callbacks: Sequence[Callback] = (),
) -> TrainState:
    """Meta-trains until `num_updates` updates are done in total, those that `state` has already seen included.

    Args:
      state: from `init_state` or a checkpoint; it is consumed.
      chunk: updates per device call; the callbacks run between calls.
      num_seeds: as given to `init_state`.
      callbacks: called in order after every chunk.

    Returns:
      The final state. The result does not depend on `chunk`.

    Raises:
      guard.NonFiniteError: if so many updates in a row were not finite that training makes no sense.
    """
    if chunk < 1:
        raise ValueError(f"chunk is {chunk}; a device call needs at least 1 update")
    done = int(np.max(jax.device_get(state.step)))
    if guard.has_given_up(state.dropped):
        # what training was stopped with: whoever goes on with it has seen to the cause
        state = state.replace(dropped=jnp.where(state.dropped >= guard.MAX_DROPPED, 0, state.dropped))
    run = make_chunk(meta, chunk, num_seeds)
    while done < num_updates:
        length = min(chunk, num_updates - done)
        state, metrics = run(state, length)
        done += length
        fetched = jax.tree.map(lambda rows, length=length: rows[:length], jax.device_get(metrics))
        for callback in callbacks:
            callback(done, state, fetched)
        if guard.has_given_up(dropped := fetched["dropped"][-1]):
            raise guard.NonFiniteError(done - int(np.max(dropped)), state)
    return state
