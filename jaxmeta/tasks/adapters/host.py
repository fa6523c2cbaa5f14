"""Environments whose simulator runs on the host, outside of JAX: one callback per step for a whole batch.

An adapter gives a `Simulator` and a `Spec`; `HostEnv` makes an environment of them that works under `jit`, `vmap`,
`lax.map` and on several devices. All tasks and streams that a device steps in parallel share one callback per step.

A state is not the simulator, only the number of its episode and of its steps, so it can be stepped once. Stepping an
older state again raises an error: going back in time would need a copy of the simulator. Nothing in jaxmeta does it, as
rollouts step forwards only. `jm.testing.check_env` certifies such an environment as any other, because it repeats whole
episodes from their reset; it shows that a simulator's episode depends on nothing but its task, seed and actions.
"""

from __future__ import annotations

import collections
import dataclasses
import itertools
import threading
from collections.abc import Callable, Hashable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax.experimental import io_callback

from jaxmeta.types import Array, Key, Spec, Step

CAPACITY = 64
"""Simulators that are kept, at least; more if more streams run in parallel."""
INTEGER, NUMBER, FLAG = (jax.ShapeDtypeStruct((), dtype) for dtype in (jnp.int32, jnp.float32, jnp.bool_))


class Outcome(NamedTuple):
    """The result of one step of a simulator, in numpy; see `Step`."""

    obs: np.ndarray
    reward: float
    terminated: bool
    truncated: bool = False
    success: bool = False


class Simulator(Protocol):
    """A simulator on the host. Its episodes depend on task, seed and actions only, not on the episodes before."""

    def reset(self, task: Any, seed: int) -> np.ndarray:
        """Starts an episode and returns the first observation; the leaves of `task` are numpy arrays."""
        ...

    def step(self, action: np.ndarray) -> Outcome:
        """Advances by one step; it is not called after the end of an episode."""
        ...


class HostState(struct.PyTreeNode):
    """Which simulator runs an episode, and how far it is. It can be stepped once."""

    episode: Array
    """Number of the episode among all that were started, int32 scalar."""
    time: Array
    """Steps so far, int32 scalar; -1 once the episode has ended."""
    obs: Array
    """The last observation."""


class Simulators:
    """Simulators and the episodes that they run. One whose episode has ended runs the next one of its kind.

    Args:
      make: makes a simulator of a kind.
      kind: task -> kind of simulator that it needs.
    """

    def __init__(self, make: Callable[[Any], Simulator], kind: Callable[[Any], Hashable] = lambda task: None):
        self._make, self._kind, self._lock = make, kind, threading.Lock()
        self._free: dict[Hashable, list[Simulator]] = collections.defaultdict(list)
        # kind, simulator and steps so far by number; the one stepped last is the last
        self._episodes: dict[int, tuple[Hashable, Simulator, int]] = {}
        self._numbers, self._capacity = itertools.count(), CAPACITY

    def add(self, kind: Hashable, simulator: Simulator) -> None:
        """Adds a simulator that runs no episode."""
        self._free[kind].append(simulator)

    def reset(self, task: Any, seed: int, batch: int) -> tuple[int, np.ndarray]:
        """Starts an episode, one of `batch` in parallel; returns its number and the first observation."""
        with self._lock:  # devices share the simulators
            self._capacity = max(self._capacity, 2 * batch * jax.local_device_count())
            kind, number = self._kind(task), next(self._numbers) % 2**31
            simulator = self._free[kind].pop() if self._free[kind] else self._another(kind)
            self._episodes[number] = kind, simulator, 0
        return number, simulator.reset(task, seed)

    def step(self, number: int, time: int, action: np.ndarray, horizon: int) -> tuple[int, Outcome]:
        """Steps an episode; returns the steps so far, or -1 if it has ended, and the outcome.

        Raises:
          RuntimeError: if the state (`number`, `time`) is not the newest of its episode.
        """
        with self._lock:
            kind, simulator, now = self._episodes.get(number, (None, None, None))
            if simulator is None or now != time:
                newest = "has ended or was dropped" if simulator is None else f"is at step {now}"
                remedy = "a simulator on the host cannot go back: step the newest state, or reset"
                raise RuntimeError(f"a state of step {time} was stepped, but its episode {newest}; {remedy}")
            del self._episodes[number]  # one that fails now is not used again
        outcome = simulator.step(action)
        ended = outcome.terminated or outcome.truncated or time + 1 >= horizon
        with self._lock:
            if ended:
                self.add(kind, simulator)
            else:
                self._episodes[number] = kind, simulator, time + 1
        return -1 if ended else time + 1, outcome

    def _another(self, kind: Hashable) -> Simulator:
        """Makes one. If there are too many, drops a free one, else that of the episode not stepped for longest."""
        most = max(self._free.values(), key=len)
        if len(self._episodes) + sum(map(len, self._free.values())) >= self._capacity:
            most.pop() if most else self._episodes.pop(next(iter(self._episodes)))
        return self._make(kind)


