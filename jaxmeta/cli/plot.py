"""`jaxmeta plot`: the curves of a run."""

from __future__ import annotations

import dataclasses

from jaxmeta.cli import checks, parsing, startup
from jaxmeta.experiment import assessment, runs


@dataclasses.dataclass(frozen=True)
class Options:
    """Draws how a run learned and adapts, the tasks of a finite set, and what a curriculum chose, into its folder."""

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
    from jaxmeta.viz import curricula, plot

    records = runs.read_metrics(folder)
    for file in (*plot.draw(folder, records, evaluation), *curricula.draw(folder, records, evaluation)):
        print(file)
    return 0
