"""Implicit MAML: many proximal inner steps, differentiated implicitly at the solution."""

from __future__ import annotations

import dataclasses
from typing import Literal

from jaxmeta import rl
from jaxmeta.algos.gradient.few_shot import OnQueryConfig
from jaxmeta.algos.gradient.gradient_steps import OuterLoopConfig
from jaxmeta.algos.gradient.update_rule import ImplicitConfig
from jaxmeta.algos.recipe import recipe
from jaxmeta.core.learner import MetaLearner
from jaxmeta.tasks.base import TaskFamily


@dataclasses.dataclass(frozen=True)
class IMAMLConfig(ImplicitConfig, OuterLoopConfig):
    """MAML with implicit gradients (Rajeswaran et al., 2019, arXiv:1909.04630)."""

    inner_objective: Literal["ratio", "log_prob"] = "ratio"
    """Form of the inner loss. The ratio corrects for the policy's changes after the first inner step. There is no dice,
    as its value has no minimum."""

    def objective(self) -> rl.Objective:
        """Returns the form of the inner loss."""
        return rl.ratio if self.inner_objective == "ratio" else rl.log_prob


@dataclasses.dataclass(frozen=True)
class FewShotIMAMLConfig(ImplicitConfig, OnQueryConfig):
    """Implicit MAML on supervised tasks (Rajeswaran et al., 2019, arXiv:1909.04630)."""

    inner_lr: float = 0.005
    inner_steps: int = 32
    damping: float = 20.0


@recipe(supervised=FewShotIMAMLConfig)
def imaml(family: TaskFamily, config: IMAMLConfig | FewShotIMAMLConfig = IMAMLConfig()) -> MetaLearner:
    """Builds MAML that adapts by φ = argmin L(φ) + λ/2 |φ - θ|².

    The meta-gradient uses the Jacobian dφ/dθ at the minimum, (I + ∇²L(φ) / λ)⁻¹, by conjugate gradient.
    """
    policy, loss = config.problem(family)
    learner = config.proximal_descent(policy, loss)
    return config.meta_train(learner, family)
