"""Meta-SGD: learn, beside the params to start from, a step size for each of them."""

from __future__ import annotations

import dataclasses
from typing import Literal

from jaxmeta.algos.gradient import few_shot
from jaxmeta.algos.gradient.gradient_steps import GradientStepsConfig, by_gradient_steps
from jaxmeta.algos.recipe import recipe
from jaxmeta.config import checks
from jaxmeta.core.learner import MetaLearner
from jaxmeta.tasks.base import TaskFamily


@dataclasses.dataclass(frozen=True)
class MetaSGDConfig(GradientStepsConfig):
    """MAML with learned step sizes (Li et al., 2017, arXiv:1707.09835), which are `inner_lr` at first."""

    inner_optimizer: Literal["per-parameter"] = "per-parameter"

    def __post_init__(self):
        super().__post_init__()
        checks.choice(self, "inner_optimizer", "per-parameter")


@few_shot.also(few_shot.meta_sgd)
@recipe
def meta_sgd(family: TaskFamily, config: MetaSGDConfig = MetaSGDConfig()) -> MetaLearner:
    """Builds an agent that adapts by θ' = θ - α ⊙ ∇L(θ); the outer loop improves θ and α alike."""
    return by_gradient_steps(config.policy(family), config.rule(), family, config)
