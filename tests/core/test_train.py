from __future__ import annotations

import signal
import subprocess
import sys
import threading
import weakref

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxmeta as jm
from jaxmeta.core.learner import Info
from jaxmeta.core.train import Chunk, make_chunk
from jaxmeta.rl.replay import TaskRings
from jaxmeta.types import TrainState
from tests import tiny


def counter():
    """A meta-learner whose params count its updates, to look at the loop alone."""

    def init(key):
        return TrainState(params=jnp.zeros(()), opt_state=(), key=key, step=jnp.zeros((), jnp.int32))

    def update(state, data=()):
        return state.replace(params=state.params + 1.0, step=state.step + 1), {"count": state.params}

    return jm.MetaLearner(learner=None, plan=jm.Plan(), init=init, update=update)


@pytest.mark.parametrize("chunk", [1, 2, 3, 10])
def test_every_update_is_reported_once_whatever_the_chunk(chunk):
    seen = []
    meta = counter()
    callback = lambda update, state, metrics: seen.append((update, metrics["count"].tolist()))  # noqa: E731
    state = jm.train(meta, jm.init_state(meta, jax.random.key(0)), 7, chunk=chunk, callbacks=[callback])
    assert state.step == 7
    assert [count for _, counts in seen for count in counts] == [0, 1, 2, 3, 4, 5, 6]
    assert seen[-1][0] == 7


def test_training_continues_from_the_step_of_a_state():
    meta = counter()
    state = jm.train(meta, jm.init_state(meta, jax.random.key(0)), 3)
    assert jm.train(meta, state, 5).params == 5.0


def test_several_seeds_have_an_axis_of_their_own():
    seen = []
    meta = counter()
    state = jm.init_state(meta, jax.random.key(0), num_seeds=3)
    state = jm.train(meta, state, 4, chunk=2, num_seeds=3, callbacks=[lambda u, s, m: seen.append(m["count"].shape)])
    np.testing.assert_array_equal(state.step, [4, 4, 4])
    assert seen == [(2, 3), (2, 3)]


def test_a_chunk_of_no_updates_is_refused():
    meta = counter()
    with pytest.raises(ValueError, match="chunk is 0; a device call needs at least 1 update"):
        jm.train(meta, jm.init_state(meta, jax.random.key(0)), 1, chunk=0)


def test_a_hundred_updates_trace_once(tmp_path):
    traced = []
    meta = tiny.algo("ppo")

    def update(state, data=()):
        traced.append(1)
        return meta.update(state)

    counted = meta._replace(update=update)
    state = jm.train(counted, jm.init_state(counted, jax.random.key(0)), 100)
    assert len(traced) == 1
    # a state from a checkpoint lies where that program wants it
    chunk = make_chunk(counted, 1)
    state, _ = chunk(state)
    checkpointer = jm.Checkpointer(tmp_path)
    checkpointer.save(101, state)
    chunk(checkpointer.restore(jm.state_form(counted)))
    assert chunk._cache_size() == 1 and len(traced) == 2


def test_training_on_call_after_call_traces_once():
    traced = []
    meta = tiny.algo("ppo")

    def update(state, data=()):
        traced.append(1)
        return meta.update(state)

    counted = meta._replace(update=update)
    state = jm.init_state(counted, jax.random.key(0))
    for updates in (1, 2, 3):
        state = jm.train(counted, state, updates)
    assert len(traced) == 1 and int(state.step) == 3


FULLY_OPTIMISED = """
import jaxmeta as jm
jm.use_cpu_cores(2)
import chex
import jax
from tests import tiny
meta = tiny.algo("maml")
run = lambda chunk: jm.train(meta, jm.init_state(meta, jax.random.key(0)), 6, chunk=chunk)
one, other = (jax.tree.leaves(jax.device_get(run(chunk).params)) for chunk in (6, 3))
print(all((a == b).all() for a, b in zip(one, other, strict=True)))
"""


@pytest.mark.slow
def test_one_chunk_of_six_equals_two_of_three_as_users_compile():
    """The suite compiles with few optimisations; this runs with all, in a process of its own."""
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FULLY_OPTIMISED], capture_output=True, text=True, check=True
    )
    assert run.stdout.split()[-1] == "True"


@pytest.mark.timeout(120, method="thread")  # what hangs in compiled code hears no signal
def test_orthogonal_initialisation_of_many_seeds_does_not_serialise():
    meta = jm.maml(tiny.family(), jm.MAMLConfig(num_tasks=2, streams=3, hidden=(100, 100)))
    state = jm.init_state(meta, jax.random.key(0), num_seeds=5)
    one = jm.init_state(meta, jax.random.split(jax.random.key(0), 5)[3])
    jax.tree.map(lambda many, leaf: np.testing.assert_array_equal(many[3], leaf), state.params, one.params)


