"""The gradient-based algorithms on supervised tasks: the inner rules are those of reinforcement learning.

What differs is the loss of an agent's experience, and that the outer gradient is exact: predictions are not sampled.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable
from typing import Any, Literal

from jaxmeta import inner, nets, outer
from jaxmeta.algos.gradient.update_rule import ImplicitConfig, UpdateRuleConfig
from jaxmeta.algos.recipe import check_family, recipe
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
        checks.choice(self, "activation", *nets.ACTIVATIONS)

    def learner(
        self, family: TaskFamily, updater: inner.Updater, context: int = 0, zero_at_start: tuple[str, ...] = ()
    ) -> Learner:
        """Builds a perceptron that adapts to the support by an update rule; for `zero_at_start` see `inner.descent`."""
        return self.adapting(*self.policy(family, context), updater, zero_at_start)

    def policy(self, family: TaskFamily, context: int = 0) -> tuple[Learner, inner.Loss]:
        """Builds the perceptron, and what it loses on a support."""
        env = few_shot_env(family)
        network = nets.perceptron(env.size, env.outputs, self.hidden, self.activation, context)
        return inner.predictor(network, env.split), inner.support_loss(network, env.split, env.loss)


@dataclasses.dataclass(frozen=True)
class OnQueryConfig(FewShotConfig):
    """The fields of those whose meta-gradient is that of the query's loss."""

    outer: outer.SupervisedConfig = outer.SupervisedConfig()
    """The outer loop."""


@dataclasses.dataclass(frozen=True)
class FewShotMAMLConfig(OnQueryConfig):
    """MAML on supervised tasks (Finn et al., 2017, arXiv:1703.03400)."""

    first_order: bool = False
    """Whether meta-gradients ignore how the adaptation depends on the params (FOMAML)."""


@dataclasses.dataclass(frozen=True)
class FewShotIMAMLConfig(ImplicitConfig, OnQueryConfig):
    """Implicit MAML on supervised tasks (Rajeswaran et al., 2019, arXiv:1909.04630)."""

    inner_lr: float = 0.005
    inner_steps: int = 32
    damping: float = 20.0


@dataclasses.dataclass(frozen=True)
class FewShotMetaSGDConfig(OnQueryConfig):
    """Meta-SGD on supervised tasks: a learned step size for every parameter (Li et al., 2017, arXiv:1707.09835)."""

    inner_optimizer: Literal["per-parameter"] = "per-parameter"

    def __post_init__(self):
        super().__post_init__()
        checks.choice(self, "inner_optimizer", "per-parameter")


@dataclasses.dataclass(frozen=True)
class FewShotANILConfig(OnQueryConfig):
    """ANIL on supervised tasks: only the last layer adapts (Raghu et al., 2020, arXiv:1909.09157)."""

    inner_lr: float = 0.1


@dataclasses.dataclass(frozen=True)
class FewShotCAVIAConfig(OnQueryConfig):
    """CAVIA on supervised tasks: only some further inputs adapt (Zintgraf et al., 2019, arXiv:1810.03642)."""

    inner_lr: float = 1.0
    context: int = 5
    """Inputs of the network that adapt."""

    def __post_init__(self):
        super().__post_init__()
        checks.at_least_one(self, "context")


@dataclasses.dataclass(frozen=True)
class FewShotReptileConfig(FewShotConfig):
    """Reptile on supervised tasks: move towards where plain descent ends (Nichol et al., 2018, arXiv:1803.02999)."""

    inner_lr: float = 0.02
    rounds: int = 5
    """Gradient steps; each is on as many examples as the support has, from support and query together."""
    num_tasks: int = 1
    hidden: tuple[int, ...] = (64, 64)
    activation: Literal["tanh", "relu", "swish"] = "tanh"
    outer: outer.ReptileConfig = outer.ReptileConfig()
    """The outer loop."""

    def __post_init__(self):
        super().__post_init__()
        self.check_not_differentiated()


