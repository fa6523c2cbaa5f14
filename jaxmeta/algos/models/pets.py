"""PETS: planning in a probabilistic ensemble, which is refitted to the task after every episode."""

from __future__ import annotations

import dataclasses
import math
from typing import Literal

from jaxmeta import devices, inner, nets, outer, rl
from jaxmeta.algos.models.planning import PlannerConfig
from jaxmeta.algos.recipe import recipe
from jaxmeta.config import checks
from jaxmeta.core.learner import Learner, MetaLearner
from jaxmeta.tasks.base import TaskFamily
from jaxmeta.types import Plan


@dataclasses.dataclass(frozen=True)
class PETSConfig:
    """PETS: probabilistic ensembles with trajectory sampling (Chua et al., 2018, arXiv:1805.12114)."""

    episodes: int = 10
    """Episodes of a trial; the model is refitted after each but the last."""
    streams: int = 1
    """Parallel streams, each with one episode per round, that share a model."""
    explore: int = 1
    """Episodes at the start that act at random, without planning; 0 plans with the prior from the start."""
    members: int = 5
    """Models in the ensemble."""
    hidden: tuple[int, ...] = (64, 64)
    """Widths of the hidden layers of a model; three times 500 in the paper."""
    probabilistic: bool = True
    """Whether the models predict a variance."""
    learn_reward: bool = False
    """Whether the models predict the reward although planners know it; where they do not, the models always do."""
    particles: Literal["ts-inf", "ts-1"] = "ts-inf"
    """Whether a particle keeps its member of the ensemble up to the horizon, or changes it at every step."""
    spread: int = 1
    """Particles of each candidate per member of the ensemble."""
    planner: PlannerConfig = PlannerConfig()
    """The planner."""
    fit: inner.FitConfig = inner.FitConfig()
    """How the ensemble is refitted."""
    prior: bool = True
    """Whether an update fits the ensemble, as a start for every task, to the transitions of all training tasks. If
    not, every task starts from the same random ensemble, as PETS does, and updates only report returns."""
    num_tasks: int = 8
    """Tasks per update, with one trial each."""
    dynamics: outer.DynamicsConfig = outer.DynamicsConfig()
    """How the prior is fitted."""

    @property
    def rounds(self) -> int:
        """Rounds of a trial that a refit follows."""
        return self.episodes - 1

    def __post_init__(self):
        checks.finite(self)
        checks.at_least_one(self, "episodes", "streams", "members", "spread", "num_tasks")
        checks.not_negative(self, "explore")
        checks.widths(self, "hidden")


@recipe
def pets(family: TaskFamily, config: PETSConfig = PETSConfig()) -> MetaLearner:
    """Builds PETS.

    A trial is several episodes of one task. The first explores at random. After each, an ensemble of models is fitted
    to all transitions of the trial, and the next episode plans in it. Without `prior` this is PETS on each task.
    With it, an update also fits the ensemble to the transitions of all training tasks, from where every task starts.
    The prior's normalisation of observations and actions is then kept within a task.

    Raises:
      ValueError: if the observation is not a float32 vector, the planner needs another kind of actions, a plan is
        longer than an episode, or a replay buffer is too small.
    """
    spec, plan = family.env.spec, Plan(config.rounds, config.streams)
    learner, model = agent(family, config)
    source = outer.fresh(learner, family, plan)
    if not config.prior:
        info = outer.Info(config.num_tasks, plan, spread=config.num_tasks)
        return outer.meta_update(learner, plan, outer.uniform(family), source, outer.unchanged(), info)
    strata = devices.num_strata(math.gcd(config.num_tasks, config.dynamics.batch_size, config.dynamics.capacity))
    transitions = config.num_tasks * config.episodes * config.streams * spec.horizon
    if config.dynamics.capacity < transitions:
        raise ValueError(
            f"dynamics.capacity is {config.dynamics.capacity}; the trials of an update have {transitions} transitions"
        )
    ring = outer.dynamics_ring(spec, model, config.members, config.dynamics.capacity // strata)
    return outer.meta_update(
        learner,
        plan,
        outer.uniform(family),
        outer.replay(source, {"transitions": ring}, strata, by_task=False),
        outer.fit_dynamics(spec, model, config.members, config.dynamics, strata),
        outer.Info(config.num_tasks, plan, spread=math.gcd(config.num_tasks, strata)),
    )


def agent(family: TaskFamily, config: PETSConfig) -> tuple[Learner, nets.Dynamics]:
    """Builds the agent of `pets`, and one member of its ensemble."""
    spec, planner = family.env.spec, config.planner.build(family)
    reward = None if config.learn_reward else family.planning_reward
    model = nets.gaussian_dynamics(
        *nets.dynamics_sizes(spec, reward is None), config.hidden, probabilistic=config.probabilistic
    )
    transitions = config.streams * spec.horizon
    if config.fit.capacity < transitions:
        raise ValueError(f"fit.capacity is {config.fit.capacity}; a round has {transitions} transitions")
    imagination = inner.Imagination(
        reward, config.members, rl.Particles(config.particles, config.spread), config.explore
    )
    return inner.model_predictive(spec, model, planner, imagination, config.fit), model
