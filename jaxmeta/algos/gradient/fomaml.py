"""First-order MAML: uses the gradient at the adapted params as the meta-gradient."""

from __future__ import annotations

import dataclasses

from jaxmeta import inner
from jaxmeta.algos.gradient.few_shot import OnQueryConfig
from jaxmeta.algos.gradient.gradient_steps import OuterLoopConfig
from jaxmeta.algos.recipe import recipe
from jaxmeta.core.learner import MetaLearner
from jaxmeta.tasks.base import TaskFamily


@dataclasses.dataclass(frozen=True)
class FOMAMLConfig(OuterLoopConfig):
    """MAML without second derivatives (Finn et al., 2017, arXiv:1703.03400)."""


@dataclasses.dataclass(frozen=True)
class FewShotFOMAMLConfig(OnQueryConfig):
    """MAML without second derivatives on supervised tasks (Finn et al., 2017, arXiv:1703.03400)."""


@recipe(supervised=FewShotFOMAMLConfig)
def fomaml(family: TaskFamily, config: FOMAMLConfig | FewShotFOMAMLConfig = FOMAMLConfig()) -> MetaLearner:
    """Builds MAML that treats the inner gradient as a constant: θ moves along -∇L(θ')."""
    policy, loss = config.problem(family)
    learner = inner.descent(policy, loss, inner.first_order(config.rule()))
    return config.meta_train(learner, family)
