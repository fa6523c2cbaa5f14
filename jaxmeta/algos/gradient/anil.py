"""ANIL: almost no inner loop, only the last layer adapts."""

from __future__ import annotations

import dataclasses

from jaxmeta import inner
from jaxmeta.algos.gradient import few_shot
from jaxmeta.algos.gradient.gradient_steps import GradientStepsConfig, by_gradient_steps
from jaxmeta.algos.recipe import recipe
from jaxmeta.core.learner import MetaLearner
from jaxmeta.tasks.base import TaskFamily


@dataclasses.dataclass(frozen=True)
class ANILConfig(GradientStepsConfig):
    """MAML whose last layer alone adapts (Raghu et al., 2020, arXiv:1909.09157)."""


@few_shot.also(few_shot.anil)
@recipe
def anil(family: TaskFamily, config: ANILConfig = ANILConfig()) -> MetaLearner:
    """Builds MAML whose step changes the action head; the layers below are the same for all tasks."""
    return by_gradient_steps(config.policy(family), inner.adapt_only(config.rule(), "head"), family, config)
