"""One call of `jaxmeta reproduce`: its settings, and the checks before anything is run."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxmeta import reproduce
from jaxmeta.cli import checks, train
from jaxmeta.cli.parsing import UsageError
from jaxmeta.config import codec
from jaxmeta.experiment import locks, provenance, registry, runs
from jaxmeta.reproduce import files, statistics
from jaxmeta.reproduce.base import Computed, Reference, Run, Table, Trained

if TYPE_CHECKING:
    from jaxmeta.cli.reproduce import Options

RUNS = Path("runs/reproduce")
RESULTS = Path("benchmarks/results")
START = ("start_from", "start")
"""Fields of a run's configuration that identify the run that it starts from."""


@dataclasses.dataclass(frozen=True)
class Call:
    """The checked settings of a call."""

    table: Table
    chosen: tuple[Run, ...]
    out: Path
    results: Path | None
    """Folder of the second copy of the table, if any."""
    seed: int
    num_seeds: int
    quick: bool
    again: bool
    cache: bool

    def tables(self) -> list[Path]:
        """Lists the files that the table is written to; each has a figure in the same folder."""
        copy = [] if self.results is None else [self.results / f"reproduce-{self.table.name}.json"]
        return [self.out / files.TABLE, *copy]

    def seeds(self, run: Run) -> int:
        """Returns the number of seeds of a run; one if nothing is trained.

        A computation with an argument `seeds` trains as many itself.
        """
        if isinstance(run, Computed) and "seeds" in run.arguments:
            return run.arguments["seeds"]
        trains = bool(self.lineage(run)) or (isinstance(run, Computed) and run.trains)
        return self.num_seeds if trains else 1

    def start(self, run: Run) -> Trained | None:
        """Returns the trained run that `run` starts from, or whose params it is computed from, if any."""
        name = run.start if isinstance(run, Trained) else run.of if isinstance(run, Computed) else ""
        if not name:
            return None
        (start,) = (other for other in self.table.runs if other.name == name)
        assert isinstance(start, Trained)
        return start.quick() if self.quick else start

    def lineage(self, run: Run) -> list[Trained]:
        """Lists the training runs that lead to `run`, in order: those that it starts from, and itself."""
        start = self.start(run)
        return [*(self.lineage(start) if start else []), *([run] if isinstance(run, Trained) else [])]

    def train_options(self, run: Trained) -> train.Options:
        """Returns the options of `jaxmeta train` for a run."""
        options = run.options(self.out / run.name, self.seed, self.num_seeds)
        eval_tasks = 0 if self.quick else options.eval_tasks
        return dataclasses.replace(options, eval_tasks=eval_tasks, cache=self.cache)

    def train_command(self, run: Trained) -> list[str]:
        """Returns the arguments of `jaxmeta` that train a run."""
        return run.command(self.out / run.name, self.seed, self.num_seeds)

    def command(self, run: Run) -> list[str]:
        """Returns the arguments of `jaxmeta` that measure a run."""
        given = [("--seed", self.seed, 0), ("--num-seeds", self.num_seeds, 1)]
        options = [text for name, value, usual in given if value != usual for text in (name, str(value))]
        quick = ["--quick"] if self.quick else []
        usual_out = self.out == _usual_out(self.table.name, self.quick)
        out = [] if usual_out else ["--out", str(self.out)]
        return ["reproduce", self.table.name, "--rows", run.name, *quick, *options, *out]


def prepare(options: Options) -> Call:
    """Makes all checks that need no JAX, and returns the settings of the call.

    Raises:
      UsageError: if the options are invalid, or a folder holds another run.
    """
    known = ", ".join(reproduce.TABLES)
    if options.table is None:
        raise UsageError(f"reproduce needs the name of a table, one of {known}, such as `jaxmeta reproduce bandit`")
    if options.table not in reproduce.TABLES:
        near = registry.near(options.table, reproduce.TABLES)
        raise UsageError(f"no table {options.table!r};{near} the tables are {known}")
    checks.seed(options.seed)
    checks.at_least("--num-seeds", options.num_seeds, 1)
    if options.quick and options.results is not None:
        raise UsageError(f"--results is {options.results}, but results of --quick are not kept; leave one out")
    table, out = reproduce.load(options.table), options.out or _usual_out(options.table, options.quick)
    # rows in another --out are not copied to the results
    usual = out == _usual_out(options.table, quick=False) and RESULTS.is_dir()
    results = options.results or (RESULTS if usual else None)
    call = Call(
        table,
        table.choose(options.rows, options.quick),
        out,
        results,
        options.seed,
        options.num_seeds,
        options.quick,
        options.again,
        options.cache,
    )
    checks.writable("--out", out)
    if results is not None:
        checks.writable("--results", results)
    for file in call.tables():
        if any(row.get("quick") != options.quick for row in files.read_table(file)):
            kind = "full" if options.quick else "quick"
            raise UsageError(f"{file} holds {kind} rows; full and quick rows cannot be mixed; choose another --out")
    for run in call.chosen if not options.again else ():
        check_folder(call, run)
        _check_results(call, run)
    moved = {run.name for run in call.chosen} if options.again else set()
    for run in call.chosen:
        for start in call.lineage(run):
            if start.name not in moved and start.name != run.name:
                check_folder(call, start, f"choose another --out, or run --rows {start.name} --again first")
    return call


