"""Implicit MAML: adapt for as long as it takes, and differentiate at the end instead of along the way."""

from __future__ import annotations

import dataclasses

from jaxmeta import inner
from jaxmeta.algos.gradient import few_shot
from jaxmeta.algos.gradient.gradient_steps import GradientStepsConfig, improved
from jaxmeta.algos.gradient.update_rule import ImplicitConfig
from jaxmeta.algos.recipe import recipe
from jaxmeta.core.learner import MetaLearner
from jaxmeta.tasks.base import TaskFamily


@dataclasses.dataclass(frozen=True)
class IMAMLConfig(ImplicitConfig, GradientStepsConfig):
    """MAML with implicit gradients (Rajeswaran et al., 2019, arXiv:1909.04630)."""

    def __post_init__(self):
        super().__post_init__()
        if self.first_order:
            raise ValueError("first_order is True; no derivative is taken through the steps (try cg_iterations 0)")
        if self.inner_objective == "dice":
            raise ValueError("inner_objective is 'dice'; it has derivatives, but no minimum (try ratio)")


@few_shot.also(few_shot.imaml)
@recipe
def imaml(family: TaskFamily, config: IMAMLConfig = IMAMLConfig()) -> MetaLearner:
    """Builds MAML that adapts by φ = argmin L(φ) + λ/2 |φ - θ|², whose Jacobian is (I + ∇²L(φ) / λ)⁻¹ at the minimum.

    The inner loss is the ratio by default: after its first step the policy is no longer the one that acted.
    """
    policy = config.policy(family)
    loss = inner.policy_loss(policy, config.objective(), config.advantage())
    return improved(config.settling(policy, loss), family, config)
