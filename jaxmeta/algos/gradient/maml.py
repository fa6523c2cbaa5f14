"""MAML: learn initial params from which a gradient step adapts well."""

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
    """Builds MAML (Finn et al., 2017, arXiv:1703.03400).

    An update samples tasks. On each it collects experience with θ, takes a gradient step to θ', and collects experience
    with θ'. The outer loop improves the returns of the θ' by differentiating through the step. On supervised tasks the
    inner step is on the support set and the outer loss on the query set.
    """
    policy, loss = config.problem(family)
    learner = config.descent(policy, loss, config.rule())
    return config.meta_train(learner, family)
