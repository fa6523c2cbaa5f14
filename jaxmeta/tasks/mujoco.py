"""MuJoCo without its known messages."""

from __future__ import annotations

import contextlib
import io
import warnings
from typing import Any


@contextlib.contextmanager
def quiet():
    """Suppresses the known messages of importing brax or Playground and loading their XML files."""
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
