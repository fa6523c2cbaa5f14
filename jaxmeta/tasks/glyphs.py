"""Few-shot classification of procedurally generated glyphs: every class is a random letter of strokes."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from jaxmeta.config import checks
from jaxmeta.tasks.base import TaskFamily, flatten_task
from jaxmeta.tasks.few_shot import FewShot, FewShotTask
from jaxmeta.types import Array, Examples, Key

POINTS = 12
"""Number of dots along a stroke."""
INK = 0.045
"""Radius of a dot, in units of the image width."""


@dataclasses.dataclass(frozen=True)
class GlyphsConfig:
    """`glyphs`: few-shot classification of new letters. A letter is a few curved strokes; every image varies them."""

    ways: int = 5
    """Classes per task."""
    shots: int = 1
    """Examples per class in the support set."""
    queries: int = 5
    """Examples per class in the query set."""
    pixels: int = 14
    """Width and height of an image, in pixels."""
    strokes: int = 3
    """Strokes per letter."""
    variation: float = 1.0
    """Variation within a class, 0 for none; 1 rotates by ±15°, shifts and scales by ±10 %, and jitters the strokes."""

    def __post_init__(self):
        need = "a task needs at least 1 of them"
        checks.task_sizes(self, ways=need, shots=need, queries=need, pixels=need, strokes=need)
        if not self.variation >= 0:
            raise ValueError(f"tasks.variation is {self.variation}; it must not be negative")


def glyphs(config: GlyphsConfig = GlyphsConfig()) -> TaskFamily:
    """Builds the family of tasks with random letters; held-out tasks have new letters."""
    ways, each = config.ways, config.shots + config.queries

    def sample(key: Key) -> FewShotTask:
        letter_key, *keys, order_key = jax.random.split(key, 2 + ways)
        # quadratic Bézier curves, each with three control points
        letters = jax.random.uniform(letter_key, (ways, config.strokes, 3, 2), minval=0.15, maxval=0.85)
        pictures = jax.vmap(lambda letter, key: _write(letter, key, each, config))(letters, jnp.stack(keys))
        labels = jnp.broadcast_to(jnp.eye(ways)[:, None], (ways, each, ways))

        def part(members: slice, order_key: Key) -> Examples:
            rows = [leaf[:, members].reshape(-1, leaf.shape[-1]) for leaf in (pictures, labels)]
            # shuffled, as Reptile splits them into minibatches
            order = jax.random.permutation(order_key, len(rows[0]))
            return Examples(*(leaf[order] for leaf in rows))

        support_key, query_key = jax.random.split(order_key)
        return FewShotTask(
            part(slice(config.shots), support_key), part(slice(config.shots, None), query_key), generator=letters
        )

    env = FewShot(ways * config.shots, ways * config.queries, config.pixels**2, ways, "classification")
    return TaskFamily(env, sample, sample, lambda task: flatten_task(task.generator))


def _write(letter: Array, key: Key, number: int, config: GlyphsConfig) -> Array:
    """Draws variations of a letter [strokes, 3, 2] as images [number, pixels²]."""
    shake_key, *keys = jax.random.split(key, 4)
    size = config.variation
    turn, grow, shift = (
        size * scale * jax.random.uniform(key, (number, *shape), minval=-1.0)
        for key, scale, shape in zip(keys, (0.26, 0.1, 0.1), ((), (), (2,)), strict=True)
    )
    shaken = letter[None] - 0.5 + size * 0.02 * jax.random.normal(shake_key, (number, *letter.shape))
    cos, sin = jnp.cos(turn) * (1.0 + grow), jnp.sin(turn) * (1.0 + grow)
    rotation = jnp.stack([jnp.stack([cos, -sin], -1), jnp.stack([sin, cos], -1)], -2)
    moved = jnp.einsum("nij,nspj->nspi", rotation, shaken) + shift[:, None, None] + 0.5
    return jax.vmap(lambda curves: _ink(curves, config.pixels))(moved)


def _ink(curves: Array, pixels: int) -> Array:
    """Draws quadratic Bézier curves [strokes, 3, 2] as an image [pixels²], white 0, black 1."""
    time = jnp.linspace(0.0, 1.0, POINTS)[:, None]
    weights = jnp.concatenate([(1 - time) ** 2, 2 * time * (1 - time), time**2], axis=1)
    dots = jnp.einsum("tp,spi->sti", weights, curves).reshape(-1, 2)
    middle = (jnp.arange(pixels, dtype=jnp.float32) + 0.5) / pixels
    # Gaussian dots are separable, so that all dots together are one matrix product
    along = jnp.exp(-0.5 * jnp.square((middle[:, None, None] - dots[None]) / INK))
    return (1.0 - jnp.exp(-along[..., 1] @ along[..., 0].T)).reshape(-1)
