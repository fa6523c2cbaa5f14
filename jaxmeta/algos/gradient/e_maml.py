"""E-MAML: MAML whose policy is also credited for the data that it adapted on."""

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
    """MAML with the term for how adaptation data is sampled (Stadie et al., 2018, arXiv:1803.01118)."""

    inner_objective: Literal["log_prob"] = "log_prob"
    """Form of the inner loss; the others have a part of the credit already."""
    sampling_weight: float = 1.0
    """Weight of the credit for the data that was adapted on: 1 takes its mean over the streams of a round, and
    `streams` their sum, as the full gradient does, at a much higher variance."""

    def __post_init__(self):
        super().__post_init__()
        checks.positive(self, "sampling_weight")
        if self.baseline == "linear" and self.num_tasks == 1:
            raise ValueError("num_tasks is 1; the credit is standardised over tasks, so it must be at least 2")

    def credit(self) -> outer.Credit:
        """Returns the credit for the data that was adapted on, in the unit of the advantages."""
        weight = self.sampling_weight / self.streams
        if self.baseline == "none":
            return outer.unbiased_credit(self.advantage(), weight, self.num_tasks)
        return outer.standardized_credit(self.advantage(), weight)


@recipe
def e_maml(family: TaskFamily, config: EMAMLConfig = EMAMLConfig()) -> MetaLearner:
    """Builds MAML that explores: actions before the step are reinforced where the returns after it are high.

    The return after the step depends on θ through the step, and through what τ ~ π_θ it was taken on. Both terms are
    there, but by default not in the proportion of the full gradient of E[R(θ'(τ))]: the credit is a mean over the
    streams, by `sampling_weight`, of returns standardised over the tasks, and advantages are standardised too. With
    `baseline` none, `discount` 1 and a `sampling_weight` of as much as there are streams it is that gradient, as
    `outer.META_GRADIENTS["e-maml"]` is.
    """
    policy, loss = config.problem(family)
    learner = config.descent(policy, loss, config.rule())
    return config.meta_train(learner, family, credit=config.credit())
