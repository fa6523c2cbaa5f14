"""One call of `jaxmeta reproduce`: what is to do, what of it is done already, and the doing."""

from __future__ import annotations

import contextlib
import dataclasses
import operator
import shlex
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxmeta import reproduce
from jaxmeta.cli import checks
from jaxmeta.cli.parsing import UsageError
from jaxmeta.config import codec
from jaxmeta.experiment import assessment, loading, locks, provenance, registry, runs
from jaxmeta.reproduce import files, statistics
from jaxmeta.reproduce.base import Computed, Evaluation, Point, Reference, Row, Run, Table, Trained

if TYPE_CHECKING:
    from jaxmeta.cli.reproduce import Options

RUNS = Path("runs/reproduce")
RESULTS = Path("benchmarks/results")
START = ("start_from", "start")
"""The fields of a run's configuration that say with which run it began, folder included."""
Train = Callable[[list[str]], int]
"""Runs `jaxmeta train` with arguments and returns its exit code."""


@dataclasses.dataclass(frozen=True)
class Call:
    """What is to do."""

    table: Table
    chosen: tuple[Run, ...]
    out: Path
    results: Path | None
    """Where the copy goes, if anywhere."""
    seed: int
    num_seeds: int
    quick: bool
    again: bool
    cache: bool

    def tables(self) -> list[Path]:
        """Lists the files that the table is written to; each has a picture beside it."""
        copy = [] if self.results is None else [self.results / f"reproduce-{self.table.name}.json"]
        return [self.out / files.TABLE, *copy]

    def seeds(self, run: Run) -> int:
        """Returns the number of seeds of a run: where nothing is trained there is one."""
        return self.num_seeds if isinstance(run, Trained) else 1

    def start(self, run: Run) -> Trained | None:
        """Returns the run that another one begins with, if any."""
        if not isinstance(run, Trained) or not run.start:
            return None
        (start,) = (other for other in self.table.runs if other.name == run.start)
        assert isinstance(start, Trained)
        return start.quick() if self.quick else start

    def lineage(self, run: Run) -> list[Trained]:
        """Lists the trainings that lead to a run, in their order: those of the runs it begins with, and its own."""
        if not isinstance(run, Trained):
            return []
        start = self.start(run)
        return [*(self.lineage(start) if start else []), run]

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
    """Checks all that can be checked before JAX starts.

    Raises:
      UsageError: for what cannot be done as it is asked for, a folder that holds another run included.
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
        raise UsageError(f"--results is {options.results}, but what --quick finds is not kept; leave one out")
    table, out = reproduce.load(options.table), options.out or _usual_out(options.table, options.quick)
    # rows of a trial run elsewhere are no results
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
            raise UsageError(f"{file} holds {kind} rows, which do not mix with others; choose another --out")
    for run in call.chosen if not options.again else ():
        _check_folder(call, run)
        _check_results(call, run)
    moved = {run.name for run in call.chosen} if options.again else set()
    for run in call.chosen:
        for start in call.lineage(run)[:-1]:
            if start.name not in moved:
                _check_folder(call, start, f"choose another --out, or run --rows {start.name} --again first")
    return call


def perform(call: Call, train: Train) -> tuple[list[dict[str, Any]], int]:
    """Runs what is not done yet, one run after the other, and writes the table after each.

    Returns:
      The rows of the chosen runs, as the table has them, and 0; or, where training was told to stop, those until then
      and the exit code of `jaxmeta train`.
    """
    rows: list[dict[str, Any]] = []
    published: list[dict[str, Any]] = []
    origin = provenance.origin()  # as of now: what is edited later is not what runs
    if call.again:
        _move_aside([call.out / run.name for run in call.chosen])
    for index, run in enumerate(call.chosen):
        folder, key = call.out / run.name, _key(call, run)
        with files.locked(folder, wait=False):
            measurement = files.read_measurement(folder, key)
            done = measurement is not None
            print(f"[{index + 1}/{len(call.chosen)}] {run.name}{': done already' if done else ''}", file=sys.stderr)
            if measurement is None:
                with contextlib.redirect_stdout(sys.stderr):
                    code = _train(call, run, train)
                    if code:
                        how = "the same command, without --again," if call.again else "the same command"
                        print(f"jaxmeta: {index} of {len(call.chosen)} runs are finished; {how} goes on from there")
                        return rows, code
                    measurement = {"key": key} | _measure(call, run, origin)
            if "optima" not in measurement:
                # some take a minute: they are stored with the numbers that they stand beside
                measurement |= {"optima": _optima(run)}
                files.write_measurement(folder, measurement)
                measurement = files.read_measurement(folder, key) or measurement
        rows += [_record(call, run, row, measurement) for row in run.rows]
        if not done or index + 1 == len(call.chosen):
            published, *_ = [files.publish(call.table, file, rows) for file in call.tables()]
    _draw_pictures(call)
    chosen = {row["name"] for row in rows}
    return [row for row in published if row["name"] in chosen], 0


def _draw_pictures(call: Call) -> None:
    """Draws the further figures of a table from all of its runs that are trained, beside each of its files."""
    if call.table.pictures is None:
        return
    from jaxmeta.viz import plot

    trained = {run.name: call.out / run.name for run in call.table.runs if isinstance(run, Trained)}
    there = {name: folder for name, folder in trained.items() if runs.last_checkpoint(folder) is not None}
    for name, figure in call.table.pictures(there).items():
        for file in call.tables():
            plot.save(figure, file.with_name(f"{file.stem}-{name}.png"))


def _move_aside(folders: list[Path]) -> None:
    """Moves away what runs left, unless another process is at one of them: then nothing moves."""
    there = [folder for folder in folders if folder.exists()]
    with contextlib.ExitStack() as stack:
        for folder in there:
            stack.enter_context(files.locked(folder, wait=False))
        for folder in there:
            print(f"{folder} is now {files.move_aside(folder)}", file=sys.stderr)


def _train(call: Call, run: Run, train: Train) -> int:
    """Trains what is to be trained; returns the exit code."""
    folder = call.out / run.name
    if not isinstance(run, Trained) or _is_finished(folder, run):
        return 0
    resume = ["--resume"] if (folder / runs.CONFIG).is_file() else []
    if resume:
        run = dataclasses.replace(run, start="")  # it has begun
    elif start := call.start(run):
        with files.locked(call.out / start.name, wait=False):
            if code := _train(call, start, train):
                return code
    quick = ["--eval-tasks", "0"] if call.quick else []
    cache = [] if call.cache else ["--no-cache"]
    return train([*call.train_command(run)[1:], *resume, *quick, *cache])


def _measure(call: Call, run: Run, origin: dict[str, Any]) -> dict[str, Any]:
    """Evaluates a run and returns its numbers and where they are from."""
    folder, begun = call.out / run.name, time.perf_counter()
    if isinstance(run, Computed):
        values = run.compute(**run.arguments)
        points = {run.row_name(row): row.statistic(values) | {"num_trials": run.count} for row in run.rows}
    else:
        evaluate = _evaluate_trained if isinstance(run, Trained) else _evaluate_reference
        reports = evaluate(call, run)
        points = {run.row_name(row): _point(row, reports[row.evaluation]) for row in run.rows}
    seconds = time.perf_counter() - begun
    if isinstance(run, Trained):
        origin = _origin(codec.encode(runs.read_config(folder), ""))
        seconds = _training_seconds(call, run)
    return {
        "points": points,
        "seeds": call.seeds(run),
        # of the training, compilation included; where nothing is trained, of the evaluation
        "wall_s": seconds and round(seconds, 3),
    } | origin


def _origin(config: dict[str, Any]) -> dict[str, Any]:
    """Says where a run, whose configuration is given as JSON has it, was trained, and the one that it began with."""
    origin = {name: config.get(name) for name in provenance.ORIGIN}
    if config.get("start") is None:
        return origin
    before = _origin(config["start"]["config"])
    both = {name: provenance.continued(before[name], origin[name]) for name in ("device", "platform", "commit")}
    return origin | both


def _training_seconds(call: Call, run: Trained) -> float | None:
    """Returns how long a run was trained, and those that it begins with; None where that was not noted."""
    records = [runs.read_metrics(call.out / one.name) for one in call.lineage(run)]
    return sum(record[-1]["seconds"] for record in records) if all(records) else None


def _optima(run: Run) -> dict[str, float | None]:
    """Computes the exact optimum of every row that has one, by its full name."""
    return {run.row_name(row): row.optimum() if callable(row.optimum) else row.optimum for row in run.rows}


def _evaluate_trained(call: Call, run: Run) -> dict[str, Any]:
    assert isinstance(run, Trained)
    stored = loading.load(call.out / run.name)
    reports = {}
    for one in run.trials:
        config = run.config(call.seed, call.num_seeds, one.tasks)
        # the agent and its plan stay those of meta-training, even where it meets tasks of another size
        reports[one.name] = _report(stored.meta.learner, stored.params, stored.meta.plan, config, one, call.seed)
    return reports


def _evaluate_reference(call: Call, run: Run) -> dict[str, Any]:
    assert isinstance(run, Reference)
    import jax

    import jaxmeta as jm

    learner = operator.attrgetter(run.learner)(jm.references)(**run.arguments)
    params, reports = learner.init(jax.random.key(call.seed)), {}
    for one in run.trials:
        config = run.config(one.tasks)
        plan = jm.Plan(episodes=config.build_family().episodes)
        reports[one.name] = _report(learner, params, plan, config, one, call.seed)
    return reports


def _report(
    learner: Any, params: Any, plan: Any, config: runs.RunConfig, evaluation: Evaluation, seed: int
) -> list[Any]:
    """Evaluates a learner; with the same seed all learners get the same tasks.

    Returns:
      The report; or, over every task, one for each of them. With several seeds it stays one: errors are over seeds.
    """
    import jax

    every_task = evaluation.every_task and evaluation.every_task(config.tasks_config)
    report = assessment.trials(
        learner,
        params,
        config.build_family(),
        assessment.changed_plan(plan, evaluation.rounds, evaluation.streams),
        evaluation.num_tasks if every_task is None else assessment.repeated(every_task, evaluation.num_tasks),
        seed,
        runs.seed_axis(config),
        evaluation.deterministic,
    )
    if every_task is None or config.num_seeds > 1:
        return [report]
    count = jax.tree.leaves(every_task)[0].shape[0]
    return [jax.tree.map(lambda leaf, task=task: leaf[task::count], report) for task in range(count)]


def _point(row: Row, reports: list[Any]) -> Point:
    points = [row.statistic(report) for report in reports]
    point = points[0] if len(points) == 1 else statistics.over_tasks(points)
    num_trials = sum(report.env_steps.size for report in reports)
    return {name: point[name] for name in ("mean", "stderr", "ci95")} | {"num_trials": num_trials}


def _record(call: Call, run: Run, row: Row, measurement: dict[str, Any]) -> dict[str, Any]:
    """Returns a row as the table has it, not judged yet."""
    point = measurement["points"][run.row_name(row)]
    commands = [call.train_command(one) for one in call.lineage(run)]
    return {
        "name": run.row_name(row),
        "ours": point["mean"],
        "stderr": point["stderr"],
        "published": row.published,
        "optimum": measurement["optima"][run.row_name(row)],
        "num_trials": point["num_trials"],
        "seeds": measurement["seeds"],
        "wall_s": measurement["wall_s"],
        "required": None,
        "met": None,
        "ci95": point["ci95"],
        "command": [shlex.join(["jaxmeta", *command]) for command in (*commands, call.command(run))],
        "updates": run.updates if isinstance(run, Trained) else None,
        "seed": call.seed,
        **{name: measurement[name] for name in provenance.ORIGIN},
        "quick": call.quick,
    }


def _usual_out(name: str, quick: bool) -> Path:
    return RUNS / (f"{name}-quick" if quick else name)


def _key(call: Call, run: Run) -> dict[str, Any]:
    """Returns what decides the numbers of a run; a measurement counts as long as it stays the same."""
    key: dict[str, Any] = {"evaluations": [one.describe() for one in run.trials], "seed": call.seed}
    key |= {"rows": [[run.row_name(row), row.evaluation, *statistics.describe(row.statistic)] for row in run.rows]}
    if isinstance(run, Trained):
        config = _history(call, run)
        begun = {"start": config.pop("start")} if run.start else {}
        return key | begun | {"config": config}
    if isinstance(run, Computed):
        return key | {"compute": run.compute.__name__, "arguments": dict(run.arguments)}
    assert isinstance(run, Reference)
    tasks = codec.encode(run.config().tasks_config, "tasks")
    return key | {"learner": run.learner, "arguments": dict(run.arguments), "tasks": [run.tasks, tasks]}


def _history(call: Call, run: Trained) -> dict[str, Any]:
    """Returns the configuration of a run and, as its `start`, that of the one it begins with, and so on."""
    start = call.start(run)
    return _config(call, run) | ({"start": _history(call, start)} if start else {})


def _config(call: Call, run: Trained) -> dict[str, Any]:
    """Returns the configuration of a run as JSON has it, without where its start lies: older rows stay finished."""
    config = codec.encode(run.config(call.seed, call.num_seeds), "")
    return {name: value for name, value in config.items() if name not in START}


def _check_folder(call: Call, run: Run, remedy: str = "choose another --out, or add --again to move it aside") -> None:
    """Refuses to go on in a folder that holds another run."""
    folder = call.out / run.name
    if not isinstance(run, Trained) or not _holds_files(folder):
        return
    if not (folder / runs.CONFIG).is_file():
        raise UsageError(f"{folder} is not empty and holds no run; {remedy}")
    wanted, stored = run.config(call.seed, call.num_seeds), runs.read_config(folder)
    elsewhere = (*START, *provenance.ORIGIN)
    wanted = dataclasses.replace(wanted, **{name: getattr(stored, name) for name in elsewhere})
    if differs := codec.first_difference("", wanted, stored):
        name = differs[0].replace("_config.", ".")
        raise UsageError(f"{name} is {differs[1]}, but the run in {folder} has {differs[2]}; {remedy}")
    if (stored.start_from is None) == bool(run.start):
        begins = f"begins with {run.start}" if run.start else "begins with random parameters"
        raise UsageError(f"{run.name} {begins}, but the run in {folder} does not; {remedy}")
    if stored.start:  # an older run does not say what it began with
        now = [(one.updates, _recipe(_config(call, one))) for one in call.lineage(run)[:-1]]
        if now != _begun_with(stored.start):
            raise UsageError(f"{run.name} begins with another {run.start} than the run in {folder} did; {remedy}")


def _holds_files(folder: Path) -> bool:
    return folder.is_dir() and any(entry.name != locks.LOCK for entry in folder.iterdir())


def _begun_with(start: dict[str, Any] | None) -> list[tuple[int, dict[str, Any]]]:
    """Lists updates and recipes of the runs that one began with, in their order, from what it noted."""
    if not start:
        return []
    return [*_begun_with(start["config"].get("start")), (start["update"], _recipe(start["config"]))]


def _recipe(config: dict[str, Any]) -> dict[str, Any]:
    """Leaves out of a configuration where a run was, as JSON has it."""
    return {name: value for name, value in config.items() if name not in (*START, *provenance.ORIGIN)}


def _check_results(call: Call, run: Run) -> None:
    """Refuses to put rows into the copy where some of another seed, or of more seeds, stand."""
    names, file = {run.row_name(row) for row in run.rows}, call.tables()[-1]
    for row in files.read_table(file) if call.results is not None else ():
        if row["name"] in names and (row["seed"] != call.seed or row["seeds"] > call.seeds(run)):
            raise UsageError(
                f"{file} has {row['name']} of {row['seeds']} seeds from {row['seed']} on, not of {call.seeds(run)} from"
                f" {call.seed} on; choose another --results, or add --again to replace it"
            )


def _is_finished(folder: Path, run: Trained) -> bool:
    """Tells whether a run, whose configuration was checked, is trained to its end."""
    return (folder / runs.CONFIG).is_file() and runs.last_checkpoint(folder) == run.updates
