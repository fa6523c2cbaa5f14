"""Named reference runs, held to published numbers.

    python -m benchmarks.reference_runs navigation [--out DIR] [--json]

Each runs `jaxmeta train` and then `jaxmeta evaluate`, in this process, and writes `benchmarks/results/NAME.json`. The
exit code is 1 if what is required is not met.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from benchmarks.throughput import provenance
from jaxmeta import cli, configs, runs

RESULTS = Path(__file__).parent / "results"


@dataclasses.dataclass(frozen=True)
class Row:
    """One number of a reference run."""

    name: str
    find: Callable[[dict[str, Any]], dict[str, Any]]
    """Takes its statistics out of an evaluation."""
    published: float | None = None
    optimum: float | None = None
    required: tuple[Literal["mean", "ci95"], float | None, float | None] | None = None
    """What must lie between two bounds, of which one may be open: the mean, or the whole interval."""

    def judge(self, evaluation: dict[str, Any]) -> dict[str, Any]:
        """Returns the row as it is written."""
        point = self.find(evaluation)
        row = {"name": self.name, "ours": point["mean"], "stderr": point["stderr"], "ci95": point["ci95"]}
        row |= {"published": self.published, "required": None, "met": None}
        if self.optimum is not None:
            row["optimum"] = self.optimum
        if self.required is not None:
            what, low, high = self.required
            values = [point["mean"]] if what == "mean" else point["ci95"]
            row["required"] = {what: [low, high]}
            row["met"] = all(_between(value, low, high) for value in values)
        return row


@dataclasses.dataclass(frozen=True)
class Reference:
    """A run and what it is held to."""

    algo: str
    tasks: str
    updates: int
    train: str
    """Further flags of `jaxmeta train`."""
    evaluate: str
    """Flags of `jaxmeta evaluate`."""
    rows: tuple[Row, ...]


def _step(index: int, published: float, least: float | None = None) -> Row:
    required = None if least is None else ("mean", least, None)
    return Row(f"step {index}", lambda evaluation: evaluation["returns"][index][0], published, required=required)


REFERENCES = {
    # published: the data of Finn et al. (2017), 40 test tasks, 40 trajectories, step size halved after the first step
    "navigation": Reference(
        algo="maml",
        tasks="navigation",
        updates=100,
        train="--chunk 5 --algo.inner-lr 0.5 --algo.later-lr-scale 0.5 --algo.action-scale 0.1 --algo.num-tasks 40"
        " --algo.hidden 100 100 --algo.activation relu",
        evaluate="--rounds 3 --streams 40 --num-tasks 40",
        rows=(_step(0, -40.4), _step(1, -11.7, least=-14.0), _step(2, -3.33), _step(3, -3.23, least=-5.0)),
    ),
    # published: Duan et al. (2016), 10 arms, 10 pulls; above the optimum something is wrong
    "bandit": Reference(
        algo="rl2",
        tasks="bandit",
        updates=400,
        train="--chunk 10",
        evaluate="--num-tasks 20000",
        rows=(
            Row(
                "trial return",
                lambda evaluation: evaluation["trial_return"],
                published=6.7,
                optimum=6.714,
                required=("mean", 6.55, 6.72),
            ),
        ),
    ),
    # nothing published: the physics of Brax is not that of MuJoCo
    "half-cheetah-dir": Reference(
        algo="maml",
        tasks="half-cheetah-dir",
        updates=260,
        train="--tasks.horizon 100 --algo.inner-lr 1.0 --algo.init-log-std -0.5 --algo.trace 0.95"
        " --algo.trpo.max-kl 0.02",
        evaluate="--num-tasks 40",
        rows=(
            Row("before", lambda evaluation: evaluation["returns"][0][0]),
            Row("after", lambda evaluation: evaluation["returns"][-1][-1]),
            Row("gain", lambda evaluation: evaluation["gain"], required=("ci95", 0.0, None)),
        ),
    ),
}


@dataclasses.dataclass(frozen=True)
class Options:
    """Which reference run, and where."""

    name: Annotated[Literal["navigation", "bandit", "half-cheetah-dir"], tyro.conf.Positional]
    """Reference run."""
    out: Path | None = None
    """Run folder, new or empty; by default runs/reference/NAME."""
    updates: int | None = None
    """Meta-updates; by default those of the reference."""
    seed: int = 0
    """Decides all that is random, in training and in evaluation."""
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print one JSON object and nothing else; progress goes to the standard error."""


