"""Replay: what an off-policy learner remembers of every task, in rings of fixed size that live on the device.

A transition is kept as one row of float32, so that drawing a batch is a single gather. The rings of N tasks stand side
by side, [N, C, D], and every function names the tasks it means: what one task wrote, no other task can read. A step
that is not valid, such as those after an early end, takes no place.
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
    """1.0 where the environment itself ended the episode: nothing follows. The end of a horizon is none."""


def stored(experience: Rollout) -> Transition:
    """Takes the transitions out of rounds with any leading axes, with rewards as the environment paid them."""
    return Transition(
        experience.inputs.obs, experience.action, experience.reward, experience.next_obs, experience.terminated
    )


def evidence_rows(transition: Transition, use_next_obs: bool) -> Array:
    """Describes transitions [...] to an encoder: observation, action, reward, and what came of it if asked.

    No end of an episode is told: where one was cut says nothing of the task.
    """
    parts = [transition.obs, transition.action, transition.reward] + [transition.next_obs] * use_next_obs
    return jnp.concatenate([part.reshape(*transition.reward.shape, -1) for part in parts], axis=-1)


def evidence_size(spec: Spec, use_next_obs: bool) -> int:
    """Counts the numbers that `evidence_rows` describes a transition with."""
    inputs = spec.example_input()
    return inputs.obs.size * (1 + use_next_obs) + inputs.prev_action.size + 1


class Rows(NamedTuple):
    """How a transition is laid out as a row."""

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
    """Rows written so far, those that were written over included, int32 [N]."""

    @property
    def capacity(self) -> int:
        return self.rows.shape[1]

    @property
    def size(self) -> Array:
        """Rows that can be drawn, int32 [N]."""
        return jnp.minimum(self.written, self.capacity)


def transition_rows(spec: Spec) -> Rows:
    """Lays out the transitions of an environment with real actions: 2 |obs| + |action| + 2 numbers.

    Raises:
      ValueError: if an observation is not one float32 array: bytes would take four times their size.
    """
    if not spec.is_plain:
        raise ValueError(f"tasks.observation is {spec.observation}; a replay buffer keeps one float32 array")
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
    """Makes rings without a row: 4 x width bytes per transition that fits, `num_tasks` x `capacity` of them."""
    return TaskRings(jnp.zeros((num_tasks, capacity, width)), jnp.zeros(num_tasks, jnp.int32))


def write(rings: TaskRings, tasks: Array, rows: Array, valid: Array) -> TaskRings:
    """Appends rows; where a ring is full, the oldest give way.

    Args:
      tasks: whose rings, int [M], each at most once.
      rows: [M, n, D], in the order of time, n at most the capacity.
      valid: 1.0 for rows that count, [M, n].

    Raises:
      ValueError: if there are more rows than a ring holds.
    """
    if rows.shape[1] > rings.capacity:
        raise ValueError(f"{rows.shape[1]} rows were to be written to rings of {rings.capacity}")
    ahead = jnp.cumsum(valid.astype(jnp.int32), axis=1)
    place = (rings.written[tasks][:, None] + ahead - 1) % rings.capacity
    place = jnp.where(valid > 0, place, rings.capacity)  # out of bounds: dropped
    return TaskRings(
        rows=rings.rows.at[tasks[:, None], place].set(rows, mode="drop"),
        written=rings.written.at[tasks].add(ahead[:, -1]),
    )


def forget(rings: TaskRings, tasks: Array) -> TaskRings:
    """Empties the rings of some tasks, int [M]."""
    return rings.replace(written=rings.written.at[tasks].set(0))


def draw(rings: TaskRings, tasks: Array, key: Key, count: int) -> Array:
    """Draws rows uniformly, with replacement; each ring must hold at least one.

    Args:
      tasks: whose rings, int [B].

    Returns:
      [B, count, D].
    """
    index = jax.random.randint(key, (tasks.shape[0], count), 0, jnp.maximum(rings.size[tasks], 1)[:, None])
    return rings.rows[tasks[:, None], index]


def draw_beginning(rings: TaskRings, tasks: Array, key: Key, count: int) -> tuple[Array, Array]:
    """Draws for each task the oldest rows of its ring, as many as chance says: what is known after some time.

    Returns:
      Rows [B, count, D] in the order of time, and 1.0 for those drawn, [B, count]: at least one of a ring that has any.
    """
    size, written = rings.size[tasks], rings.written[tasks]
    drawn = jax.random.randint(key, size.shape, 0, jnp.maximum(jnp.minimum(size, count), 1)) + 1
    offset = jnp.arange(count)
    place = ((written - size)[:, None] + offset) % rings.capacity
    return rings.rows[tasks[:, None], place], (offset < jnp.minimum(drawn, size)[:, None]).astype(jnp.float32)


def bytes_per_transition(rows: Rows) -> int:
    """Returns what a transition takes in a ring."""
    return BYTES_PER_NUMBER * rows.width