def with_ring():
    """A meta-learner whose state holds a ring of what it was given, beside its params."""

    def init(key):
        rings = TaskRings(rows=jnp.zeros((2, 3, 1)), written=jnp.zeros(2, jnp.int32))
        return counter().init(key).replace(opt_state=jnp.zeros(3), source=rings)

    def update(state, data=()):
        momentum, rings = state.opt_state, state.source
        state, metrics = counter().update(state)
        return state.replace(opt_state=momentum + 1.0, source=rings.replace(rows=rings.rows + 1.0)), metrics

    # on one device the source's memory would not be reused
    return counter()._replace(init=init, update=update, info=Info(2, jm.Plan(), spread=2))


@pytest.mark.parametrize("make", [counter, with_ring])
def test_training_leaves_the_state_it_starts_from(make):
    meta = make()
    start = jm.init_state(meta, jax.random.key(0))
    before = jax.device_get(start.replace(key=()))
    one, other = jm.train(meta, start, 3), jm.train(meta, start, 3)
    chex.assert_trees_all_equal(before, jax.device_get(start.replace(key=())))
    chex.assert_trees_all_equal(one.replace(key=()), other.replace(key=()))


def test_rings_are_updated_in_place():
    meta = with_ring()
    seen = []
    callback = lambda update, state, metrics: seen.append((state.opt_state, state.source))  # noqa: E731
    state = jm.train(meta, jm.init_state(meta, jax.random.key(0)), 3, callbacks=[callback])
    # params and optimiser state of every chunk may be kept, rings may not
    assert [float(momentum[0]) for momentum, _ in seen] == [1.0, 2.0, 3.0]
    assert [rings.rows.is_deleted() for _, rings in seen] == [True, True, False]
    assert float(state.source.rows.max()) == 3.0


def test_a_callback_keeps_what_it_gets():
    meta = tiny.algo("maml-vpg")
    seen = []
    callback = lambda update, state, metrics: seen.append(state)  # noqa: E731
    jm.train(meta, jm.init_state(meta, jax.random.key(0)), 3, callbacks=[callback])
    for update, state in enumerate(seen):
        assert int(state.step) == update + 1
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(jax.device_get(state.params)))


def test_a_callback_stops_training_and_the_state_comes_back():
    meta, seen = counter(), []

    def stop(update, state, metrics):
        if update == 4:
            raise jm.StopTraining

    last = lambda update, state, metrics: seen.append(update)  # noqa: E731
    state = jm.train(meta, jm.init_state(meta, jax.random.key(0)), 100, chunk=2, callbacks=[stop, last])
    assert int(state.step) == 4 and seen == [2, 4]
    assert int(jm.train(meta, state, 7).step) == 7


@pytest.mark.parametrize("kind", [KeyboardInterrupt, RuntimeError])
@pytest.mark.parametrize("make", [counter, with_ring])
def test_an_interrupt_keeps_the_last_state(kind, make):
    meta = make()

    def interrupt(update, state, metrics):
        if update == 2:
            raise kind("enough")

    with pytest.raises(kind, match="enough") as stopped:
        jm.train(meta, jm.init_state(meta, jax.random.key(0)), 100, callbacks=[interrupt])
    assert "attribute `state`" in stopped.value.__notes__[0]
    assert int(stopped.value.state.step) == 2
    assert int(jm.train(meta, stopped.value.state, 5).step) == 5


@pytest.mark.skipif(threading.current_thread() is not threading.main_thread(), reason="signals are for the main thread")
def test_an_interrupt_during_a_device_call_keeps_its_rings(monkeypatch):
    meta, call = with_ring(), Chunk.__call__

    def interrupted(chunk, state, count, data):
        result = call(chunk, state, count, data)
        signal.raise_signal(signal.SIGINT)  # Ctrl-C, before the result has a name
        return result

    monkeypatch.setattr(Chunk, "__call__", interrupted)
    with pytest.raises(KeyboardInterrupt) as stopped:
        jm.train(meta, jm.init_state(meta, jax.random.key(0)), 100)
    monkeypatch.undo()
    assert int(stopped.value.state.step) == 1
    assert float(jm.train(meta, stopped.value.state, 3).source.rows.max()) == 3.0
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_unreferenced_rings_are_freed_when_training_starts():
    meta, alive = with_ring(), []
    states = [jm.init_state(meta, jax.random.key(0))]
    first = weakref.ref(states[0].source.rows)
    jm.train(meta, states.pop(), 1, callbacks=[lambda update, state, metrics: alive.append(first() is not None)])
    assert alive == [False]
