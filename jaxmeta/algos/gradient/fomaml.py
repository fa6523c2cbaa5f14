"""First-order MAML: the gradient at the adapted params is taken for the meta-gradient."""

from __future__ import annotations

import dataclasses

from jaxmeta.algos.gradient.gradient_steps import GradientStepsConfig, by_gradient_steps
from jaxmeta.algos.recipe import recipe
from jaxmeta.core.learner import MetaLearner
from jaxmeta.tasks.base import TaskFamily


@dataclasses.dataclass(frozen=True)
class FOMAMLConfig(GradientStepsConfig):
    """MAML without second derivatives (Finn et al., 2017, arXiv:1703.03400)."""

    first_order: bool = True

    def __post_init__(self):
        super().__post_init__()
        if not self.first_order:
            raise ValueError("first_order is False; this algorithm is MAML with it (try maml)")


@recipe
def fomaml(family: TaskFamily, config: FOMAMLConfig = FOMAMLConfig()) -> MetaLearner:
    """Builds MAML whose meta-gradient does not see that the step depends on the params: ∇L(θ') moves θ."""
    return by_gradient_steps(config.policy(family), config.rule(), family, config)
