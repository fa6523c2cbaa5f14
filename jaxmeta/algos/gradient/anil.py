"""ANIL: MAML that adapts only the last layer."""

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
    """MAML that adapts only the last layer (Raghu et al., 2020, arXiv:1909.09157)."""


@dataclasses.dataclass(frozen=True)
class FewShotANILConfig(OnQueryConfig, DifferentiatedConfig):
    """ANIL on supervised tasks (Raghu et al., 2020, arXiv:1909.09157)."""

    inner_lr: float = 0.1


@recipe(supervised=FewShotANILConfig)
def anil(family: TaskFamily, config: ANILConfig | FewShotANILConfig = ANILConfig()) -> MetaLearner:
    """Builds MAML whose inner step adapts only the output layer; the layers below are shared by all tasks."""
    policy, loss = config.problem(family)
    learner = config.descent(policy, loss, inner.adapt_only(config.rule(), "head"))
    return config.meta_train(learner, family)
