"""`jaxmeta evaluate`: the returns of a run on held-out tasks."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from jaxmeta.cli import checks, parsing, startup
from jaxmeta.config import codec
from jaxmeta.experiment import assessment, logging, registry


@dataclasses.dataclass(frozen=True)
class Options:
    """Adapts the agent of a run to held-out tasks and reports its returns, by task if there are finitely many."""

    run: parsing.RunFolder = None
    num_tasks: int = 40
    """Held-out tasks. If they are a finite set, each is evaluated equally often, in at least this many trials."""
    seed: int = 0
    """Random seed of the tasks and the evaluation."""
    rounds: int | None = None
    """Rounds of adaptation; by default as in meta-training."""
    streams: int | None = None
    """Parallel streams per task and round; by default as in meta-training."""
    deterministic: parsing.Switch = False
    """Act by the mode of the policy instead of sampling."""
    json: parsing.Switch = False
    """Print one JSON object instead of a table."""
    cache: parsing.Cache = True


def run(argv: list[str]) -> int:
    """Evaluates the last checkpoint of a run."""
    options = parsing.parse(Options, argv, "jaxmeta evaluate")
    folder = checks.run_folder(options.run, "evaluate")
    checks.at_least("--num-tasks", options.num_tasks, 1)
    if options.rounds is not None:
        checks.at_least("--rounds", options.rounds, 0)
    if options.streams is not None:
        checks.at_least("--streams", options.streams, 1)
    checks.seed(options.seed)
    config = startup.read_config(folder, options.cache)
    startup.start_jax(options.cache)
    startup.find_devices()
    family, meta = config.build()
    _check_rounds(options.rounds, meta, folder, config.algo)
    stored = startup.load(folder, config, options.cache, (family, meta))
    evaluation = assessment.assess(
        stored, options.num_tasks, options.seed, options.rounds, options.deterministic, options.streams
    )
    if options.json:
        print(codec.to_json(evaluation))
    else:
        logging.print_evaluation(evaluation)
    return 0


def _check_rounds(rounds: int | None, meta: Any, folder: Path, algo: str) -> None:
    """Refuses a number of rounds that the agent cannot use."""
    if not rounds:
        return
    if not meta.plan.rounds:
        raise parsing.UsageError(
            f"--rounds is {rounds}, but the agent in {folder} was meta-trained without adaptation between rounds; leave"
            " --rounds out"
        )
    if algo in registry.ONE_SHOT and rounds > meta.plan.rounds:
        raise parsing.UsageError(
            f"--rounds is {rounds}, but {algo} adapts to the demonstration in round 0 only; take 0 or 1"
        )
    if rounds < meta.info.prior_rounds:
        least = meta.info.prior_rounds
        raise parsing.UsageError(
            f"--rounds is {rounds}, but the first {least} episodes of the agent in {folder} act on the prior; take at"
            f" least {least}"
        )
