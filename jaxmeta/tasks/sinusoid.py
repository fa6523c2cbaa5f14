"""Sine waves of unknown amplitude and phase (Finn et al., 2017, arXiv:1703.03400)."""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp
from flax import struct

from jaxmeta.config import checks
from jaxmeta.tasks.base import TaskFamily, flatten_task
from jaxmeta.tasks.few_shot import FewShot, FewShotTask
from jaxmeta.types import Array, Examples

MIN_AMPLITUDE, MAX_AMPLITUDE = 0.1, 5.0
MAX_INPUT = 5.0


@dataclasses.dataclass(frozen=True)
class SinusoidConfig:
    """`sinusoid`: y = A sin(x - φ) from a few points; A uniform in [0.1, 5], x in [-5, 5], φ in [0, π]."""

    shots: int = 10
    """Points in the support set."""
    queries: int = 10
    """Points in the query set, sampled independently of the support set."""
    max_phase: float = math.pi
    """Phases are uniform in [0, max_phase]; 2π in Reptile."""
    rare: float = 0.0
    """Share of rare waves, whose phases are uniform in [max_phase, 2 max_phase] instead."""

    def __post_init__(self):
        checks.task_sizes(self, shots="a support needs at least 1 example", queries="a query needs at least 1 example")
        if not self.max_phase >= 0:
            raise ValueError(f"tasks.max_phase is {self.max_phase}; it must not be negative")
        if not 0 <= self.rare <= 1:
            raise ValueError(f"tasks.rare is {self.rare}; it must lie in [0, 1], as it is a share")


class Sinusoid(struct.PyTreeNode):
    """A sine wave."""

    amplitude: Array
    phase: Array

    def __call__(self, x: Array) -> Array:
        """Computes y at any x."""
        return self.amplitude * jnp.sin(x - self.phase)


def sinusoid(config: SinusoidConfig = SinusoidConfig()) -> TaskFamily:
    """Builds the family of sine waves: regression from one number to one."""

    def sample(key):
        # a single call: on a CPU its overhead exceeds the cost of the samples
        draws = jax.random.uniform(key, (2 + config.shots + config.queries,))
        amplitude = MIN_AMPLITUDE + (MAX_AMPLITUDE - MIN_AMPLITUDE) * draws[0]
        generator = Sinusoid(amplitude, config.max_phase * _with_rare(draws[1], config.rare))
        x = MAX_INPUT * (2.0 * draws[2:, None] - 1.0)
        support, query = (Examples(part, generator(part)) for part in (x[: config.shots], x[config.shots :]))
        return FewShotTask(support, query, generator)

    env = FewShot(config.shots, config.queries, size=1, outputs=1)
    return TaskFamily(env, sample, sample, lambda task: flatten_task(task.generator))


def _with_rare(draw: Array, rare: float) -> Array:
    """Maps a uniform draw in [0, 1) to a uniform one in [0, 1), or with probability `rare` in [1, 2)."""
    if rare in (0.0, 1.0):
        return draw + rare if rare else draw
    common = 1.0 - rare
    return jnp.where(draw < common, draw / common, 1.0 + (draw - common) / rare)
