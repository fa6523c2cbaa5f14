"""The meta-training loop: jitted chunks of updates on the devices, everything else between them as callbacks."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from jaxmeta import settings
from jaxmeta.core import guard, parallel
from jaxmeta.core.learner import MetaLearner
from jaxmeta.types import Array, Experience, Key, Metrics, TrainState


class StopTraining(Exception):
    """Raised by a callback to end training: `train` then returns the state, once the other callbacks have run."""


class Callback(Protocol):
    """Called after every chunk, outside of the device program. Raise `jm.StopTraining` to end training."""

    def __call__(self, update: int, state: TrainState, metrics: dict[str, np.ndarray]) -> None:
        """Reacts to progress.

        Args:
          update: updates done since the run began, restarts included.
          state: after that update; with several seeds its leaves have a leading axis. Params, optimiser state, key and
            step may be kept. The rings of an agent with a replay buffer (`Experience`) may not: the next chunk reuses
            their memory, so copy what is needed later (`jax.device_get`).
          metrics: of the updates of this chunk, [chunk] or, with several seeds, [chunk, seeds].
        """
        ...


@settings.standard()
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


@settings.standard()
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


class Chunk:
    """Compiled updates: a function of a state and, optionally, of how many updates to do, at most `num_updates`.

    One program does all such numbers. It returns the next state and metrics with leaves [num_updates, ...], zero where
    none was done. It consumes the rings of the state (`Experience`), whose memory it reuses, and nothing else.
    """

    def __init__(self, program: Any, num_updates: int):
        self._program, self._num_updates = program, num_updates

    def __call__(self, state: TrainState, count: Array | int | None = None) -> tuple[TrainState, Metrics]:
        return self._program(*_without_rings(state), self._num_updates if count is None else count)

    def lower(self, state: TrainState) -> Any:
        """Lowers the program for states of this form, as `jax.jit(...).lower` does."""
        return self._program.lower(*_without_rings(state), self._num_updates)

    def _cache_size(self) -> int:
        """Counts the compiled programs: one, unless states differ in form or in where they lie."""
        return self._program._cache_size()


def make_chunk(meta: MetaLearner, num_updates: int, num_seeds: int | None = None) -> Chunk:
    """Compiles `num_updates` updates into one device call."""
    update = guard.guarded(meta.update)
    if num_seeds is not None:
        update = jax.vmap(update)

    def several(state: TrainState, rings: Any, count: Array | int) -> tuple[TrainState, Metrics]:
        state = _with_rings(state, rings)
        traced = jax.jit(update, inline=True)  # once, for its form and for the loop
        rows = jax.tree.map(
            lambda leaf: jnp.zeros((num_updates, *leaf.shape), leaf.dtype), jax.eval_shape(traced, state)[1]
        )

        def one(index: Array, sofar: tuple[TrainState, Metrics]) -> tuple[TrainState, Metrics]:
            state, metrics = traced(sofar[0])
            return state, jax.tree.map(lambda rows, row: rows.at[index].set(row), sofar[1], metrics)

        return jax.lax.fori_loop(0, count, one, (state, rows))

    program = parallel.compiled(
        several,
        simplify=meta.simplify,
        # side by side, the parts of all runs would have to wait for each other
        fixed_order=meta.fixed_order and num_seeds is None,
        donate_argnums=1,
    )
    return Chunk(program, num_updates)


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

    A chunk keeps two copies of params and optimiser state, the one that it starts from and its own. Replay buffers,
    which may be large, are copied once, when training starts, and updated in place from then on. So there are two while
    the caller holds on to `state`, and one after `state = None` or in `jm.train(meta, jm.init_state(meta, key), 100)`.

    Args:
      state: from `init_state` or a checkpoint; it stays as it is, and usable.
      chunk: updates per device call; the callbacks run between calls.
      num_seeds: as given to `init_state`.
      callbacks: called in order after every chunk. Where one raises `StopTraining`, the others are still called, and
        training ends.

    Returns:
      The final state. The result does not depend on `chunk`.

    Raises:
      guard.NonFiniteError: if so many updates in a row were not finite that training makes no sense.
      BaseException: whatever ends training early, such as an error in a callback or a KeyboardInterrupt, with the last
        state as its attribute `state`; in a notebook that is `sys.last_value.state`.
    """
    if chunk < 1:
        raise ValueError(f"chunk is {chunk}; a device call needs at least 1 update")
    settings.refuse_x64()
    done = int(np.max(jax.device_get(state.step)))
    if guard.has_given_up(state.dropped):
        # what training was stopped with: whoever goes on with it has seen to the cause
        state = state.replace(dropped=jnp.where(state.dropped >= guard.MAX_DROPPED, 0, state.dropped))
    run = make_chunk(meta, chunk, num_seeds)
    state = _copy_rings(state)
    try:
        # no decorator: it would keep the rings that were copied alive
        with settings.standard():
            while done < num_updates:
                length = min(chunk, num_updates - done)
                with _interrupted_later():
                    state, metrics = run(state, length)
                done += length
                fetched = jax.tree.map(lambda rows, length=length: rows[:length], jax.device_get(metrics))
                asked_to_stop = _call(callbacks, done, state, fetched)
                if guard.has_given_up(dropped := fetched["dropped"][-1]):
                    raise guard.NonFiniteError(done - int(np.max(dropped)), state)
                if asked_to_stop:
                    break
    except BaseException as error:
        _attach(error, state)
        raise
    return state


def _call(callbacks: Sequence[Callback], update: int, state: TrainState, metrics: dict[str, np.ndarray]) -> bool:
    """Calls all callbacks and says whether one of them asked to stop."""
    stop = False
    for callback in callbacks:
        try:
            callback(update, state, metrics)
        except StopTraining:
            stop = True
    return stop


@contextlib.contextmanager
def _interrupted_later() -> Iterator[None]:
    """Lets Ctrl-C wait for the end of the block; a second one does not.

    Python raises KeyboardInterrupt as soon as a device call returns, before its result has a name, while the rings
    that the call was given are gone already.
    """
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    came = []

    def note(number: int, frame: Any) -> None:
        came.append(number)
        signal.signal(signal.SIGINT, signal.default_int_handler)

    signal.signal(signal.SIGINT, note)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if came:
        raise KeyboardInterrupt


def _attach(error: BaseException, state: TrainState) -> None:
    """Makes the state that an exception leaves behind its attribute `state`, and says so in a note."""
    if hasattr(error, "state"):
        return
    with contextlib.suppress(AttributeError):  # an exception may have slots
        error.state = state  # pyright: ignore[reportAttributeAccessIssue]
        error.add_note("jaxmeta: the last state of training is the attribute `state` of this exception")


def _without_rings(state: TrainState) -> tuple[TrainState, Any]:
    """Splits a state into one without its rings, which callers may keep, and the rings; None stands for the others."""
    kept = jax.tree.map(lambda node: None if _is_ring(node) else node, state, is_leaf=_is_ring)
    rings = jax.tree.map(lambda node: node if _is_ring(node) else None, state, is_leaf=_is_ring)
    return kept, rings


def _is_ring(node: Any) -> bool:
    return isinstance(node, Experience)


def _with_rings(state: TrainState, rings: Any) -> TrainState:
    """Puts together what `_without_rings` split."""
    return jax.tree.map(
        lambda node, ring: node if ring is None else ring, state, rings, is_leaf=lambda node: node is None
    )


def _copy_rings(state: TrainState) -> TrainState:
    """Copies the rings, so that the state of the caller outlives training."""
    kept, rings = _without_rings(state)
    return _with_rings(kept, jax.tree.map(jnp.copy, rings))
