"""Meta-SGD: MAML that also learns a step size for each parameter."""

from __future__ import annotations

import dataclasses
from typing import Literal

from jaxmeta.algos.gradient.few_shot import OnQueryConfig
from jaxmeta.algos.gradient.gradient_steps import SecondOrderConfig
from jaxmeta.algos.gradient.update_rule import DifferentiatedConfig
from jaxmeta.algos.recipe import recipe
from jaxmeta.core.learner import MetaLearner
from jaxmeta.tasks.base import TaskFamily


@dataclasses.dataclass(frozen=True)
class MetaSGDConfig(SecondOrderConfig):
    """MAML with learned step sizes (Li et al., 2017, arXiv:1707.09835), which are `inner_lr` at first."""

    inner_optimizer: Literal["per-parameter"] = "per-parameter"
    """What takes the steps of the adaptation: gradient descent with a learned step size for every parameter."""


@dataclasses.dataclass(frozen=True)
class FewShotMetaSGDConfig(OnQueryConfig, DifferentiatedConfig):
    """Meta-SGD on supervised tasks (Li et al., 2017, arXiv:1707.09835)."""

    inner_optimizer: Literal["per-parameter"] = "per-parameter"
    """What takes the steps of the adaptation: gradient descent with a learned step size for every parameter."""


@recipe(supervised=FewShotMetaSGDConfig)
def meta_sgd(family: TaskFamily, config: MetaSGDConfig | FewShotMetaSGDConfig = MetaSGDConfig()) -> MetaLearner:
    """Builds an agent that adapts by θ' = θ - α ⊙ ∇L(θ); the outer loop improves both θ and α."""
    policy, loss = config.problem(family)
    learner = config.descent(policy, loss, config.rule())
    return config.meta_train(learner, family)
