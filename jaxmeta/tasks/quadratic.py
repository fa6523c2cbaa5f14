"""Minimisation of random quadratic functions (Andrychowicz et al., 2016, arXiv:1606.04474)."""

from __future__ import annotations

import dataclasses

import jax

from jaxmeta.config import checks
from jaxmeta.tasks.base import TaskFamily, flatten_task
from jaxmeta.tasks.few_shot import FewShot, FewShotTask
from jaxmeta.types import Examples


@dataclasses.dataclass(frozen=True)
class QuadraticConfig:
    """`quadratic`: minimise |W θ - y|² / dimensions, with the entries of W and y uniform in [0, 1]."""

    dimensions: int = 10
    """Length of θ and of y."""

    def __post_init__(self):
        checks.task_sizes(self, dimensions="a function needs at least 1 dimension")


def quadratic(config: QuadraticConfig = QuadraticConfig()) -> TaskFamily:
    """Builds the family of quadratics, as linear regressions.

    Support and query set are the same: the objective is the value of the function, not generalisation.
    """
    size = config.dimensions

    def sample(key):
        draws = jax.random.uniform(key, (size, size + 1))
        rows = Examples(draws[:, :-1], draws[:, -1:])
        return FewShotTask(support=rows, query=rows, generator=())

    env = FewShot(shots=size, queries=size, size=size, outputs=1)
    return TaskFamily(env, sample, sample, lambda task: flatten_task(task.support))