def few_shot_env(family: TaskFamily) -> FewShot:
    """Returns the environment of a family of supervised tasks.

    Raises:
      ValueError: if the family is another; the message says what would be right.
    """
    if isinstance(family.env, FewShot):
        return family.env
    raise ValueError(f"the tasks are of {type(family.env).__name__}; a supervised loop needs those of tasks.FewShot")


@recipe
def maml(family: TaskFamily, config: FewShotMAMLConfig = FewShotMAMLConfig()) -> MetaLearner:
    """Builds MAML: the params from which one step on the support predicts the query best."""
    updater = config.rule()
    learner = config.learner(family, inner.first_order(updater) if config.first_order else updater)
    return _on_query(family, config, learner)


@recipe
def meta_sgd(family: TaskFamily, config: FewShotMetaSGDConfig = FewShotMetaSGDConfig()) -> MetaLearner:
    """Builds Meta-SGD: MAML whose step sizes are learned, one for every parameter."""
    return _on_query(family, config, config.learner(family, config.rule()))


@recipe
def imaml(family: TaskFamily, config: FewShotIMAMLConfig = FewShotIMAMLConfig()) -> MetaLearner:
    """Builds implicit MAML: descend close to a minimum near θ, and differentiate what a minimum must fulfil."""
    return _on_query(family, config, config.settling(*config.policy(family)))


@recipe
def anil(family: TaskFamily, config: FewShotANILConfig = FewShotANILConfig()) -> MetaLearner:
    """Builds ANIL: MAML that adapts the last layer only."""
    return _on_query(family, config, config.learner(family, inner.adapt_only(config.rule(), "head")))


@recipe
def cavia(family: TaskFamily, config: FewShotCAVIAConfig = FewShotCAVIAConfig()) -> MetaLearner:
    """Builds CAVIA: MAML that adapts a context only, which is zero when a task begins."""
    updater = inner.adapt_only(config.rule(), "context")
    return _on_query(family, config, config.learner(family, updater, config.context, zero_at_start=("context",)))


@recipe
def reptile(family: TaskFamily, config: FewShotReptileConfig = FewShotReptileConfig()) -> MetaLearner:
    """Builds Reptile: no query, no second derivative, no derivative at all through the adaptation."""
    learner = config.learner(family, config.rule())
    end = outer.after_batches(learner, few_shot_env(family), config.rounds)
    return on_examples(family, config, learner, outer.reptile(end, config.outer, piece=outer.few_rows))


def _on_query(family: TaskFamily, config: OnQueryConfig, learner: Learner) -> MetaLearner:
    return on_examples(
        family, config, learner, outer.follow_query(learner, few_shot_env(family), config.rounds, config.outer)
    )


def on_examples(family: TaskFamily, config: Any, learner: Learner, improve: outer.Improve) -> MetaLearner:
    """Puts an improvement on supervised tasks around an agent; the config has `rounds` and `num_tasks`."""
    plan = Plan(rounds=config.rounds)
    return outer.meta_update(
        learner,
        plan,
        outer.uniform(family),
        outer.examples(plan),
        improve,
        outer.Info(config.num_tasks, plan, spread=config.num_tasks),
    )


def also(recipe: Callable[..., MetaLearner]) -> Callable[[Callable[..., MetaLearner]], Callable[..., MetaLearner]]:
    """Lets an algorithm of reinforcement learning take supervised tasks too, for which `recipe` builds it."""

    def decorate(interactive: Callable[..., MetaLearner]) -> Callable[..., MetaLearner]:
        @functools.wraps(interactive)
        def build(family: TaskFamily, *config: Any, **named: Any) -> MetaLearner:
            check_family(interactive.__name__, family)
            supervised = isinstance(family.env, FewShot)
            chosen = recipe if supervised else interactive
            given = config[0] if config else named.get("config")
            if given is not None and isinstance(given, FewShotConfig) != supervised:
                right = type(inspect.signature(chosen).parameters["config"].default).__name__
                tasks = type(family.env).__name__
                raise ValueError(f"config is a {type(given).__name__}; on tasks of {tasks} it must be a {right}")
            return chosen(family, *config, **named)

        return build

    return decorate
