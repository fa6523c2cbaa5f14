"""The meta-training loop: jitted chunks of updates on the devices, everything else between them as callbacks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np

from jaxmeta.core import guard, parallel
from jaxmeta.core.learner import MetaLearner
from jaxmeta.types import Key, Metrics, TrainState


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
) -> Callable[[TrainState], tuple[TrainState, Metrics]]:
    """Compiles `num_updates` updates into one device call that consumes its argument's memory."""
    update = guard.guarded(meta.update)
    if num_seeds is not None:
        update = jax.vmap(update)
    return parallel.compiled(
        lambda state: jax.lax.scan(lambda state, _: update(state), state, None, num_updates),
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
    # one compiled length; a shorter rest is done one by one
    compiled = {}
    while done < num_updates:
        length = chunk if num_updates - done >= chunk else 1
        if length not in compiled:
            compiled[length] = make_chunk(meta, length, num_seeds)
        state, metrics = compiled[length](state)
        done += length
        fetched = jax.device_get(metrics)
        for callback in callbacks:
            callback(done, state, fetched)
        if guard.has_given_up(dropped := fetched["dropped"][-1]):
            raise guard.NonFiniteError(done - int(np.max(dropped)), state)
    return state
