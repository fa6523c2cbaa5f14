"""ANIL: almost no inner loop, only the last layer adapts."""

from __future__ import annotations

import dataclasses

from jaxmeta import inner
from jaxmeta.algos.gradient.few_shot import OnQueryConfig
from jaxmeta.algos.gradient.gradient_steps import SecondOrderConfig
from jaxmeta.algos.gradient.update_rule import DifferentiatedConfig
from jaxmeta.algos.recipe import recipe
from jaxmeta.core.learner import MetaLearner
from jaxmeta.tasks.base import TaskFamily


@dataclasses.dataclass(frozen=True)
class ANILConfig(SecondOrderConfig):
    """MAML whose last layer alone adapts (Raghu et al., 2020, arXiv:1909.09157)."""


@dataclasses.dataclass(frozen=True)
class FewShotANILConfig(OnQueryConfig, DifferentiatedConfig):
    """ANIL on supervised tasks (Raghu et al., 2020, arXiv:1909.09157)."""

    inner_lr: float = 0.1


@recipe(supervised=FewShotANILConfig)
def anil(family: TaskFamily, config: ANILConfig | FewShotANILConfig = ANILConfig()) -> MetaLearner:
    """Builds MAML whose step changes the head alone; the layers below are the same for all tasks."""
    policy, loss = config.problem(family)
    learner = config.descent(policy, loss, inner.adapt_only(config.rule(), "head"))
    return config.meta_train(learner, family)
