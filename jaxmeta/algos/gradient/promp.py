"""ProMP: proximal steps on the meta-objective, for the adapted policies and for those that they came from."""

from __future__ import annotations

import dataclasses
from typing import Literal

from jaxmeta import outer
from jaxmeta.algos.gradient.gradient_steps import GradientStepsConfig, by_gradient_steps
from jaxmeta.algos.recipe import recipe
from jaxmeta.config import checks
from jaxmeta.core.learner import MetaLearner
from jaxmeta.tasks.base import TaskFamily


@dataclasses.dataclass(frozen=True)
class ProMPConfig(GradientStepsConfig):
    """Proximal meta-policy search (Rothfuss et al., 2019, arXiv:1810.06784)."""

    outer_loop: Literal["ppo"] = "ppo"
    ppo: outer.PolicyGradientConfig = outer.PolicyGradientConfig(clip=0.3, kl_target=0.01)

    def __post_init__(self):
        checks.choice(self, "outer_loop", "ppo")
        super().__post_init__()


@recipe
def promp(family: TaskFamily, config: ProMPConfig = ProMPConfig()) -> MetaLearner:
    """Builds MAML with the inner loss of low variance curvature, `ratio`, and several outer steps on the same trials.

    The outer loss is clipped in how far the adapted policies move, and has a penalty, of adaptive weight, on how far
    those before each adaptation do.
    """
    return by_gradient_steps(config.policy(family), config.rule(), family, config)
