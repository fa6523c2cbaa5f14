"""Replay buffers per task: ring buffers of fixed size on the device.

A transition is stored as one float32 row, so that sampling a batch is a single gather. The rings of N tasks are one
array [N, C, D], and every function takes the indices of the tasks: a task cannot read another task's transitions.
Invalid steps, such as those after an early end, are not stored.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import struct

from jaxmeta.types import Array, Key, Rollout, Spec

BYTES_PER_NUMBER = 4


class Transition(struct.PyTreeNode):
    """One step of experience; leaves are [..., D], or [...] for scalars."""

    obs: Array
    action: Array
    reward: Array
    next_obs: Array
    terminated: Array
    """1.0 where the environment terminated the episode, so that there is no bootstrap; 0.0 at the horizon."""


def stored(experience: Rollout) -> Transition:
    """Extracts the transitions of rounds with any leading axes, with the environment's rewards."""
    return Transition(
        experience.inputs.obs, experience.action, experience.reward, experience.next_obs, experience.terminated
    )


def evidence_rows(transition: Transition, use_next_obs: bool) -> Array:
    """Concatenates transitions [...] for an encoder: observation, action, reward, and optionally the next observation.

    Ends of episodes are not included: truncation carries no information about the task.
    """
    parts = [transition.obs, transition.action, transition.reward] + [transition.next_obs] * use_next_obs
    return jnp.concatenate([part.reshape(*transition.reward.shape, -1) for part in parts], axis=-1)


def evidence_size(spec: Spec, use_next_obs: bool) -> int:
    """Returns the length of a row of `evidence_rows`."""
    inputs = spec.example_input()
    return inputs.obs.size * (1 + use_next_obs) + inputs.prev_action.size + 1


class Rows(NamedTuple):
    """The row format of a transition."""

    width: int
    """Numbers in a row; four bytes each."""
    pack: Callable[[Transition], Array]
    """Transitions [...] -> rows [..., width]."""
    unpack: Callable[[Array], Transition]
    """Rows [..., width] -> transitions [...]."""


class TaskRings(struct.PyTreeNode):
    """The rings of N tasks."""

    rows: Array
    """[N, C, D]."""
    written: Array
    """Number of rows written so far, overwritten ones included, int32 [N]."""

    @property
    def capacity(self) -> int:
        return self.rows.shape[1]

    @property
    def size(self) -> Array:
        """Number of stored rows, int32 [N]."""
        return jnp.minimum(self.written, self.capacity)


def transition_rows(spec: Spec) -> Rows:
    """Builds the row format for an environment with continuous actions: 2 |obs| + |action| + 2 numbers.

    Raises:
      ValueError: if an observation is not one float32 array: uint8 would take four times its size.
    """
    if not spec.is_plain:
        raise ValueError(f"tasks.observation is {spec.observation}; a replay buffer needs one float32 array")
    example = spec.example_input()
    like = Transition(example.obs, example.prev_action, jnp.zeros(()), example.obs, jnp.zeros(()))
    shapes = [leaf.shape for leaf in jax.tree.leaves(like)]
    sizes = [leaf.size for leaf in jax.tree.leaves(like)]
    ends = [sum(sizes[: index + 1]) for index in range(len(sizes))]
    structure = jax.tree.structure(like)

    def pack(transition: Transition) -> Array:
        batch = transition.reward.shape
        return jnp.concatenate([leaf.reshape(*batch, -1) for leaf in jax.tree.leaves(transition)], axis=-1)

    def unpack(rows: Array) -> Transition:
        parts = jnp.split(rows, ends[:-1], axis=-1)
        leaves = [part.reshape(*rows.shape[:-1], *shape) for part, shape in zip(parts, shapes, strict=True)]
        return jax.tree.unflatten(structure, leaves)

    return Rows(ends[-1], pack, unpack)


def empty_rings(num_tasks: int, capacity: int, width: int) -> TaskRings:
    """Makes empty rings, which take 4 x `num_tasks` x `capacity` x `width` bytes."""
    return TaskRings(jnp.zeros((num_tasks, capacity, width)), jnp.zeros(num_tasks, jnp.int32))


def write(rings: TaskRings, tasks: Array, rows: Array, valid: Array) -> TaskRings:
    """Appends rows; a full ring overwrites its oldest rows.

    Args:
      tasks: indices of the rings, int [M], each at most once.
      rows: [M, n, D], in time order, n at most the capacity.
      valid: 1.0 for rows to append, [M, n].

    Raises:
      ValueError: if n exceeds the capacity.
    """
    if rows.shape[1] > rings.capacity:
        raise ValueError(f"rows has {rows.shape[1]} rows per task; a ring holds at most {rings.capacity}")
    ahead = jnp.cumsum(valid.astype(jnp.int32), axis=1)
    place = (rings.written[tasks][:, None] + ahead - 1) % rings.capacity
    place = jnp.where(valid > 0, place, rings.capacity)  # out of bounds: dropped
    return TaskRings(
        rows=rings.rows.at[tasks[:, None], place].set(rows, mode="drop"),
        written=rings.written.at[tasks].add(ahead[:, -1]),
    )


def forget(rings: TaskRings, tasks: Array) -> TaskRings:
    """Empties the replay buffers of some tasks; `tasks` has their indices, int [M]."""
    return rings.replace(written=rings.written.at[tasks].set(0))


def draw(rings: TaskRings, tasks: Array, key: Key, count: int) -> Array:
    """Samples rows uniformly, with replacement; each ring must hold at least one.

    Args:
      tasks: indices of the rings, int [B].

    Returns:
      [B, count, D].
    """
    index = jax.random.randint(key, (tasks.shape[0], count), 0, jnp.maximum(rings.size[tasks], 1)[:, None])
    return rings.rows[tasks[:, None], index]


def draw_beginning(rings: TaskRings, tasks: Array, key: Key, count: int) -> tuple[Array, Array]:
    """Takes for each task the oldest rows of its ring, a random number from 1 to `count`, as early in a trial.

    Returns:
      Rows [B, count, D] in time order, and 1.0 for those taken, [B, count]: at least one of each non-empty ring.
    """
    size, written = rings.size[tasks], rings.written[tasks]
    drawn = jax.random.randint(key, size.shape, 0, jnp.maximum(jnp.minimum(size, count), 1)) + 1
    offset = jnp.arange(count)
    place = ((written - size)[:, None] + offset) % rings.capacity
    return rings.rows[tasks[:, None], place], (offset < jnp.minimum(drawn, size)[:, None]).astype(jnp.float32)


def bytes_per_transition(rows: Rows) -> int:
    """Returns the size of a stored transition in bytes."""
    return BYTES_PER_NUMBER * rows.width
