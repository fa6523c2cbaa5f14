"""DAgger: an expert labels the states that the student visits."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Literal

import jax.numpy as jnp

from jaxmeta import outer
from jaxmeta.algos.imitation.student import StudentsConfig, imitating, student
from jaxmeta.algos.recipe import recipe
from jaxmeta.config import checks
from jaxmeta.core.learner import MetaLearner
from jaxmeta.references import experts
from jaxmeta.tasks.base import TaskFamily
from jaxmeta.types import Array


@dataclasses.dataclass(frozen=True)
class BetaConfig:
    """β, the probability that the expert acts at a step, by round of DAgger. It is 1 in round 0."""

    schedule: Literal["first-round", "linear", "geometric"] = "first-round"
    """`first-round`: 0 from round 1 on. `linear`: falls to 0 over `rounds`. `geometric`: `decay` to the power of the
    round."""
    rounds: int = 10
    """Used with `schedule` linear."""
    decay: float = 0.5
    """Used with `schedule` geometric."""

    def __post_init__(self):
        checks.finite(self)
        checks.at_least_one(self, "rounds")
        checks.fraction(self, "decay")

    def beta(self) -> Callable[[Array], Array]:
        """Returns the schedule: number of earlier rounds, int32 -> β."""
        match self.schedule:
            case "first-round":
                return lambda rounds: jnp.where(rounds == 0, 1.0, 0.0)
            case "linear":
                return lambda rounds: jnp.maximum(1.0 - rounds / self.rounds, 0.0)
            case "geometric":
                return lambda rounds: jnp.float32(self.decay) ** rounds


@dataclasses.dataclass(frozen=True)
class DAggerConfig(StudentsConfig):
    """DAgger: imitate an expert in the states that the student visits (Ross et al., 2011, arXiv:1011.0686)."""

    imitation: outer.ImitationConfig = outer.ImitationConfig(steps=10)
    """The optimiser; `steps` is the number of gradient steps per round."""
    kept_rounds: int = 20
    """Rounds that the data set holds; the oldest are overwritten. With 1 nothing is aggregated, and the student forgets
    how to recover from mistakes that it stops making."""
    mixing: BetaConfig = BetaConfig()
    """Who acts."""

    def __post_init__(self):
        super().__post_init__()
        checks.at_least_one(self, "kept_rounds")


@recipe
def dagger(
    family: TaskFamily, config: DAggerConfig = DAggerConfig(), *, expert: outer.Expert | None = None
) -> MetaLearner:
    """Builds DAgger (Ross et al., 2011, arXiv:1011.0686).

    An update is a round: a mixture of student and expert acts on new tasks, the expert labels every step with the mode
    of its policy, and the student takes gradient steps on the labelled trials of the last rounds.

    Args:
      expert: by default the planner of the family.

    Raises:
      ValueError: if no expert is given and the family has no planner.
    """
    learner, plan = student(family, config), config.plan(family)
    roles = outer.mixing(learner, expert or experts.planner(family), config.mixing.beta())
    source = outer.aggregated(roles, family, plan, learner, config.num_tasks, config.kept_rounds)
    return imitating(learner, family, config, source, outer.recalled(config.imitation.steps))
