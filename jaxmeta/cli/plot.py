"""`jaxmeta plot`: the curves of a run."""

from __future__ import annotations

import dataclasses

from jaxmeta.cli import checks, parsing, startup
from jaxmeta.experiment import assessment, runs


@dataclasses.dataclass(frozen=True)
class Options:
    """Draws how a run learned and adapts, the tasks of a finite set, and what a curriculum chose, into its folder.

    For an agent that adapts within a trial it also draws the return of every episode beside those of reference agents,
    and on Bernoulli bandits its policy beside the exact posterior.
    """

    run: parsing.RunFolder = None
    cache: parsing.Cache = True


def run(argv: list[str]) -> int:
    """Draws the pictures of a run."""
    options = parsing.parse(Options, argv, "jaxmeta plot")
    folder = checks.run_folder(options.run, "plot")
    config = startup.read_config(folder, options.cache)
    evaluation, records = runs.read_evaluation(folder), runs.read_metrics(folder)
    stored = None
    if evaluation is None:
        stored = startup.load(folder, config, options.cache)
        evaluation = assessment.assess(stored)
    from jaxmeta.viz import curricula, plot

    for file in (*plot.draw(folder, records, evaluation), *curricula.draw(folder, records, evaluation)):
        print(file)
    plan = evaluation["plan"]
    if not plan["rounds"] and plan["episodes"] > 1 and runs.last_checkpoint(folder) is not None:
        from jaxmeta.viz import in_context

        for file in in_context.draw(folder, stored or startup.load(folder, config, options.cache)):
            print(file)
    return 0
