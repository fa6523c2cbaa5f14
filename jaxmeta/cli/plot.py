"""`jaxmeta plot`: the curves of a run."""

from __future__ import annotations

import dataclasses

from jaxmeta.cli import checks, parsing, startup
from jaxmeta.experiment import assessment, runs


@dataclasses.dataclass(frozen=True)
class Options:
    """Draws learning and adaptation curve of a run into its folder, and the return of each of finitely many tasks."""

    run: parsing.RunFolder = None
    cache: parsing.Cache = True


def run(argv: list[str]) -> int:
    """Draws the pictures of a run."""
    options = parsing.parse(Options, argv, "jaxmeta plot")
    folder = checks.run_folder(options.run, "plot")
    config = startup.read_config(folder, options.cache)
    evaluation = runs.read_evaluation(folder)
    if evaluation is None:
        evaluation = assessment.assess(startup.load(folder, config, options.cache))
    from jaxmeta.viz import plot

    for file in plot.draw(folder, runs.read_metrics(folder), evaluation):
        print(file)
    return 0
