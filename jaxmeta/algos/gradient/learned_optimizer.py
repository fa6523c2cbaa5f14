"""Learning to learn by gradient descent: a recurrent network that takes an optimiser's place."""

from __future__ import annotations

import dataclasses
from typing import Literal

from jaxmeta import inner, nets, outer
from jaxmeta.algos.gradient.few_shot import few_shot_env, on_examples
from jaxmeta.algos.gradient.update_rule import FIXED
from jaxmeta.algos.recipe import recipe
from jaxmeta.config import checks
from jaxmeta.core.learner import Learner, MetaLearner
from jaxmeta.tasks.base import TaskFamily
from jaxmeta.tasks.few_shot import FewShot


@dataclasses.dataclass(frozen=True)
class LearnedOptimizerConfig:
    """A coordinate-wise LSTM that trains networks from scratch (Andrychowicz et al., 2016, arXiv:1606.04474)."""

    inner_lr: float = 0.1
    """Step size of what the LSTM begins as."""
    nominal: Literal["sgd", "adam"] = "sgd"
    """Whose steps the LSTM resizes and adds to: the rule begins as that (Harrison et al., 2022, arXiv:2209.11208)."""
    scale: float = 0.1
    """Size of what the LSTM adds."""
    cell: tuple[int, ...] = (20, 20)
    """Widths of the LSTM's layers."""
    rounds: int = 100
    """Steps in which a function is optimised."""
    num_tasks: int = 128
    """Functions per meta-update."""
    hidden: tuple[int, ...] = ()
    """Hidden layers of what is optimised; without any it is a linear function without bias, near zero at first."""
    activation: Literal["tanh", "relu", "swish"] = "tanh"
    """Nonlinearity of what is optimised."""
    second_order: bool = False
    """Whether meta-gradients see that the gradients along a way depend on the steps before; the paper ignores it, and
    what is then followed may lead uphill where a derivative goes through many steps."""
    outer: outer.UnrolledConfig = outer.UnrolledConfig()
    """The outer loop."""

    def __post_init__(self):
        checks.finite(self)
        checks.not_negative(self, "inner_lr", "scale")
        checks.at_least_one(self, "rounds", "num_tasks")
        checks.widths(self, "hidden")
        checks.widths(self, "cell")
        if self.rounds % self.outer.segment:
            raise ValueError(f"outer.segment is {self.outer.segment}; it must divide rounds, which is {self.rounds}")


@recipe
def learned_optimizer(family: TaskFamily, config: LearnedOptimizerConfig = LearnedOptimizerConfig()) -> MetaLearner:
    """Builds an update rule that is trained on functions of a family, each from a random start."""
    nominal = FIXED[config.nominal](config.inner_lr)
    rule = inner.recurrent(nets.coordinatewise_lstm(config.cell), nominal, config.scale)
    rule = rule if config.second_order else inner.first_order(rule)
    env = few_shot_env(family)
    learner = optimises(env, rule, config.hidden, config.activation)
    return on_examples(learner, family, config, outer.unrolled(learner, env, config.rounds, config.outer))


def optimises(env: FewShot, rule: inner.Updater, hidden: tuple[int, ...], activation: str = "tanh") -> Learner:
    """Builds an agent that trains a network from scratch on each task by an update rule, learned or not."""
    if hidden:
        network = nets.perceptron(env.size, env.outputs, hidden, activation)
    else:
        network = nets.linear(env.size, env.outputs)
    policy, loss = inner.predictor(network, env.split), inner.support_loss(network, env.split, env.loss)
    return inner.from_scratch(inner.descent(policy, loss, rule), network.init)
