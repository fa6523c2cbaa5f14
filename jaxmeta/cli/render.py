"""`jaxmeta render`: a trial of the agent of a run."""

from __future__ import annotations

import dataclasses
import importlib
import os
from pathlib import Path
from typing import Annotated, Any

import tyro

from jaxmeta.cli import checks, parsing, startup
from jaxmeta.experiment import registry

RENDERED = {
    "grid-navigation": "jaxmeta.viz.beliefs",
    "maze": "jaxmeta.viz.mazes",
    "sinusoid": "jaxmeta.viz.waves",
    "playground": "jaxmeta.viz.films",
    **{name: "jaxmeta.viz.replays" for name, entry in registry.TASKS.items() if entry.module == "jaxmeta.tasks.brax"},
}
"""Task families whose trials are drawn, and by what."""
SUFFIXES = {"jaxmeta.viz.replays": ".html", "jaxmeta.viz.films": ".gif"}
"""Of what is no picture, the kind of file."""


@dataclasses.dataclass(frozen=True)
class Options:
    """Draws a trial of the agent of a run: where it goes on a grid or in a maze, what it predicts of a wave.

    Of a body of Brax it writes a web page that plays an episode before adaptation and one after it, next to each other.
    To open it a browser needs access to the internet: the page loads Brax's viewer and three.js from cdn.jsdelivr.net
    and unpkg.com. Of a body of MuJoCo Playground it writes such episodes as an animated GIF, which needs EGL or OSMesa.
    """

    run: parsing.RunFolder = None
    task: Annotated[int, tyro.conf.arg(metavar="SEED")] = 0
    """Decides the task, drawn from the held-out ones."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """File to write: .html for a body of Brax, .gif for one of Playground, else .png; by default trial-SEED in the run
    folder. Only an earlier drawing is overwritten."""
    cache: parsing.Cache = True


def run(argv: list[str]) -> int:
    """Draws a trial of the agent of a run."""
    options = parsing.parse(Options, argv, "jaxmeta render")
    folder = checks.run_folder(options.run, "render")
    config = startup.read_config(folder, options.cache)
    checks.seed(options.task)
    build = config.build() if registry.is_own(config.tasks) else None
    drawn_by = RENDERED.get(config.tasks) if build is None else _own(build[0])
    if drawn_by is None:
        known = "grid-navigation, maze, sinusoid, playground and families on Brax"
        raise parsing.UsageError(f"the run in {folder} is on {config.tasks}; render draws runs on {known}")
    kind = SUFFIXES.get(drawn_by, ".png")
    file = options.out or folder / f"trial-{options.task}{kind}"
    if file.suffix.lower() != kind:
        raise parsing.UsageError(f"--out is {file}; a run on {config.tasks} is drawn into a {kind} file")
    checks.picture("--out", file)
    if kind == ".gif":
        os.environ.setdefault("MUJOCO_GL", "egl")  # read as mujoco is imported; its own default needs a display
    stored = startup.load(folder, config, options.cache, build)
    drawn = importlib.import_module(drawn_by).draw_trial(stored, options.task)
    if kind == ".png":
        from jaxmeta.viz import canvas

        canvas.save(drawn, file)
    else:
        file.write_bytes(drawn.encode() if isinstance(drawn, str) else drawn)
    print(file)
    return 0


def _own(family: Any) -> str | None:
    """Returns what draws a family of the user: a web page if it is on Brax."""
    from jaxmeta.tasks.brax import viewer

    return "jaxmeta.viz.replays" if viewer.unwrap(family.env) is not None else None
