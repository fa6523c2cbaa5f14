"""The meta-training loop: jitted chunks of updates on the devices, everything else between them as callbacks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from jaxmeta.core import guard, parallel
from jaxmeta.core.learner import MetaLearner
from jaxmeta.core.parallel import Execution
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


def init_state(
    meta: MetaLearner, key: Key, num_seeds: int | None = None, execution: Execution = Execution()
) -> TrainState:
    """Makes the state that meta-training starts from.

    Args:
      num_seeds: if given, that many independent runs in parallel, on a leading axis of every leaf.
      execution: the devices that it will be trained on.
    """
    init, keys = meta.init, key
    if num_seeds is not None:
        # one by one: the batched decompositions behind orthogonal weights wait for each other on a CPU's devices
        init, keys = lambda keys: jax.lax.map(meta.init, keys), jax.random.split(key, num_seeds)
    placement = jax.tree.map(lambda leaf: leaf.sharding, state_form(meta, num_seeds, execution))
    return parallel.compiled(init, out_shardings=placement)(keys)


def state_form(meta: MetaLearner, num_seeds: int | None = None, execution: Execution = Execution()) -> TrainState:
    """Says what `init_state` makes, without making it: shapes, and the devices that each leaf lives on."""
    key = jax.random.key(0)
    if num_seeds is None:
        form, leading = jax.eval_shape(meta.init, key), 0
    else:
        form, leading = jax.eval_shape(jax.vmap(meta.init), jax.random.split(key, num_seeds)), 1
    placement = parallel.placement(form, execution.mesh(meta.info.spread), leading)
    return jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place), form, placement
    )


class Chunk:
    """Several updates as one device call that consumes its argument's memory: (state, count=all, data=()) -> ...

    Returns the next state and metrics with leaves [num_updates, ...], zero where none was done; one program does every
    number of updates up to `num_updates`.
    """

    def __init__(self, meta: MetaLearner, num_updates: int, num_seeds: int | None, execution: Execution):
        self._num_updates, self._mesh = num_updates, execution.mesh(meta.info.spread)
        update = guard.guarded(meta.update)
        if num_seeds is not None:
            update = jax.vmap(update, in_axes=(0, None))
        self._update = update
        self.program = parallel.compiled(self._several, donate_argnums=0)

    def __call__(self, state: TrainState, count: int | None = None, data: Any = ()) -> tuple[TrainState, Metrics]:
        with jax.set_mesh(self._mesh):
            return self.program(state, self._num_updates if count is None else count, data)

    def lower(self, state: TrainState, count: int | None = None, data: Any = ()) -> Any:
        """Lowers the program, as `jax.jit(...).lower` does."""
        with jax.set_mesh(self._mesh):
            return self.program.lower(state, self._num_updates if count is None else count, data)

    def _several(self, state: TrainState, count: Array, data: Any) -> tuple[TrainState, Metrics]:
        traced = jax.jit(self._update, inline=True)  # once, for its form and for the loop
        form = jax.eval_shape(traced, state, data)[1]
        rows = jax.tree.map(lambda leaf: jnp.zeros((self._num_updates, *leaf.shape), leaf.dtype), form)

        def one(index: Array, sofar: tuple[TrainState, Metrics]) -> tuple[TrainState, Metrics]:
            state, metrics = traced(sofar[0], data)
            return state, jax.tree.map(lambda rows, row: rows.at[index].set(row), sofar[1], metrics)

        return jax.lax.fori_loop(0, count, one, (state, rows))


def make_chunk(
    meta: MetaLearner, num_updates: int, num_seeds: int | None = None, execution: Execution = Execution()
) -> Chunk:
    """Builds `num_updates` updates as one device call; see `Chunk`."""
    return Chunk(meta, num_updates, num_seeds, execution)


def train(
    meta: MetaLearner,
    state: TrainState,
    num_updates: int,
    *,
    chunk: int = 1,
    num_seeds: int | None = None,
    callbacks: Sequence[Callback] = (),
    data: Any = (),
    execution: Execution = Execution(),
) -> TrainState:
    """Meta-trains until `num_updates` updates are done in total, those that `state` has already seen included.

    Args:
      state: from `init_state` or a checkpoint; it is consumed.
      chunk: updates per device call; the callbacks run between calls.
      num_seeds: as given to `init_state`.
      callbacks: called in order after every chunk.
      data: a fixed dataset, given to every update and in no checkpoint; it is placed on the devices once.
      execution: the devices to run on; by default all that divide the tasks of an update.

    Returns:
      The final state. The result does not depend on `chunk`.

    Raises:
      guard.NonFiniteError: if so many updates in a row were not finite that training makes no sense.
    """
    if chunk < 1:
        raise ValueError(f"chunk is {chunk}; a device call needs at least 1 update")
    done = int(np.max(jax.device_get(state.step)))
    if guard.has_given_up(state.skipped):  # resuming resets the counter
        state = state.replace(skipped=jnp.where(state.skipped >= guard.MAX_SKIPPED, 0, state.skipped))
    run = make_chunk(meta, chunk, num_seeds, execution)
    mesh = execution.mesh(meta.info.spread)
    state = jax.device_put(state, parallel.placement(state, mesh, leading=num_seeds is not None))
    data = jax.device_put(data, parallel.everywhere(mesh))
    while done < num_updates:
        length = min(chunk, num_updates - done)
        state, metrics = run(state, length, data)
        done += length
        fetched = jax.tree.map(lambda rows, length=length: rows[:length], jax.device_get(metrics))
        for callback in callbacks:
            callback(done, state, fetched)
        if guard.has_given_up(skipped := fetched["skipped"][-1]):
            raise guard.NonFiniteError(done - int(np.max(skipped)), state)
    return state
