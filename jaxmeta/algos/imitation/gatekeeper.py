"""Self-imitation of the best trials: select, clone, repeat."""

from __future__ import annotations

import dataclasses

from jaxmeta import outer
from jaxmeta.algos.imitation.student import StudentsConfig, imitating, student
from jaxmeta.algos.recipe import recipe
from jaxmeta.config import checks
from jaxmeta.core.learner import MetaLearner
from jaxmeta.tasks.base import TaskFamily
from jaxmeta.types import Plan


@dataclasses.dataclass(frozen=True)
class GatekeeperConfig(StudentsConfig):
    """Gatekeeper: clone the best of the student's own trials, without an expert."""

    streams: int = 16
    """Trials on each task."""
    best: int = 4
    """Number of those, with the highest returns, that the student imitates."""
    imitation: outer.ImitationConfig = outer.ImitationConfig(steps=5)
    """The optimiser; `steps` is the number of gradient steps per update."""
    kept_rounds: int = 1
    """Updates whose best trials are kept to learn from."""

    def __post_init__(self):
        super().__post_init__()
        checks.at_least_one(self, "streams", "best", "kept_rounds")
        if self.best > self.streams:
            raise ValueError(f"best is {self.best}; it must be at most streams, which is {self.streams}")

    def plan(self, family: TaskFamily) -> Plan:
        return dataclasses.replace(super().plan(family), streams=self.streams)


@recipe
def gatekeeper(family: TaskFamily, config: GatekeeperConfig = GatekeeperConfig()) -> MetaLearner:
    """Builds self-imitation: the student acts, and imitates its streams with the highest returns on each task.

    Selection by the return makes it a policy-gradient method with weights 0 and 1, close to the cross-entropy method
    (Mannor et al., 2003) and to filtered behaviour cloning. On stochastic tasks it prefers lucky streams.
    """
    learner, plan = student(family, config), config.plan(family)
    roles = outer.selecting(learner, config.best)
    source = outer.aggregated(roles, family, plan, learner, config.num_tasks, config.kept_rounds)
    return imitating(learner, family, config, source, outer.recalled(config.imitation.steps))