class Refused(Exception):
    """A command of jaxmeta has failed and said why."""

    def __init__(self, code: int):
        super().__init__(f"exit code {code}")
        self.code = code


def perform(options: Options) -> dict[str, Any]:
    """Trains and evaluates a reference run; returns the record that is written.

    Raises:
      Refused: if a command fails; one that finds the folder taken does.
    """
    reference = REFERENCES[options.name]
    out = str(options.out or Path("runs/reference") / options.name)
    updates = reference.updates if options.updates is None else options.updates
    seed = ["--seed", str(options.seed)]
    train = ["train", reference.algo, reference.tasks, "--out", out, "--updates", str(updates), *seed]
    train += shlex.split(reference.train)
    evaluate = ["evaluate", out, *seed, *shlex.split(reference.evaluate)]
    with contextlib.redirect_stdout(sys.stderr):
        _call(train)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        _call([*evaluate, "--json"])
    evaluation = json.loads(printed.getvalue())
    return {
        "name": options.name,
        "commands": [shlex.join(["jaxmeta", *command]) for command in (train, evaluate)],
        "rows": [row.judge(evaluation) for row in reference.rows],
        "num_tasks": evaluation["num_tasks"],
        "seed": options.seed,
        "updates": updates,
        # of the updates alone, compilation included
        "wall_s": runs.read_metrics(out)[-1]["seconds"],
    } | provenance()


def _call(command: list[str]) -> None:
    if code := cli.main(command):
        raise Refused(code)


def _between(value: float | None, low: float | None, high: float | None) -> bool:
    """Tells whether a value is within its bounds; None, a value that is not finite, never is."""
    return value is not None and (low is None or value >= low) and (high is None or value <= high)


def _print(record: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(record["name"])
    for column in ("ours", "95 % interval", "published", "required", "met"):
        table.add_column(column, justify="right", no_wrap=True)
    for row in record["rows"]:
        interval = " to ".join(_number(value) for value in row["ci95"])
        met = "" if row["met"] is None else "yes" if row["met"] else "no"
        table.add_row(row["name"], _number(row["ours"]), interval, _number(row["published"]), _required(row), met)
    Console().print(table)
    for command in record["commands"]:
        print(command)
    print(f"{record['updates']} updates in {record['wall_s']:,.0f} s on {record['device']}, commit {record['commit']}")


def _required(row: dict[str, Any]) -> str:
    """Says what is required, such as `mean 6.55 to 6.72`."""
    if row["required"] is None:
        return ""
    ((what, (low, high)),) = row["required"].items()
    name = {"mean": "mean", "ci95": "interval"}[what]
    if high is None:
        return f"{name} from {low:.4g}"
    return f"{name} to {high:.4g}" if low is None else f"{name} {low:.4g} to {high:.4g}"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def main(argv: Sequence[str] | None = None) -> int:
    options = tyro.cli(Options, args=argv, prog="python -m benchmarks.reference_runs", description=__doc__)
    try:
        record = perform(options)
    except Refused as refused:
        return refused.code
    text = configs.to_json(record, indent=2)
    RESULTS.mkdir(exist_ok=True)
    runs.write_atomically(RESULTS / f"{options.name}.json", text + "\n")
    if options.json:
        print(text)
    else:
        _print(record)
    return 1 if any(row["met"] is False for row in record["rows"]) else 0


if __name__ == "__main__":
    sys.exit(main())
