"""What agents share that adapt a model of the dynamics at every step: their config, and their meta-training."""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Literal

from jaxmeta import devices, inner, nets, outer
from jaxmeta.algos.models.planning import PlannerConfig
from jaxmeta.config import checks
from jaxmeta.core.learner import MetaLearner
from jaxmeta.tasks.base import TaskFamily
from jaxmeta.types import Plan


@dataclasses.dataclass(frozen=True)
class OnlineConfig:
    """Fields of agents that plan with a model which adapts to the last transitions."""

    num_tasks: int = 8
    """Tasks per update, with one trial each."""
    streams: int = 1
    """Parallel streams per task."""
    episodes: int = 1
    """Episodes per stream; what is remembered survives their ends."""
    explore: int = 1
    """Updates at the start in which actions are random. They count transitions: it takes more updates if episodes end
    early."""
    hidden: tuple[int, ...] = (64, 64)
    """Widths of the hidden layers of the model; three times 512 in the paper."""
    activation: Literal["tanh", "relu", "swish"] = "tanh"
    """Nonlinearity of the model; relu in the paper."""
    learn_reward: bool = False
    """Whether the model predicts the reward although planners know it; where they do not, it always does."""
    planner: PlannerConfig = PlannerConfig(kind="mppi", iterations=1)
    """The planner."""
    windows: outer.WindowConfig = outer.WindowConfig()
    """Meta-training of the model."""

    def __post_init__(self):
        checks.finite(self)
        checks.at_least_one(self, "num_tasks", "streams", "episodes")
        checks.not_negative(self, "explore")
        checks.widths(self, "hidden")

    def plan(self) -> Plan:
        """Returns the layout of a trial."""
        return Plan(streams=self.streams, episodes=self.episodes)

    def sizes(self, family: TaskFamily) -> tuple[int, int]:
        """Returns the numbers of an input and of an output of the model."""
        return nets.dynamics_sizes(family.env.spec, self.reward(family) is None)

    def reward(self, family: TaskFamily) -> inner.Reward | None:
        """Returns the reward that the planner knows, or None if the model predicts it."""
        return None if self.learn_reward else family.planning_reward

    def meta_train(self, family: TaskFamily, online: inner.OnlineModel) -> MetaLearner:
        """Builds the meta-learner: the agent collects whole streams, and the model learns from windows of them.

        Raises:
          ValueError: if the observation is not a float32 vector, the planner needs another kind of actions, a plan is
            longer than an episode, a window is longer than a stream, or the replay buffer is too small.
        """
        spec, plan, windows = family.env.spec, self.plan(), self.windows
        planner = self.planner.build(family)
        windows.check_fits(plan, spec.horizon, self.num_tasks)
        transitions = self.num_tasks * self.streams * self.episodes * spec.horizon
        learner = inner.plan_online(spec, online, planner, self.reward(family), self.explore * transitions)
        strata = devices.num_strata(math.gcd(self.num_tasks, windows.batch_size, windows.capacity))
        rings = outer.stream_rings(spec, online.dynamics, plan, windows, strata)
        predict = functools.partial(inner.predict_after, online)
        return outer.meta_update(
            learner,
            plan,
            outer.uniform(family),
            outer.replay(outer.fresh(learner, family, plan), rings, strata, by_task=False),
            outer.learn_online(spec, online.dynamics, predict, windows, plan, strata),
            outer.Info(self.num_tasks, plan, spread=math.gcd(self.num_tasks, strata)),
        )
