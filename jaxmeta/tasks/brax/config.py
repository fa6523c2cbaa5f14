"""The common configuration of Brax families, and loading of Brax bodies without warnings."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import numpy as np
from jax.core import Tracer

from jaxmeta.config import checks
from jaxmeta.tasks.mujoco import quiet

BACKENDS = ("spring", "generalized", "positional", "mjx")


@dataclasses.dataclass(frozen=True)
class LocomotionConfig:
    """The fields that every Brax family has."""

    horizon: int = 200
    """Steps in an episode, as in MAML and PEARL."""
    backend: str = "spring"
    """Physics: spring (fast), generalized, positional, or mjx (MuJoCo itself)."""
    solver_iterations: int | None = None
    """Iterations of the constraint solver, mjx only; by default as in Brax: 1 for ant and humanoid, else 4."""
    line_search_iterations: int | None = None
    """Line-search steps per iteration, mjx only; by default as in Brax: 4 for ant and humanoid, else 50."""

    def __post_init__(self):
        checks.task_sizes(self, horizon=checks.AN_EPISODE)
        for name in ("solver_iterations", "line_search_iterations"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"tasks.{name} is {value}; the solver needs at least 1")
        if self.backend not in BACKENDS:
            raise ValueError(f"tasks.backend is {self.backend!r}; known backends are {', '.join(BACKENDS)}")


def load(body: Any, config: LocomotionConfig) -> Any:
    """Builds Brax's environment, a `brax.envs.PipelineEnv`, for its body and physics.

    Args:
      body: Brax's name of the environment, such as "halfcheetah", or the environment itself, which is not modified.

    Raises:
      ValueError: if the environment was built on another backend, or the range of a motor is not symmetric.
    """
    if isinstance(body, str):
        with quiet():
            import brax.envs

            loaded: Any = brax.envs.get_environment(body, backend=config.backend)
    else:
        if body.backend != config.backend:
            raise ValueError(
                f"config.backend is {config.backend!r}, but the body was built on {body.backend!r}; they must be equal"
            )
        loaded = copy.copy(body)
    _check_motors(loaded.sys.actuator.ctrl_range)
    solver = {"opt.iterations": config.solver_iterations, "opt.ls_iterations": config.line_search_iterations}
    loaded.sys = loaded.sys.tree_replace({name: value for name, value in solver.items() if value is not None})
    return loaded


def _check_motors(ranges: Any) -> None:
    """Raises a ValueError unless the ranges of the motors, [motors, 2], are those that actions are scaled to."""
    if isinstance(ranges, Tracer):  # the family is built inside a trace, where no value is known
        return
    ranges = np.asarray(ranges)
    if not (np.isfinite(ranges).all() and np.allclose(-ranges[:, 0], ranges[:, 1])):
        raise ValueError(
            f"the motors of the body have the ranges {ranges.tolist()}; they must be finite and symmetric, as actions"
            " lie in [-1, 1]"
        )