def _usual_out(name: str, quick: bool) -> Path:
    return RUNS / (f"{name}-quick" if quick else name)


def measurement_key(call: Call, run: Run) -> dict[str, Any]:
    """Returns all settings that determine the numbers of a run; a stored measurement is valid while they are equal."""
    usual = run.tasks_config() if isinstance(run, Trained | Reference) else None
    key: dict[str, Any] = {"evaluations": [one.describe(usual) for one in run.trials], "seed": call.seed}
    key |= {"rows": [[run.row_name(row), row.evaluation, *statistics.describe(row.statistic)] for row in run.rows]}
    if isinstance(run, Trained):
        config = _history(call, run)
        begun = {"start": config.pop("start")} if run.start else {}
        return key | begun | {"config": config}
    if isinstance(run, Computed):
        start = call.start(run)
        trained = {"config": _history(call, start)} if start else {}
        seeds = {"num_seeds": call.num_seeds} if run.trains else {}
        return key | trained | seeds | {"compute": run.compute.__name__, "arguments": dict(run.arguments)}
    assert isinstance(run, Reference)
    tasks = codec.encode(usual, "tasks")
    return key | {"learner": run.learner, "arguments": dict(run.arguments), "tasks": [run.tasks, tasks]}


def _history(call: Call, run: Trained) -> dict[str, Any]:
    """Returns the configuration of a run with that of the run it starts from as `start`, recursively."""
    start = call.start(run)
    return _config(call, run) | ({"start": _history(call, start)} if start else {})


def _config(call: Call, run: Trained) -> dict[str, Any]:
    """Returns the configuration of a run, encoded for JSON, without the folder that it starts from."""
    config = _as_before(codec.encode(run.config(call.seed, call.num_seeds), ""))
    return {name: value for name, value in config.items() if name not in START}


def _as_before(config: dict[str, Any]) -> dict[str, Any]:
    """Removes later fields of a configuration if they have no effect: older rows need not be measured again."""
    without: dict[str, Any] = {"sampler": "uniform"}
    without |= dict.fromkeys(("sampler_config", "demonstrations", "expert", "library", "sources"))
    return {name: value for name, value in config.items() if name not in without or value != without[name]}


def check_folder(call: Call, run: Run, remedy: str = "choose another --out, or add --again to move it aside") -> None:
    """Raises a UsageError if the folder of a run holds another run."""
    folder = call.out / run.name
    if not isinstance(run, Trained) or not _holds_files(folder):
        return
    if not (folder / runs.CONFIG).is_file():
        raise UsageError(f"{folder} is not empty and is not a run folder; {remedy}")
    wanted, stored = run.config(call.seed, call.num_seeds), runs.read_config(folder)
    elsewhere = (*START, *provenance.ORIGIN)
    wanted = dataclasses.replace(wanted, **{name: getattr(stored, name) for name in elsewhere})
    if differs := codec.first_difference("", wanted, stored):
        name = differs[0].replace("_config.", ".")
        raise UsageError(f"{name} is {differs[1]}, but the run in {folder} has {differs[2]}; {remedy}")
    if (stored.start_from is None) == bool(run.start):
        begins = f"starts from {run.start}" if run.start else "starts from random parameters"
        raise UsageError(f"{run.name} {begins}, but the run in {folder} does not; {remedy}")
    if stored.start:  # missing in older runs
        now = [(one.updates, _recipe(_config(call, one))) for one in call.lineage(run)[:-1]]
        if now != _begun_with(stored.start):
            raise UsageError(f"{run.name} starts from another {run.start} than the run in {folder} did; {remedy}")


def _holds_files(folder: Path) -> bool:
    return folder.is_dir() and any(entry.name != locks.LOCK for entry in folder.iterdir())


def _begun_with(start: dict[str, Any] | None) -> list[tuple[int, dict[str, Any]]]:
    """Lists (updates, configuration) of the runs that a stored run started from, in order."""
    if not start:
        return []
    return [*_begun_with(start["config"].get("start")), (start["update"], _recipe(start["config"]))]


def _recipe(config: dict[str, Any]) -> dict[str, Any]:
    """Removes start and origin from an encoded configuration."""
    return {name: value for name, value in _as_before(config).items() if name not in (*START, *provenance.ORIGIN)}


def _check_results(call: Call, run: Run) -> None:
    """Refuses to replace rows in the results that have another seed or more seeds."""
    names, file = {run.row_name(row) for row in run.rows}, call.tables()[-1]
    for row in files.read_table(file) if call.results is not None else ():
        if row["name"] in names and (row["seed"] != call.seed or row["seeds"] > call.seeds(run)):
            raise UsageError(
                f"{file} has {row['name']} with --seed {row['seed']} --num-seeds {row['seeds']}, not --seed {call.seed}"
                f" --num-seeds {call.seeds(run)}; choose another --results, or add --again to replace it"
            )
