"""Reptile: move the params towards where plain policy-gradient steps end."""

from __future__ import annotations

import dataclasses

from jaxmeta import inner, outer, rl
from jaxmeta.algos.gradient import few_shot
from jaxmeta.algos.gradient.gradient_steps import AdaptationConfig
from jaxmeta.algos.recipe import recipe
from jaxmeta.core.learner import MetaLearner
from jaxmeta.tasks.base import TaskFamily


@dataclasses.dataclass(frozen=True)
class ReptileConfig(AdaptationConfig):
    """Reptile with policy gradients (Nichol et al., 2018, arXiv:1803.02999); the paper has no results on these."""

    rounds: int = 4
    """Adaptations per trial; meta-training takes one step more, on the last round."""
    outer: outer.ReptileConfig = outer.ReptileConfig()
    """The outer loop."""

    def __post_init__(self):
        super().__post_init__()
        self.check_not_differentiated()


@few_shot.also(few_shot.reptile)
@recipe
def reptile(family: TaskFamily, config: ReptileConfig = ReptileConfig()) -> MetaLearner:
    """Builds Reptile: on every task, take k policy-gradient steps from θ to φ; then θ moves towards the mean of the φ.

    No derivative is taken through the steps, whose inner loss may therefore have any of its forms.
    """
    learner = inner.gradient(config.policy(family), rl.ratio, config.within_bounds(config.rule()), config.advantage())

    def adapted(params: inner.GradientParams, fast: inner.GradientFast) -> inner.GradientParams:
        return params.replace(policy=fast.policy)

    plan = config.plan()
    return outer.meta_update(
        learner,
        plan,
        outer.uniform(family),
        outer.fresh(learner, family, plan),
        outer.reptile(
            outer.after_last_round(learner, adapted),
            config.outer,
            piece=lambda params, trials: outer.gradient_chunk(learner, trials),
        ),
        outer.Info(config.num_tasks, plan, spread=config.num_tasks),
    )
