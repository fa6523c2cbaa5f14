"""The meta-training loop: jitted chunks of updates on the devices, with callbacks between them."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from jaxmeta import devices
from jaxmeta.config import settings
from jaxmeta.core import guard
from jaxmeta.core.learner import MetaLearner
from jaxmeta.devices import Execution
from jaxmeta.types import Array, Key, Metrics, TrainState


class StopTraining(Exception):
    """Raised by a callback to end training: `train` runs the other callbacks and returns the state."""


class Callback(Protocol):
    """Called after every chunk, outside jit. Raise `jm.StopTraining` to end training."""

    def __call__(self, update: int, state: TrainState, metrics: dict[str, np.ndarray]) -> None:
        """Processes the state and the metrics after a chunk.

        Args:
          update: number of updates since the start of the run, those before a restart included.
          state: the state after that update; with several seeds its leaves have a leading axis. References to params,
            optimiser state, key and step stay valid. Those to the source's state, such as replay buffers, do not: it
            is donated to the next chunk, so copy what is needed later (`jax.device_get`).
          metrics: of the updates of this chunk, [chunk] or, with several seeds, [chunk, seeds].
        """
        ...


@settings.standard()
def init_state(
    meta: MetaLearner, key: Key, num_seeds: int | None = None, execution: Execution = Execution()
) -> TrainState:
    """Makes the initial state of meta-training.

    Args:
      num_seeds: if given, that many independent runs in parallel, on a leading axis of every leaf.
      execution: the devices to train on.
    """
    keys = key if num_seeds is None else jax.random.split(key, num_seeds)
    return _init_program(meta, num_seeds, execution)(keys)


@devices.remembered(4)
def _init_program(meta: MetaLearner, num_seeds: int | None, execution: Execution) -> Callable[[Key], TrainState]:
    """Compiles the initialisation: (key, or keys [num_seeds]) -> state."""
    # sequentially: the batched decompositions of orthogonal initialisation block each other on a CPU's devices
    init = meta.init if num_seeds is None else lambda keys: jax.lax.map(meta.init, keys)
    placement = jax.tree.map(lambda leaf: leaf.sharding, state_form(meta, num_seeds, execution))
    return devices.compiled(init, out_shardings=placement)


@settings.standard()
def state_form(meta: MetaLearner, num_seeds: int | None = None, execution: Execution = Execution()) -> TrainState:
    """Returns the result of `init_state` as `jax.ShapeDtypeStruct`s with shardings, without computing it."""
    key = jax.random.key(0)
    if num_seeds is None:
        form, leading = jax.eval_shape(meta.init, key), 0
    else:
        form, leading = jax.eval_shape(jax.vmap(meta.init), jax.random.split(key, num_seeds)), 1
    placement = devices.placement(form, execution.mesh(meta.info.spread), leading)
    return jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place), form, placement
    )


class Chunk:
    """Several updates as one compiled program.

    Call it with a train state, the number of updates (by default and at most `num_updates`), and data that every update
    receives. It returns the next state, and metrics with leaves [num_updates, ...], zero for updates that were not
    made. It is compiled once for all numbers of updates, and donates `state.source` only.
    """

    def __init__(self, meta: MetaLearner, num_updates: int, num_seeds: int | None, execution: Execution):
        self._num_updates, self._mesh = num_updates, execution.mesh(meta.info.spread)
        update = guard.guarded(meta.update)
        self._update = update if num_seeds is None else jax.vmap(update, in_axes=(0, None))
        self._program = devices.compiled(self._several, donate_argnums=1)

    def __call__(self, state: TrainState, count: int | None = None, data: Any = ()) -> tuple[TrainState, Metrics]:
        with jax.set_mesh(self._mesh):
            return self._program(*self._arguments(state, count, data))

    def lower(self, state: TrainState, count: int | None = None, data: Any = ()) -> Any:
        """Lowers the program for states with these shapes and shardings, as `jax.jit(...).lower` does."""
        with jax.set_mesh(self._mesh):
            return self._program.lower(*self._arguments(state, count, data))

    def _cache_size(self) -> int:
        """Returns the number of compiled programs: one, unless states differ in shapes, dtypes or sharding."""
        return self._program._cache_size()

    def _arguments(self, state: TrainState, count: int | None, data: Any) -> tuple[Any, ...]:
        return state.replace(source=()), state.source, self._num_updates if count is None else count, data

    def _several(self, state: TrainState, source: Any, count: Array, data: Any) -> tuple[TrainState, Metrics]:
        state = state.replace(source=source)
        traced = jax.jit(self._update, inline=True)  # traced once for `eval_shape` and the loop
        form = jax.eval_shape(traced, state, data)[1]
        rows = jax.tree.map(lambda leaf: jnp.zeros((self._num_updates, *leaf.shape), leaf.dtype), form)

        def one(index: Array, sofar: tuple[TrainState, Metrics]) -> tuple[TrainState, Metrics]:
            state, metrics = traced(sofar[0], data)
            return state, jax.tree.map(lambda rows, row: rows.at[index].set(row), sofar[1], metrics)

        return jax.lax.fori_loop(0, count, one, (state, rows))


def make_chunk(
    meta: MetaLearner, num_updates: int, num_seeds: int | None = None, execution: Execution = Execution()
) -> Chunk:
    """Builds `num_updates` updates as one device call; see `Chunk`.

    Example:
      run = make_chunk(meta, 10)
      state, metrics = run(init_state(meta, key))
    """
    return Chunk(meta, num_updates, num_seeds, execution)


# a notebook that trains on, call after call, compiles once
_remembered_chunk = devices.remembered(4)(Chunk)


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
    """Meta-trains until `num_updates` updates are done in total, those already counted in `state` included.

        state = jm.train(meta, jm.init_state(meta, key), num_updates=100, chunk=10)

    A chunk holds two copies of params and optimiser state, its input and its output. Replay buffers, which may be
    large, are copied once, when training starts, and updated in place from then on. So memory holds two copies as long
    as the caller keeps a reference to the initial `state`, and one otherwise.

    Args:
      state: from `init_state` or a checkpoint; it is not donated and stays valid.
      chunk: updates per device call; the callbacks run between calls.
      num_seeds: as given to `init_state`.
      callbacks: called in order after every chunk. If one raises `StopTraining`, the others are still called, and
        training ends.
      data: a fixed dataset, passed to every update; it is placed on the devices once, and checkpoints do not contain
        it.
      execution: the devices to run on; by default the largest number that divides the tasks of an update.

    Returns:
      The final state. The result does not depend on `chunk`.

    Raises:
      guard.NonFiniteError: after `guard.MAX_SKIPPED` non-finite updates in a row.
      BaseException: any exception that ends training early, such as an error in a callback or a KeyboardInterrupt, with
        the last state as its attribute `state`; in a notebook, `sys.last_value.state`.
    """
    if chunk < 1:
        raise ValueError(f"chunk is {chunk}; a device call needs at least 1 update")
    settings.refuse_x64()
    done = int(np.max(jax.device_get(state.step)))
    run, mesh = _remembered_chunk(meta, chunk, num_seeds, execution), execution.mesh(meta.info.spread)
    state = _own_copy(jax.device_put(state, devices.placement(state, mesh, leading=num_seeds is not None)))
    data = jax.device_put(data, devices.everywhere(mesh))
    try:
        # not as a decorator: it would keep a reference to the source's initial state
        with settings.standard():
            stop = False
            while done < num_updates and not stop:
                length = min(chunk, num_updates - done)
                with _interrupted_later():
                    state, metrics = run(state, length, data)
                done += length
                fetched = jax.tree.map(lambda rows, length=length: rows[:length], jax.device_get(metrics))
                stop = _call(callbacks, done, state, fetched)
                guard.give_up_if_skipped(done, state, fetched)
    except BaseException as error:
        _attach(error, state)
        raise
    return state


def _own_copy(state: TrainState) -> TrainState:
    """Copies what a chunk donates, so that the caller's state stays valid, and resets `skipped`."""
    if guard.has_given_up(state.skipped):
        state = state.replace(skipped=jnp.where(state.skipped >= guard.MAX_SKIPPED, 0, state.skipped))
    return state.replace(source=jax.tree.map(jnp.copy, state.source))


def _call(callbacks: Sequence[Callback], update: int, state: TrainState, metrics: dict[str, np.ndarray]) -> bool:
    """Calls all callbacks and returns whether one of them raised `StopTraining`."""
    stop = False
    for callback in callbacks:
        try:
            callback(update, state, metrics)
        except StopTraining:
            stop = True
    return stop


@contextlib.contextmanager
def _interrupted_later() -> Iterator[None]:
    """Delays a KeyboardInterrupt to the end of the block; a second Ctrl-C is not delayed.

    Python would raise it as soon as the device call returns, before its result is assigned, when the source's previous
    state has already been donated.
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
    """Attaches the last state to an exception as its attribute `state`, and adds a note about it."""
    if hasattr(error, "state"):
        return
    with contextlib.suppress(AttributeError):  # an exception may have slots
        error.state = state  # pyright: ignore[reportAttributeAccessIssue]
        error.add_note("jaxmeta: the last state of training is the attribute `state` of this exception")
