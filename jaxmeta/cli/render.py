"""`jaxmeta render`: a trial of the agent of a run."""

from __future__ import annotations

import dataclasses
import importlib
from pathlib import Path
from typing import Annotated

import tyro

from jaxmeta.cli import checks, parsing, startup

RENDERED = {"grid-navigation": "jaxmeta.viz.beliefs", "sinusoid": "jaxmeta.viz.waves"}
"""Task families whose trials are drawn, and by what."""


@dataclasses.dataclass(frozen=True)
class Options:
    """Draws a trial of the agent of a run, episode by episode: where it goes and, if it has one, its belief."""

    run: parsing.RunFolder = None
    task: Annotated[int, tyro.conf.arg(metavar="SEED")] = 0
    """Decides the task, drawn from the held-out ones."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """PNG to write; by default trial-SEED.png in the run folder. Only an earlier picture of a trial is overwritten."""
    cache: parsing.Cache = True


def run(argv: list[str]) -> int:
    """Draws a trial of the agent of a run."""
    options = parsing.parse(Options, argv, "jaxmeta render")
    folder = checks.run_folder(options.run, "render")
    config = startup.read_config(folder, options.cache)
    checks.seed(options.task)
    if config.tasks not in RENDERED:
        known = " and ".join(RENDERED)
        raise parsing.UsageError(f"the run in {folder} is on {config.tasks}; render draws runs on {known}")
    file = options.out or folder / f"trial-{options.task}.png"
    checks.picture("--out", file)
    stored = startup.load(folder, config, options.cache)
    from jaxmeta.viz import plot

    plot.save(importlib.import_module(RENDERED[config.tasks]).draw_trial(stored, options.task), file)
    print(file)
    return 0