@dataclasses.dataclass(frozen=True, eq=False)
class HostEnv:
    """An environment of simulators on the host. After the end of an episode, or `spec.horizon` steps, it stands still:
    a step returns the final observation and a reward of zero, and does not reach the simulator."""

    spec: Spec
    simulators: Simulators

    def reset(self, key: Key, task: Any) -> tuple[HostState, Array]:
        number, obs = _on_host(self._reset, (INTEGER, self.spec.observation_form()), task, jax.random.bits(key))
        return HostState(number, jnp.zeros((), jnp.int32), obs), obs

    def step(self, key: Key, state: HostState, action: Array, task: Any) -> tuple[HostState, Step]:
        form = self.spec.observation_form(), NUMBER, FLAG, FLAG, FLAG
        # a step needs the number and the time that the last call returned: this orders the calls
        time, obs, *rest = _on_host(self._step, (INTEGER, *form), state.episode, state.time, action)
        obs = jnp.where(state.time < 0, state.obs, obs)
        return HostState(state.episode, time, obs), Step(obs, *rest)

    def _reset(self, task: Any, seed: np.ndarray) -> tuple[np.ndarray, ...]:
        """Starts episodes; all leaves are [B, ...]."""
        rows = (jax.tree.map(lambda leaf, row=row: leaf[row], task) for row in range(len(seed)))
        begun = [self.simulators.reset(row, int(one), len(seed)) for row, one in zip(rows, seed, strict=True)]
        return tuple(map(np.array, zip(*begun, strict=True)))

    def _step(self, episode: np.ndarray, time: np.ndarray, action: np.ndarray) -> tuple[np.ndarray, ...]:
        """Steps episodes, except those that have ended; all leaves are [B, ...]."""
        ended = -1, Outcome(np.zeros(self.spec.observation_form().shape), 0.0, False)
        moments = zip(episode.tolist(), time.tolist(), action, strict=True)
        stepped = [ended if row[1] < 0 else self.simulators.step(*row, self.spec.horizon) for row in moments]
        return tuple(map(np.array, zip(*((time, *outcome) for time, outcome in stepped), strict=True)))


def _on_host(function: Callable[..., Any], form: Any, *args: Any) -> Any:
    """Calls a function of numpy arrays [B, ...] from traced, unbatched code, once for all elements of all vmaps."""

    @jax.custom_batching.custom_vmap
    def call(args):
        size = jax.tree.leaves(args)[0].shape[0]
        forms = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((size, *leaf.shape), leaf.dtype), form)
        return io_callback(lambda *args: _typed(function(*jax.tree.map(np.asarray, args)), forms), forms, *args)

    @call.def_vmap
    def _(size, is_batched, args):
        def merged(leaf, batched):
            leaf = leaf if batched else jnp.broadcast_to(leaf, (size, *leaf.shape))
            return leaf.reshape(size * leaf.shape[1], *leaf.shape[2:])

        results = call(jax.tree.map(merged, args, is_batched[0]))
        results = jax.tree.map(lambda leaf: leaf.reshape(size, leaf.shape[0] // size, *leaf.shape[1:]), results)
        return results, jax.tree.map(lambda leaf: True, results)

    return jax.tree.map(lambda leaf: leaf[0], call(jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], args)))


def _typed(results: Any, forms: Any) -> Any:
    return jax.tree.map(lambda leaf, form: np.asarray(leaf, form.dtype), results, forms)
