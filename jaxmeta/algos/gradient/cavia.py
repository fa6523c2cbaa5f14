"""CAVIA: a few inputs of the policy adapt, and its weights are the same for all tasks."""

from __future__ import annotations

import dataclasses

from jaxmeta import inner, nets
from jaxmeta.algos.gradient import few_shot
from jaxmeta.algos.gradient.gradient_steps import GradientStepsConfig, by_gradient_steps
from jaxmeta.algos.recipe import recipe
from jaxmeta.config import checks
from jaxmeta.core.learner import Learner, MetaLearner
from jaxmeta.tasks.base import TaskFamily


@dataclasses.dataclass(frozen=True)
class CAVIAConfig(GradientStepsConfig):
    """Fast context adaptation (Zintgraf et al., 2019, arXiv:1810.03642)."""

    inner_lr: float = 1.0
    context: int = 5
    """Numbers that adapt."""

    def __post_init__(self):
        super().__post_init__()
        checks.at_least_one(self, "context")

    def policy(self, family: TaskFamily) -> Learner:
        """Builds what adapts: a policy that also sees a context, which is all zero when a task begins."""

        def network(spec):
            return nets.actor_critic(spec, self.hidden, self.activation, self.init_log_std, self.action_scale)

        return inner.policy(nets.with_context(network, family.env.spec, self.context))


@few_shot.also(few_shot.cavia)
@recipe
def cavia(family: TaskFamily, config: CAVIAConfig = CAVIAConfig()) -> MetaLearner:
    """Builds an agent that adapts by φ' = -α ∇_φ L(θ, φ = 0), where φ is the context; the outer loop improves θ."""
    updater = inner.adapt_only(config.rule(), "context")
    return by_gradient_steps(config.policy(family), updater, family, config, zero_at_start=("context",))
