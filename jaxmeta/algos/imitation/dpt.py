"""Decision-pretrained agents: predict the optimal action from the experience of somebody else."""

from __future__ import annotations

import dataclasses

from jaxmeta import outer
from jaxmeta.algos.imitation.student import StudentsConfig, imitating, student
from jaxmeta.algos.recipe import recipe
from jaxmeta.core.learner import MetaLearner
from jaxmeta.references import experts
from jaxmeta.tasks.base import TaskFamily


@dataclasses.dataclass(frozen=True)
class DPTConfig(StudentsConfig):
    """DPT: in-context learning by predicting optimal actions (Lee et al., 2023, arXiv:2306.14892)."""


@recipe
def dpt(
    family: TaskFamily,
    config: DPTConfig = DPTConfig(),
    *,
    expert: outer.Expert | None = None,
    behaviour: outer.Expert | None = None,
) -> MetaLearner:
    """Builds decision pretraining (Lee et al., 2023, arXiv:2306.14892), with any sequence model.

    An agent that does not know the task acts, and the student predicts at every step, from the context so far, the
    action of an expert that knows the task. A student that minimises this loss samples from the posterior over optimal
    actions: it does posterior sampling.

    Args:
      expert: labels; by default the planner of the family.
      behaviour: acts. By default its actions are random: on bandits with random preferences in each stream, on grids
        towards one random cell after the other. It must not observe the task, which its actions would reveal.

    Raises:
      ValueError: if no expert is given and the family has no planner, or if the behaviour observes the task.
    """
    behaviour = behaviour or experts.blind_behaviour(family)
    if behaviour.observe is not None:
        raise ValueError("behaviour observes the task; the contexts of DPT must come from an agent that does not")
    learner = student(family, config)
    roles = outer.relabelling(behaviour, expert or experts.planner(family))
    return imitating(learner, family, config, outer.labelled(roles, family, config.plan(family)))
