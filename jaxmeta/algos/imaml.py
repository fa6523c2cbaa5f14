"""Implicit MAML: adapt for as long as it takes, and differentiate at the end instead of along the way."""

from __future__ import annotations

import dataclasses

from jaxmeta import checks, inner
from jaxmeta.algos import few_shot
from jaxmeta.algos.gradient_steps import GradientStepsConfig, improved
from jaxmeta.core.learner import MetaLearner
from jaxmeta.tasks.base import TaskFamily


@dataclasses.dataclass(frozen=True)
class IMAMLConfig(GradientStepsConfig):
    """MAML with implicit gradients (Rajeswaran et al., 2019, arXiv:1909.04630)."""

    inner_steps: int = 5
    """Gradient steps on the data of every round; memory does not depend on them."""
    strength: float = 2.0
    """λ: weight of half the squared distance from where the policy was before the round."""
    cg_iterations: int = 5
    """Products with the Hessian of the inner loss for each meta-gradient; 0 is to first order."""
    damping: float = 0.0
    """What λ is raised by in a meta-gradient, against negative curvature; the larger, the nearer to first order."""

    def __post_init__(self):
        super().__post_init__()
        self.check_not_differentiated()
        checks.at_least_one(self, "inner_steps")
        checks.positive(self, "strength")
        checks.not_negative(self, "damping")
        checks.not_negative(self, "cg_iterations")
        if self.first_order:
            raise ValueError("first_order is True; no derivative is taken through the steps (try cg_iterations 0)")
        self.check_arrives()


@few_shot.also(few_shot.imaml)
def imaml(family: TaskFamily, config: IMAMLConfig = IMAMLConfig()) -> MetaLearner:
    """Builds MAML that adapts by φ = argmin L(φ) + λ/2 |φ - θ|², whose Jacobian is (I + ∇²L(φ) / λ)⁻¹ at the minimum.

    The inner loss is the ratio by default: after its first step the policy is no longer the one that acted.
    """
    policy, updater = config.policy(family), config.within_bounds(config.rule())
    loss = inner.policy_loss(policy, config.objective(), config.advantage())
    learner = inner.implicit(
        policy, loss, updater, config.inner_steps, config.strength, config.cg_iterations, config.damping
    )
    return improved(learner, family, config)
