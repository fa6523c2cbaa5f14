"""Near and far: new tasks that are similar to hard ones, and new tasks that are similar to none."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from jaxmeta import devices
from jaxmeta.config import checks
from jaxmeta.core import guard
from jaxmeta.core.learner import MetaLearner
from jaxmeta.outer.meta_update import Draw, Sampler
from jaxmeta.outer.samplers.buffer import REPLAY, num_replayed, rank_weights, without_replacement
from jaxmeta.outer.samplers.prioritised import PrioritisedConfig, rating
from jaxmeta.tasks.base import TaskFamily
from jaxmeta.types import Array, Key, Metrics, Params, Task

Embedding = Callable[[Task], Array]
"""Maps a task, unbatched, to a vector: the smaller the distance, the more similar two tasks are."""


@dataclasses.dataclass(frozen=True)
class NearFarConfig:
    """Draw some new tasks near to known hard ones, and some far from all known ones, by a measure of similarity."""

    near: float = 0.25
    """Share of tasks near to a known one, which is drawn by the rank of its score as in PLR."""
    far: float = 0.25
    """Share of tasks far from all known ones. The other tasks are drawn from the family's distribution."""
    candidates: int = 16
    """Tasks that are proposed for each of these, from the family's distribution; the nearest or farthest is taken."""
    size: int = 512
    """Number of known tasks: the last ones that were trained on."""
    temperature: float = 0.3
    """β: the probability to be drawn is proportional to rank^(-1/β)."""

    def __post_init__(self):
        checks.finite(self)
        checks.at_least_one(self, "candidates", "size")
        checks.fraction(self, "near", "far")
        checks.positive(self, "temperature")
        if not 0 < self.near + self.far < 1:
            raise ValueError(f"near is {self.near} and far {self.far}; their sum must lie between 0 and 1")


class Known(struct.PyTreeNode):
    """The last tasks that were trained on, as a ring."""

    place: Array
    """Their embeddings, [B, D]."""
    score: Array
    """[B]."""
    full: Array
    """Bool [B]."""
    next: Array
    """The row to be written next, int32 scalar."""


def near_and_far(
    family: TaskFamily,
    meta: MetaLearner,
    config: NearFarConfig = NearFarConfig(),
    embedding: Embedding | None = None,
) -> Sampler:
    """Builds the near and far sampler for a meta-learner: pass the result to `outer.with_sampler`.

    Args:
      embedding: similarity as a map of tasks to vectors; by default the family's encoding.

    Raises:
      ValueError: if fewer tasks are known than an update has near ones.
    """
    embed, num_tasks, size = embedding or family.encode, meta.info.num_tasks, config.size
    near, far = _positions(num_tasks, config)
    rate = rating(family, meta, PrioritisedConfig(temperature=config.temperature))
    if size < num_tasks:
        raise ValueError(f"size is {size}; the sampler must remember the {num_tasks} tasks of an update")

    def init(key: Key) -> Known:
        width = jax.eval_shape(lambda key: embed(family.sample(key)), key).shape[0]
        return Known(jnp.zeros((size, width)), jnp.zeros(size), jnp.zeros(size, bool), jnp.zeros((), jnp.int32))

    def propose(keys: Key) -> Task:
        return jax.vmap(lambda key: jax.vmap(family.sample)(jax.random.split(key, config.candidates)))(keys)

    def sample(known: Known, params: Params, keys: Key) -> tuple[Known, Draw]:
        weight = rank_weights(known.score, known.full, config.temperature)
        rows, _ = without_replacement(jax.random.fold_in(keys[0], REPLAY), weight, len(near))
        tasks = devices.map_tasks(family.sample, keys)
        for places, distances in (
            (near, lambda places: jnp.linalg.norm(places - known.place[rows][:, None], axis=-1)),
            (far, lambda places: -_to_nearest(known, places)),
        ):
            if len(places):
                proposed = propose(keys[places])
                chosen = _nearest(known, proposed, distances(jax.vmap(jax.vmap(embed))(proposed)))
                tasks = jax.tree.map(lambda all, some, places=places: all.at[places].set(some), tasks, chosen)
        return known, Draw(tasks, jnp.full(num_tasks, -1, jnp.int32), jnp.ones(num_tasks))

    def update(known: Known, draw: Draw, measures: Any, finite: Array) -> tuple[Known, Metrics]:
        draw, measures, finite = devices.replicated((draw, measures, finite))
        finite &= guard.is_finite(measures, leading=1)
        score, _, _ = rate.first(known, draw.tasks, measures)  # pyright: ignore[reportArgumentType]  reads no buffer
        score, place = jnp.where(finite, score, 0.0), jax.vmap(embed)(draw.tasks)
        distance = jnp.where(known.full.any(), _to_nearest(known, place), 0.0)
        known = devices.replicated(_remember(known, place, score, finite))
        metrics = {"sampler/score": jnp.sum(score) / jnp.maximum(finite.sum(), 1), "sampler/replayed": jnp.zeros(())}
        for name, places in (("near", near), ("far", far)):
            if len(places):
                metrics[f"sampler/distance_{name}"] = distance[places].mean()
        return known, metrics

    return Sampler(init, sample, rate.measure, update)


def _nearest(known: Known, tasks: Task, distance: Array) -> Task:
    """Returns the candidate with the least distance [M, C] among tasks [M, C, ...]; the first if none is known."""
    best = jnp.where(known.full.any(), jnp.argmin(distance, axis=1), 0)
    return jax.tree.map(lambda leaf: jax.vmap(lambda some, index: some[index])(leaf, best), tasks)


def _remember(known: Known, place: Array, score: Array, finite: Array) -> Known:
    """Overwrites the oldest rows; the row of a task that was not finite becomes empty."""
    size, count = len(known.full), len(finite)
    row = (known.next + jnp.arange(count)) % size
    return Known(
        known.place.at[row].set(place, unique_indices=True),
        known.score.at[row].set(score, unique_indices=True),
        known.full.at[row].set(finite, unique_indices=True),
        (known.next + count) % size,
    )


def _to_nearest(known: Known, places: Array) -> Array:
    """Computes the distances of embeddings [..., D] to the nearest known task, [...]; 0 if none is known."""
    squares = jnp.sum(jnp.square(places[..., None, :] - known.place), -1)
    nearest = jnp.sqrt(jnp.min(jnp.where(known.full, squares, jnp.inf), -1))
    return jnp.where(known.full.any(), nearest, 0.0)


def _positions(num_tasks: int, config: NearFarConfig) -> tuple[np.ndarray, np.ndarray]:
    """Returns the positions of near and of far tasks in an update, spread evenly."""
    count = num_replayed(num_tasks, config.near + config.far)
    near = round(count * config.near / (config.near + config.far))
    spread = np.round(np.arange(count) * num_tasks / count).astype(int)
    is_near = np.zeros(count, bool)
    is_near[np.round(np.arange(near) * count / max(near, 1)).astype(int)] = True
    return spread[is_near], spread[~is_near]
