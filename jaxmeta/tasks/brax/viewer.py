"""Motions of Brax's bodies as web pages, with Brax's own viewer."""

from __future__ import annotations

import types
from typing import Any

import numpy as np

from jaxmeta.tasks.brax.env import Locomotion
from jaxmeta.types import Array, EnvState

FAR = 10.0
"""Largest distance from which the viewer looks at a body, in metres: its default."""
VIEWER = "var viewer = new Viewer(domElement, system);"


def unwrap(env: Any) -> Locomotion | None:
    """Returns the environment on Brax of one that may reveal or number the task; None if it is not on Brax."""
    while not isinstance(env, Locomotion) and hasattr(env, "env"):
        env = env.env
    return env if isinstance(env, Locomotion) else None


def pose(state: EnvState) -> dict[str, Array]:
    """Returns the pose of all links: positions `pos` in metres [L, 3], and rotations `rot` as quaternions [L, 4]."""
    return {"pos": state.x.pos, "rot": state.x.rot}


def replay(env: Locomotion, poses: dict[str, np.ndarray]) -> str:
    """Builds a web page that plays a motion in a loop, in real time.

    The page loads the viewer and three.js from the internet (cdn.jsdelivr.net, unpkg.com).

    Args:
      poses: those of `pose` over time, `pos` [T, L, 3] and `rot` [T, L, 4].
    """
    from brax.io import html

    states: Any = [
        types.SimpleNamespace(x=types.SimpleNamespace(pos=pos, rot=rot))
        for pos, rot in zip(poses["pos"], poses["rot"], strict=True)
    ]
    system = env.body.sys.tree_replace({"opt.timestep": env.body.dt})  # between two states
    page = html.render(system, states, height="100vh", colab=False)
    size = float(np.ptp(poses["pos"][0], axis=0).max())
    return page.replace(VIEWER, f"{VIEWER} viewer.camera.followDistance = {min(FAR, 6.0 * size):.2f};")
