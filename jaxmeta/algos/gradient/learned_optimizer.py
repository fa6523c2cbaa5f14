"""Learning to learn by gradient descent: a recurrent network as the optimiser."""

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
    """Step size of the nominal optimiser."""
    nominal: Literal["sgd", "adam"] = "sgd"
    """Nominal optimiser whose updates the LSTM scales and shifts; the rule is initialised as that (Harrison et al.,
    2022, arXiv:2209.11208)."""
    scale: float = 0.1
    """Scale of the LSTM's additive term."""
    cell: tuple[int, ...] = (20, 20)
    """Widths of the LSTM's layers."""
    rounds: int = 100
    """Optimisation steps per function."""
    num_tasks: int = 128
    """Functions per meta-update."""
    hidden: tuple[int, ...] = ()
    """Hidden layers of the optimised network; without any it is a linear function without bias."""
    activation: Literal["tanh", "relu", "swish"] = "tanh"
    """Nonlinearity of the optimised network."""
    second_order: bool = False
    """Whether meta-gradients include the derivative of the inner gradients; the paper drops it, and with many steps it
    can make the meta-gradient explode."""
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
    """Builds a learned update rule, meta-trained on functions of a family from random initial points."""
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
