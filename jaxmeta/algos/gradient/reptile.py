"""Reptile: move the params towards the result of plain gradient steps."""

from __future__ import annotations

import dataclasses
from typing import Literal

from jaxmeta import inner, outer
from jaxmeta.algos.gradient.few_shot import FewShotConfig, few_shot_env, on_examples
from jaxmeta.algos.gradient.gradient_steps import AdaptationConfig
from jaxmeta.algos.recipe import on_fresh_trials, recipe
from jaxmeta.core.learner import Learner, MetaLearner
from jaxmeta.tasks.base import TaskFamily


@dataclasses.dataclass(frozen=True)
class ReptileConfig(AdaptationConfig):
    """Reptile with policy gradients (Nichol et al., 2018, arXiv:1803.02999); the paper has no results on these."""

    inner_optimizer: Literal["sgd", "adam"] = "sgd"
    """Optimiser of the adaptation. The meta-gradient does not go through its steps, so it cannot be meta-learned."""
    rounds: int = 4
    """Adaptations per trial; meta-training takes one step more, on the last round."""
    outer: outer.ReptileConfig = outer.ReptileConfig()
    """The outer loop."""

    def meta_train(self, learner: Learner, family: TaskFamily) -> MetaLearner:
        """Builds the meta-learner that moves the params towards those adapted on fresh trials."""
        end = outer.after_last_round(learner)
        piece = lambda params, trials: outer.gradient_chunk(learner, trials)  # noqa: E731
        improve = outer.reptile(end, self.outer, piece)
        return on_fresh_trials(
            learner, family, self.plan(), improve, self.num_tasks, normalize_observations=self.normalize_observations
        )


@dataclasses.dataclass(frozen=True)
class FewShotReptileConfig(FewShotConfig):
    """Reptile on supervised tasks (Nichol et al., 2018, arXiv:1803.02999)."""

    inner_lr: float = 0.02
    inner_optimizer: Literal["sgd", "adam"] = "sgd"
    """Optimiser of the adaptation. The meta-gradient does not go through its steps, so it cannot be meta-learned."""
    rounds: int = 5
    """Gradient steps, each on a minibatch of support and query with as many examples as the support."""
    num_tasks: int = 1
    hidden: tuple[int, ...] = (64, 64)
    activation: Literal["tanh", "relu", "swish"] = "tanh"
    outer: outer.ReptileConfig = outer.ReptileConfig()
    """The outer loop."""

    def meta_train(self, learner: Learner, family: TaskFamily) -> MetaLearner:
        """Builds the meta-learner that moves the params towards those adapted on minibatches of all examples."""
        end = outer.after_batches(learner, few_shot_env(family), self.rounds)
        return on_examples(learner, family, self, outer.reptile(end, self.outer, piece=outer.few_rows))


@recipe(supervised=FewShotReptileConfig)
def reptile(family: TaskFamily, config: ReptileConfig | FewShotReptileConfig = ReptileConfig()) -> MetaLearner:
    """Builds Reptile: k gradient steps on every task from θ to φ, then θ moves towards the mean of the φ.

    There is no query set and no derivative through the steps, so all forms of the inner loss are equivalent.
    """
    policy, loss = config.problem(family)
    learner = inner.descent(policy, loss, config.rule())
    return config.meta_train(learner, family)
