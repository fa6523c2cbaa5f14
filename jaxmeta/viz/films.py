"""A film of a MuJoCo Playground body before and after adaptation, next to each other, as an animated GIF."""

from __future__ import annotations

import io
from typing import Any

import numpy as np

from jaxmeta.experiment import loading
from jaxmeta.types import Array, EnvState
from jaxmeta.viz import PICTURE
from jaxmeta.viz.recording import before_and_after
from jaxmeta.viz.replays import describe

FRAME_SECONDS = 0.04
"""Time between two frames, in seconds; GIF viewers show no more than about 25 per second."""
CAPTION = 44
"""Height of the captions in pixels."""


def draw_trial(run: loading.Run, seed: int) -> bytes:
    """Films the first and the last episode of a trial of a run on `playground`, in real time.

    The frames come from MuJoCo's renderer, which needs EGL or OSMesa: set the environment variable MUJOCO_GL to `egl`
    or `osmesa` before anything imports mujoco.

    Args:
      run: of any algorithm; with several seeds it is the agent of the first one. See `recording.before_and_after`.
      seed: seed of the task and of the trial.

    Returns:
      A GIF. The shorter episode stands still at its end.

    Raises:
      RuntimeError: if MuJoCo cannot render here.
    """
    env: Any = run.family.env
    while hasattr(env, "env"):  # those that reveal or number the task hold the original
        env = env.env
    task, episodes = before_and_after(run, seed, pose)
    skip = max(1, round(FRAME_SECONDS / env.body.dt))
    films = [frames(env, episode.views[::skip]) for episode in episodes]
    longest = max(map(len, films))
    films = [np.pad(film, ((0, longest - len(film)), (0, 0), (0, 0), (0, 0)), mode="edge") for film in films]
    captions = [f"{one.label}\nreturn {one.rewards.sum():.1f} in {len(one.rewards)} steps" for one in episodes]
    captions[0] = f"{captions[0]}; {describe(task)}"
    return _gif(films, captions, skip * env.body.dt)


def pose(state: EnvState) -> Array:
    """Returns the generalised positions of a state, [Q]."""
    return state.data.qpos


def frames(env: Any, poses: np.ndarray, height: int = 240, width: int = 320) -> np.ndarray:
    """Renders poses [T, Q] of a Playground environment with MuJoCo, seen by the first camera of the model.

    Returns:
      uint8 [T, height, width, 3].

    Raises:
      RuntimeError: if MuJoCo cannot render here; it needs EGL or OSMesa, and MUJOCO_GL to name one.
    """
    import mujoco as untyped

    mujoco: Any = untyped
    model = env.body.mj_model
    data = mujoco.MjData(model)
    try:
        renderer = mujoco.Renderer(model, height, width)
    except Exception as error:  # of a kind that depends on what is missing
        raise RuntimeError(f"MuJoCo cannot render here ({error}); install EGL or OSMesa, and set MUJOCO_GL") from error
    images = []
    with renderer:
        for one in poses:
            data.qpos[:] = one
            mujoco.mj_forward(model, data)
            renderer.update_scene(data, camera=0 if model.ncam else -1)
            images.append(renderer.render())
    return np.stack(images)


def _gif(films: list[np.ndarray], captions: list[str], seconds: float) -> bytes:
    """Joins films [T, H, W, 3] side by side, each below its caption."""
    from PIL import Image, ImageDraw

    _, height, width, _ = films[0].shape
    images = []
    for moment in zip(*films, strict=True):
        image = Image.new("RGB", (width * len(films), height + CAPTION), "white")
        draw = ImageDraw.Draw(image)
        for index, (frame, caption) in enumerate(zip(moment, captions, strict=True)):
            image.paste(Image.fromarray(frame), (index * width, CAPTION))
            draw.text((index * width + 8, 6), caption, fill="black")
        images.append(image)
    file = io.BytesIO()
    more = {"append_images": images[1:], "duration": 1000 * seconds, "loop": 0, "comment": PICTURE}
    images[0].save(file, format="GIF", save_all=True, **more)
    return file.getvalue()
