"""The common configuration of Brax families, and loading of Brax bodies without warnings."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import warnings
from typing import Any

from jaxmeta.config import checks

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


def load(name: str, config: LocomotionConfig):
    """Builds Brax's environment, a `brax.envs.PipelineEnv`, for its body and physics.

    Args:
      name: Brax's name of the environment, such as "halfcheetah".
    """
    with _quiet():
        import brax.envs

        body: Any = brax.envs.get_environment(name, backend=config.backend)
    solver = {"opt.iterations": config.solver_iterations, "opt.ls_iterations": config.line_search_iterations}
    body.sys = body.sys.tree_replace({name: value for name, value in solver.items() if value is not None})
    return body


@contextlib.contextmanager
def _quiet():
    """Suppresses the known messages of importing brax and loading its XML files."""
    printed = io.StringIO()
    with warnings.catch_warnings(), contextlib.redirect_stdout(printed):
        warnings.filterwarnings("ignore", message="Brax System, piplines and environments")
        import mujoco as untyped

        mujoco: Any = untyped  # its type stubs lack these functions

        def forward(message):
            if "settotalmass" not in message:
                warnings.warn(message, stacklevel=2)

        # MuJoCo would write to stderr and leave a MUJOCO_LOG.TXT in the working directory
        previous = mujoco.get_mju_user_warning()
        mujoco.set_mju_user_warning(forward)
        try:
            yield
        finally:
            mujoco.set_mju_user_warning(previous)
    for line in printed.getvalue().splitlines():
        if "Failed to import" not in line or "warp" not in line:
            print(line)
