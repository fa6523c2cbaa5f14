"""What the recipes of gradient-based agents share on supervised tasks: network, inner loss and outer loop.

What differs from reinforcement learning is the loss, and that the outer gradient is exact: predictions are not sampled.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

from jaxmeta import inner, nets, outer
from jaxmeta.algos.gradient.update_rule import UpdateRuleConfig
from jaxmeta.config import checks
from jaxmeta.core.learner import Learner, MetaLearner
from jaxmeta.tasks.base import TaskFamily
from jaxmeta.tasks.few_shot import FewShot
from jaxmeta.types import Plan


@dataclasses.dataclass(frozen=True)
class FewShotConfig(UpdateRuleConfig):
    """The fields of every gradient-based agent on supervised tasks."""

    inner_lr: float = 0.01
    rounds: int = 1
    """Gradient steps on the support."""
    num_tasks: int = 25
    """Tasks per meta-update."""
    hidden: tuple[int, ...] = (40, 40)
    """Widths of the hidden layers."""
    activation: Literal["tanh", "relu", "swish"] = "relu"
    """Nonlinearity."""

    def __post_init__(self):
        super().__post_init__()
        checks.not_negative(self, "rounds")
        checks.at_least_one(self, "num_tasks")
        checks.widths(self, "hidden")

    def network(self, env: FewShot) -> nets.Predictor:
        """Builds the network that adapts."""
        return nets.perceptron(env.size, env.outputs, self.hidden, self.activation)

    def problem(self, family: TaskFamily) -> tuple[Learner, inner.Loss]:
        """Builds what adapts, and the loss of a support set that it descends."""
        env = few_shot_env(family)
        network = self.network(env)
        return inner.predictor(network, env.split), inner.support_loss(network, env.split, env.loss)


@dataclasses.dataclass(frozen=True)
class OnQueryConfig(FewShotConfig):
    """The fields of those whose meta-gradient is that of the query's loss."""

    outer: outer.SupervisedConfig = outer.SupervisedConfig()
    """The outer loop."""

    def meta_train(self, learner: Learner, family: TaskFamily) -> MetaLearner:
        """Improves the params of an agent by the loss of the query after its adaptation."""
        return on_examples(
            learner, family, self, outer.follow_query(learner, few_shot_env(family), self.rounds, self.outer)
        )


def few_shot_env(family: TaskFamily) -> FewShot:
    """Returns the environment of a family of supervised tasks.

    Raises:
      ValueError: if the family is another; the message says what would be right.
    """
    if isinstance(family.env, FewShot):
        return family.env
    raise ValueError(f"the environment is {type(family.env).__name__}; a supervised algorithm needs a tasks.FewShot")


def on_examples(learner: Learner, family: TaskFamily, config: Any, improve: outer.Improve) -> MetaLearner:
    """Builds a meta-learner on supervised tasks; the config has `rounds` and `num_tasks`."""
    plan = Plan(rounds=config.rounds)
    return outer.meta_update(
        learner,
        plan,
        outer.uniform(family),
        outer.examples(plan),
        improve,
        outer.Info(config.num_tasks, plan, spread=config.num_tasks),
    )
