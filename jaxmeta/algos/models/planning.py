"""The planner of model-based agents, as a part of their configs."""

from __future__ import annotations

import dataclasses
from typing import Literal

from jaxmeta import rl
from jaxmeta.config import checks
from jaxmeta.tasks.base import TaskFamily


@dataclasses.dataclass(frozen=True)
class PlannerConfig:
    """How actions are planned."""

    kind: Literal["cem", "mppi", "random"] = "cem"
    """The cross-entropy method, model predictive path integral control, or the best of random sequences. Discrete
    actions need the last one."""
    horizon: int = 20
    """Steps of a plan, at most the steps of an episode."""
    candidates: int = 100
    """Sequences of actions per iteration."""
    iterations: int = 3
    """Iterations of `cem` and `mppi` per step of the environment."""
    elites: int = 10
    """Candidates that `cem` fits its distribution to."""
    std: float = 0.5
    """Standard deviation of the candidates of `cem`, initially, and of `mppi`, as a share of the action limit."""
    keep: float = 0.1
    """Share of mean and variance that an iteration of `cem` keeps."""
    temperature: float = 0.05
    """Temperature of `mppi`, in units of the reward of a step."""
    smoothing: float = 0.6
    """Correlation of `mppi`'s noise at neighbouring steps."""

    def __post_init__(self):
        checks.finite(self)
        checks.at_least_one(self, "horizon", "candidates", "iterations", "elites")
        checks.positive(self, "std", "temperature")
        checks.fraction(self, "keep", "smoothing")
        if self.kind == "cem" and self.elites > self.candidates:
            raise ValueError(f"elites is {self.elites}; it must not exceed candidates, which is {self.candidates}")

    def build(self, family: TaskFamily) -> rl.Planner:
        """Builds the planner for the actions of a family.

        Raises:
          ValueError: if a plan is longer than an episode, or the planner needs another kind of actions.
        """
        action = family.env.spec.action
        if self.kind == "cem":
            planner = rl.cem(action, self.horizon, self.candidates, self.elites, self.iterations, self.std, self.keep)
        elif self.kind == "mppi":
            planner = rl.mppi(
                action, self.horizon, self.candidates, self.iterations, self.std, self.temperature, self.smoothing
            )
        else:
            planner = rl.random_shooting(action, self.horizon, self.candidates)
        rl.check_horizon(planner, family.env.spec.horizon)
        return planner
