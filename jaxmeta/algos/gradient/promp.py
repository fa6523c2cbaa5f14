"""ProMP: proximal steps that constrain both the adapted policies and the policies before adaptation."""

from __future__ import annotations

import dataclasses

from jaxmeta import outer
from jaxmeta.algos.gradient.gradient_steps import AdaptationConfig, aggregate
from jaxmeta.algos.gradient.update_rule import DifferentiatedConfig
from jaxmeta.algos.recipe import on_fresh_trials, recipe
from jaxmeta.config import checks
from jaxmeta.core.learner import MetaLearner
from jaxmeta.tasks.base import TaskFamily


@dataclasses.dataclass(frozen=True)
class ProMPConfig(AdaptationConfig, DifferentiatedConfig):
    """Proximal meta-policy search (Rothfuss et al., 2019, arXiv:1810.06784)."""

    max_task_gradient: float | None = None
    """Masks tasks whose meta-gradient norm exceeds this threshold or is not finite. The log has the share of masked
    tasks, `masked_tasks`. With None no task is masked."""
    ppo: outer.PenalisedConfig = outer.PenalisedConfig()
    """The outer loop."""

    def __post_init__(self):
        super().__post_init__()
        checks.at_least_one(self, "rounds")
        checks.positive(self, "max_task_gradient")
        self.ppo.check_divides(self.num_tasks)


@recipe
def promp(family: TaskFamily, config: ProMPConfig = ProMPConfig()) -> MetaLearner:
    """Builds MAML with the low-variance-curvature inner loss, `rl.ratio`, and several outer steps per batch.

    PPO's clipping constrains the adapted policies. A KL penalty of adaptive weight constrains the policies before each
    adaptation.
    """
    policy, loss = config.problem(family)
    learner = config.descent(policy, loss, config.rule())
    clipped = outer.policy_gradient(
        learner, config.advantage(), config.ppo, aggregate=aggregate(config.max_task_gradient)
    )
    improve = outer.with_kl_penalty(learner, clipped, config.rounds, config.ppo)
    parts = config.ppo.minibatches
    return on_fresh_trials(
        learner, family, config.plan(), improve, config.num_tasks, parts, config.normalize_observations
    )
