"""E-MAML: MAML whose meta-gradient includes the effect of the policy on its adaptation data."""

from __future__ import annotations

import dataclasses
from typing import Literal

from jaxmeta import outer
from jaxmeta.algos.gradient.gradient_steps import SecondOrderConfig
from jaxmeta.algos.recipe import recipe
from jaxmeta.config import checks
from jaxmeta.core.learner import MetaLearner
from jaxmeta.tasks.base import TaskFamily


@dataclasses.dataclass(frozen=True)
class EMAMLConfig(SecondOrderConfig):
    """MAML with the sampling-correction term (Stadie et al., 2018, arXiv:1803.01118)."""

    inner_objective: Literal["log_prob"] = "log_prob"
    """Form of the inner loss; the other forms of MAML already contain a part of the correction."""
    sampling_weight: float = 1.0
    """Weight of the sampling correction: 1 averages it over the streams of a round; the number of streams sums it, as
    in the full gradient, with a much higher variance."""

    def __post_init__(self):
        super().__post_init__()
        checks.positive(self, "sampling_weight")
        if self.baseline == "linear" and self.num_tasks == 1:
            raise ValueError("num_tasks is 1; the credit is standardised over tasks, so it must be at least 2")

    def credit(self) -> outer.Credit:
        """Returns the weights of the sampling correction, in units of the advantages."""
        weight = self.sampling_weight / self.streams
        if self.baseline == "none":
            return outer.unbiased_credit(self.advantage(), weight, self.num_tasks)
        return outer.standardized_credit(self.advantage(), weight)


@recipe
def e_maml(family: TaskFamily, config: EMAMLConfig = EMAMLConfig()) -> MetaLearner:
    """Builds E-MAML, which reinforces actions before the adaptation if the return after it is high.

    The return after adaptation depends on θ through the inner step, and through the data τ ~ π_θ of that step. E-MAML
    has the gradient terms of both. By default they are not in the proportion of the full gradient of E[R(θ'(τ))]: the
    second is averaged over the streams (see `sampling_weight`), its returns are standardised over tasks, and advantages
    are standardised, too. With `baseline` none, `discount` 1 and `sampling_weight` equal to `streams` the sum is the
    full gradient, `outer.META_GRADIENTS["e-maml"]`.
    """
    policy, loss = config.problem(family)
    learner = config.descent(policy, loss, config.rule())
    return config.meta_train(learner, family, credit=config.credit())
