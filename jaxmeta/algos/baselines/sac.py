"""Soft actor-critic without adaptation, the baseline of task inference."""

from __future__ import annotations

import dataclasses

from jaxmeta import inner, nets, outer
from jaxmeta.algos.recipe import recipe
from jaxmeta.config import checks
from jaxmeta.core.learner import MetaLearner, deterministic
from jaxmeta.tasks.base import TaskFamily
from jaxmeta.types import Plan


@dataclasses.dataclass(frozen=True)
class SACConfig:
    """SAC on one task or on many at once, without adaptation (Haarnoja et al., 2018, arXiv:1812.05905)."""

    num_train_tasks: int = 100
    """Training tasks, drawn at the start of training; a family with `train_tasks` uses those."""
    tasks_per_update: int = 4
    """Tasks visited by an update."""
    streams: int = 4
    """Episodes per visit, run in parallel."""
    hidden: tuple[int, ...] = (300, 300, 300)
    """Widths of the hidden layers, of actor and critics."""
    action_scale: float | None = None
    """Largest absolute action of the actor; by default the action limit of the environment."""
    sac: outer.OffPolicyConfig = outer.OffPolicyConfig()
    """The optimiser."""

    def __post_init__(self):
        checks.finite(self)
        checks.at_least_one(self, "num_train_tasks", "tasks_per_update", "streams")
        checks.positive(self, "action_scale")
        checks.widths(self, "hidden")


@recipe
def sac(family: TaskFamily, config: SACConfig = SACConfig()) -> MetaLearner:
    """Builds SAC with one actor for all tasks.

    On a family as it is, this is the multi-task agent, whose policy is optimal on average over tasks. On
    `jm.tasks.reveal(family)`, or with `--reveal`, the actor is conditioned on the task: the oracle, an upper bound of
    every agent that must infer the task. Evaluation is deterministic, by the mode of the actor.

    Raises:
      ValueError: if the family has discrete actions.
    """
    networks = nets.soft_actor_critic(family.env.spec, 0, config.hidden, config.action_scale)
    agent = inner.posterior_sampling(networks, nets.no_evidence())
    return outer.off_policy(
        networks,
        nets.no_evidence(),
        agent,
        family,
        outer.Visits(config.num_train_tasks, config.tasks_per_update, Plan(streams=config.streams)),
        config.sac,
        evaluation=(deterministic(agent), Plan()),
    )
