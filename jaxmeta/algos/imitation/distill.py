"""Algorithm distillation: imitate a learning algorithm over its whole history."""

from __future__ import annotations

import dataclasses

import jax

from jaxmeta import inner, nets, outer, rl
from jaxmeta.algos.imitation.student import StudentsConfig, imitating, student
from jaxmeta.algos.recipe import recipe
from jaxmeta.config import checks
from jaxmeta.core.learner import MetaLearner
from jaxmeta.references import experts
from jaxmeta.tasks.base import TaskFamily
from jaxmeta.types import Plan


@dataclasses.dataclass(frozen=True)
class PolicyGradientTeacherConfig:
    """A learning algorithm for any family: policy gradients from a random initialisation, on one task."""

    rounds: int = 3
    """Gradient steps; a history has one more round than that."""
    streams: int = 20
    """Episodes per gradient step. The student replays the history of each stream by itself."""
    learning_rate: float = 0.5
    """Step size of gradient descent."""
    hidden: tuple[int, ...] = (32,)
    """Widths of the hidden layers."""

    def __post_init__(self):
        checks.finite(self)
        checks.at_least_one(self, "rounds", "streams")
        checks.positive(self, "learning_rate")
        checks.widths(self, "hidden")


@dataclasses.dataclass(frozen=True)
class DistillConfig(StudentsConfig):
    """Algorithm distillation (Laskin et al., 2022, arXiv:2210.14215): predict the next action of a learner."""

    policy_gradient: PolicyGradientTeacherConfig = PolicyGradientTeacherConfig()
    """The teacher on families without a classical learning algorithm."""


@recipe
def distill(
    family: TaskFamily, config: DistillConfig = DistillConfig(), *, expert: outer.Expert | None = None
) -> MetaLearner:
    """Builds algorithm distillation (Laskin et al., 2022, arXiv:2210.14215), with any sequence model.

    The student imitates an agent while it learns, across all episodes of a trial. From the history it infers the task
    and how far the teacher has learned, so that it keeps improving in context. Histories can also be passed to `update`
    as data (`jm.Demonstrations`).

    Args:
      expert: the teacher, a learning algorithm that does not know the task, such as a trained RL² agent. By default
        UCB1 on Bernoulli bandits, posterior sampling on tabular MDPs, and else policy gradients from scratch.

    Raises:
      ValueError: if the teacher observes the task.
    """
    expert = expert or experts.teacher(family)
    if expert is not None and expert.observe is not None:
        raise ValueError("expert observes the task, which its actions would reveal; distill an agent that does not")
    if expert is not None:
        learner, plan = student(family, config), config.plan(family)
        source = outer.labelled(outer.cloning(expert), family, plan)
        return imitating(learner, family, config, outer.stored(family, source, config.longest(family)))
    part = config.policy_gradient
    plan = Plan(rounds=part.rounds, streams=part.streams)
    if config.episodes is None:
        config = dataclasses.replace(config, episodes=part.rounds + 1)
    learner = student(family, config, (part.rounds + 1) * family.env.spec.horizon)
    roles = outer.cloning(_policy_gradient(family, part))._replace(view=outer.history)
    source = outer.labelled(roles, family, plan)
    return imitating(learner, family, config, outer.stored(family, source, config.longest(family)), plan=plan)


def _policy_gradient(family: TaskFamily, config: PolicyGradientTeacherConfig) -> outer.Expert:
    policy = inner.policy(nets.actor_critic(family.env.spec, config.hidden))
    learner = inner.gradient(policy, rl.ratio, inner.sgd(config.learning_rate), rl.linear_baseline())
    own = inner.from_scratch(learner, policy.init)
    return outer.Expert(own, own.init(jax.random.key(0)))
