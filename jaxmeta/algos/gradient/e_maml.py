"""E-MAML: MAML whose policy is also credited for the data that it adapted on."""

from __future__ import annotations

import dataclasses
from typing import Literal

from jaxmeta.algos.gradient.gradient_steps import GradientStepsConfig, by_gradient_steps
from jaxmeta.algos.recipe import recipe
from jaxmeta.core.learner import MetaLearner
from jaxmeta.tasks.base import TaskFamily


@dataclasses.dataclass(frozen=True)
class EMAMLConfig(GradientStepsConfig):
    """MAML with the term for how adaptation data is sampled (Stadie et al., 2018, arXiv:1803.01118)."""

    inner_objective: Literal["ratio", "log_prob", "dice"] = "log_prob"
    sampling_weight: float = 1.0


@recipe
def e_maml(family: TaskFamily, config: EMAMLConfig = EMAMLConfig()) -> MetaLearner:
    """Builds MAML that explores: actions before the step are reinforced where the returns after it are high.

    The return after the step depends on θ through the step, and through what τ ~ π_θ it was taken on. Both terms are
    there, but by default not in the proportion of the full gradient of E[R(θ'(τ))]: the credit is a mean over the
    streams, by `sampling_weight`, of returns standardised over the tasks, and advantages are standardised too. With
    `baseline` none, `discount` 1 and a `sampling_weight` of as much as there are streams it is that gradient, as
    `outer.META_GRADIENTS["e-maml"]` is.
    """
    return by_gradient_steps(config.policy(family), config.rule(), family, config)
