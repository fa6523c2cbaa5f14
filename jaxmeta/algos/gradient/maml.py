"""MAML: learn the params from which one gradient step adapts best."""

from __future__ import annotations

import dataclasses

from jaxmeta.algos.gradient.few_shot import OnQueryConfig
from jaxmeta.algos.gradient.gradient_steps import SecondOrderConfig
from jaxmeta.algos.gradient.update_rule import DifferentiatedConfig
from jaxmeta.algos.recipe import recipe
from jaxmeta.core.learner import MetaLearner
from jaxmeta.tasks.base import TaskFamily


@dataclasses.dataclass(frozen=True)
class MAMLConfig(SecondOrderConfig):
    """Model-agnostic meta-learning: adapt by policy-gradient steps (Finn et al., 2017, arXiv:1703.03400)."""


@dataclasses.dataclass(frozen=True)
class FewShotMAMLConfig(OnQueryConfig, DifferentiatedConfig):
    """MAML on supervised tasks (Finn et al., 2017, arXiv:1703.03400)."""


@recipe(supervised=FewShotMAMLConfig)
def maml(family: TaskFamily, config: MAMLConfig | FewShotMAMLConfig = MAMLConfig()) -> MetaLearner:
    """Builds MAML.

    Every update: sample tasks; on each, collect with θ, take a gradient step to θ', collect with θ'; move θ so that
    the θ' do better, through the step. On supervised tasks the step is on the support and what counts is the query.
    """
    policy, loss = config.problem(family)
    learner = config.descent(policy, loss, config.rule())
    return config.meta_train(learner, family)
