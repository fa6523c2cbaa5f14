"""MAML: learn the params from which one policy-gradient step adapts best."""

from __future__ import annotations

import dataclasses

from jaxmeta.algos.gradient import few_shot
from jaxmeta.algos.gradient.gradient_steps import GradientStepsConfig, by_gradient_steps
from jaxmeta.algos.recipe import recipe
from jaxmeta.core.learner import MetaLearner
from jaxmeta.tasks.base import TaskFamily


@dataclasses.dataclass(frozen=True)
class MAMLConfig(GradientStepsConfig):
    """Model-agnostic meta-learning: adapt by policy-gradient steps (Finn et al., 2017, arXiv:1703.03400)."""


@few_shot.also(few_shot.maml)
@recipe
def maml(family: TaskFamily, config: MAMLConfig = MAMLConfig()) -> MetaLearner:
    """Builds MAML for reinforcement learning, with a linear baseline fitted per task and round.

    Every update: sample tasks; on each, roll out θ, take a policy-gradient step to θ', roll out θ'; move θ so that the
    returns of the θ' rise, through the step.
    """
    return by_gradient_steps(config.policy(family), config.rule(), family, config)
