"""Behaviour cloning: maximise the likelihood of demonstrated actions."""

from __future__ import annotations

import dataclasses

from jaxmeta import outer
from jaxmeta.algos.imitation.student import StudentsConfig, imitating, student
from jaxmeta.algos.recipe import recipe
from jaxmeta.core.learner import MetaLearner
from jaxmeta.references import experts
from jaxmeta.tasks.base import TaskFamily


@dataclasses.dataclass(frozen=True)
class CloneConfig(StudentsConfig):
    """Behaviour cloning of demonstrations (Pomerleau, 1991): stored ones, or new ones of an expert."""


@recipe
def clone(
    family: TaskFamily, config: CloneConfig = CloneConfig(), *, expert: outer.Expert | None = None
) -> MetaLearner:
    """Builds behaviour cloning (Pomerleau, 1991).

    It learns from the demonstrations that are passed to `update` as data:

        meta = jm.clone(family)
        state = jm.train(meta, jm.init_state(meta, key), 1000, data=jm.Demonstrations.load(path, family.env.spec))

    Without data the expert, which may know the task, demonstrates on new tasks in every update. A student with memory
    then learns from the expert's actions what the task is.

    Args:
      expert: demonstrates where there is no data; by default the planner of the family, if it has one.
    """
    learner = student(family, config)
    if expert is None:
        expert = experts.planner_or_none(family)
    fresh = None if expert is None else outer.labelled(outer.cloning(expert), family, config.plan(family))
    return imitating(learner, family, config, outer.stored(family, fresh, config.longest(family)))
