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
from typing import Any

from jaxmeta import configs, flags, provenance, registry, reproduce, runs
from jaxmeta.reproduce import files
from jaxmeta.reproduce.base import Evaluation, Point, Reference, Required, Row, Run, Table, Trained

RUNS = Path("runs/reproduce")
RESULTS = Path("benchmarks/results")
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


def prepare(options: flags.ReproduceOptions) -> Call:
    """Checks all that can be checked before JAX starts.

    Raises:
      UsageError: for what cannot be done as it is asked for, a folder that holds another run included.
    """
    known = ", ".join(reproduce.TABLES)
    if options.table is None:
        raise flags.UsageError(
            f"reproduce needs the name of a table, one of {known}, such as `jaxmeta reproduce bandit`"
        )
    if options.table not in reproduce.TABLES:
        near = registry.near(options.table, reproduce.TABLES)
        raise flags.UsageError(f"no table {options.table!r};{near} the tables are {known}")
    flags.check_seed(options.seed)
    flags.at_least("--num-seeds", options.num_seeds, 1)
    if options.quick and options.results is not None:
        raise flags.UsageError(f"--results is {options.results}, but what --quick finds is not kept; leave one out")
    table, out = reproduce.load(options.table), options.out or _usual_out(options.table, options.quick)
    results = options.results or (RESULTS if RESULTS.is_dir() and not options.quick else None)
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
    flags.check_writable("--out", out)
    if results is not None:
        flags.check_writable("--results", results)
    for file in call.tables():
        if any(row.get("quick") != options.quick for row in files.read_table(file)):
            kind = "full" if options.quick else "quick"
            raise flags.UsageError(f"{file} holds {kind} rows, which do not mix with others; choose another --out")
    for run in call.chosen if not options.again else ():
        _check_folder(call, run)
    return call


def perform(call: Call, train: Train) -> tuple[list[dict[str, Any]], int]:
    """Runs what is not done yet, one run after the other, and writes the table after each.

    Returns:
      The rows of the chosen runs, as the table has them, and 0; or, where training was told to stop, those until then
      and the exit code of `jaxmeta train`.
    """
    rows: list[dict[str, Any]] = []
    origin = provenance.provenance()  # as of now: what is edited later is not what runs
    for index, run in enumerate(call.chosen):
        key = _key(call, run)
        measurement = None if call.again else files.read_measurement(call.out / run.name, key)
        done = measurement is not None
        print(f"[{index + 1}/{len(call.chosen)}] {run.name}{': done already' if done else ''}", file=sys.stderr)
        if measurement is None:
            with contextlib.redirect_stdout(sys.stderr):
                code = _prepare_folder(call, run, train)
                if code:
                    how = "the same command, without --again," if call.again else "the same command"
                    print(f"jaxmeta: {index} of {len(call.chosen)} runs are finished; {how} goes on from there")
                    return rows, code
                measurement = {"key": key} | _measure(call, run, origin)
            files.write_measurement(call.out / run.name, measurement)
            measurement = files.read_measurement(call.out / run.name, key) or measurement
        rows += [_record(call, run, row, measurement) for row in run.rows]
        if not done or index + 1 == len(call.chosen):
            for file in call.tables():
                files.publish(call.table, file, rows)
    return rows, 0


def _prepare_folder(call: Call, run: Run, train: Train) -> int:
    """Moves aside what is to be done again, and trains what is to be trained; returns the exit code."""
    folder = call.out / run.name
    if call.again and (aside := files.move_aside(folder)):
        print(f"{folder} is now {aside}")
    if not isinstance(run, Trained) or _is_finished(folder, run):
        return 0
    resume = ["--resume"] if (folder / runs.CONFIG).is_file() else []
    quick = ["--eval-tasks", "0"] if call.quick else []
    cache = [] if call.cache else ["--no-cache"]
    return train([*call.train_command(run)[1:], *resume, *quick, *cache])


def _measure(call: Call, run: Run, origin: dict[str, Any]) -> dict[str, Any]:
    """Evaluates a run and returns its numbers and where they are from."""
    import jax

    folder, begun = call.out / run.name, time.perf_counter()
    if isinstance(run, Trained):
        reports = _evaluate_trained(call, run)
    else:
        assert isinstance(run, Reference)
        reports = _evaluate_reference(call, run)
    points = {run.row_name(row): _point(row, reports[row.evaluation]) for row in run.rows}
    seconds = time.perf_counter() - begun
    if isinstance(run, Trained):
        origin = origin | {"device": runs.read_config(folder).device}
        seconds = next((record["seconds"] for record in reversed(runs.read_metrics(folder))), None)
    return {
        "points": points,
        "seeds": call.num_seeds if isinstance(run, Trained) else 1,
        # of the training, compilation included; where nothing is trained, of the evaluation
        "wall_s": seconds and round(seconds, 3),
        "platform": jax.default_backend(),
    } | {name: origin[name] for name in ("device", "versions", "commit")}


def _evaluate_trained(call: Call, run: Trained) -> dict[str, Any]:
    stored = runs.load(call.out / run.name)
    reports = {}
    for one in run.evaluations:
        config = run.config(call.seed, call.num_seeds, one.tasks)
        # the agent and its plan stay those of meta-training, even where it meets tasks of another size
        reports[one.name] = _report(stored.meta.learner, stored.params, stored.meta.plan, config, one, call.seed)
    return reports


def _evaluate_reference(call: Call, run: Reference) -> dict[str, Any]:
    import jax

    import jaxmeta as jm

    learner = operator.attrgetter(run.learner)(jm.references)(**run.arguments)
    params, reports = learner.init(jax.random.key(call.seed)), {}
    for one in run.evaluations:
        config = run.config(one.tasks)
        plan = jm.Plan(episodes=config.build_family().episodes)
        reports[one.name] = _report(learner, params, plan, config, one, call.seed)
    return reports


def _report(learner: Any, params: Any, plan: Any, config: runs.RunConfig, evaluation: Evaluation, seed: int) -> Any:
    """Evaluates a learner; with the same seed all learners get the same tasks."""
    every_task = evaluation.every_task and evaluation.every_task(config.tasks_config)
    return runs.trials(
        learner,
        params,
        config.build_family(),
        runs.changed_plan(plan, evaluation.rounds, evaluation.streams),
        evaluation.num_tasks,
        seed,
        runs.seed_axis(config),
        every_task=every_task,
    )


def _point(row: Row, report: Any) -> Point:
    point = row.statistic(report)
    return {name: point[name] for name in ("mean", "stderr", "ci95")} | {"num_trials": report.env_steps.size}


def _record(call: Call, run: Run, row: Row, measurement: dict[str, Any]) -> dict[str, Any]:
    """Returns a row as the table has it."""
    point = measurement["points"][run.row_name(row)]
    optimum = row.optimum() if callable(row.optimum) else row.optimum
    required, met = _judge(row.required, point, optimum, measurement["platform"])
    commands = [call.train_command(run)] if isinstance(run, Trained) else []
    return {
        "name": run.row_name(row),
        "ours": point["mean"],
        "stderr": point["stderr"],
        "published": row.published,
        "optimum": optimum,
        "num_trials": point["num_trials"],
        "seeds": measurement["seeds"],
        "wall_s": measurement["wall_s"],
        "required": required,
        "met": met,
        "ci95": point["ci95"],
        "command": [shlex.join(["jaxmeta", *command]) for command in (*commands, call.command(run))],
        "updates": run.updates if isinstance(run, Trained) else None,
        "seed": call.seed,
        "device": measurement["device"],
        "versions": measurement["versions"],
        "commit": measurement["commit"],
        "quick": call.quick,
    }


def _judge(
    required: Required | None, point: Point, optimum: float | None, platform: str
) -> tuple[dict[str, Any] | None, bool | None]:
    """Returns the bounds that hold here, such as `{"mean": [6.5, None]}`, and whether the point lies within."""
    if required is None or required.platform not in (None, platform):
        return None, None
    least, most = required.least, required.most
    if required.up_to_optimum and optimum is not None:
        bound = optimum + 3 * (point["stderr"] or 0.0)
        most = bound if most is None else min(most, bound)
    values = [point["mean"]] if required.of == "mean" else point["ci95"]
    return {required.of: [least, most]}, all(_between(value, least, most) for value in values)


def _between(value: float | None, low: float | None, high: float | None) -> bool:
    """Tells whether a value is within its bounds; None, a value that is not finite, never is."""
    return value is not None and (low is None or value >= low) and (high is None or value <= high)


def _usual_out(name: str, quick: bool) -> Path:
    return RUNS / (f"{name}-quick" if quick else name)


def _key(call: Call, run: Run) -> dict[str, Any]:
    """Returns what decides the numbers of a run; a measurement counts as long as it stays the same."""
    key: dict[str, Any] = {"evaluations": [one.describe() for one in run.evaluations], "seed": call.seed}
    key |= {"rows": [[run.row_name(row), row.evaluation] for row in run.rows]}
    if isinstance(run, Trained):
        return key | {"config": configs.encode(run.config(call.seed, call.num_seeds), "")}
    assert isinstance(run, Reference)
    tasks = configs.encode(run.config().tasks_config, "tasks")
    return key | {"learner": run.learner, "arguments": dict(run.arguments), "tasks": [run.tasks, tasks]}


def _check_folder(call: Call, run: Run) -> None:
    """Refuses to go on in a folder that holds another run."""
    folder = call.out / run.name
    remedy = "choose another --out, or add --again to move it aside"
    if not isinstance(run, Trained) or not folder.is_dir() or not any(folder.iterdir()):
        return
    if not (folder / runs.CONFIG).is_file():
        raise flags.UsageError(f"{folder} is not empty and holds no run; {remedy}")
    wanted, stored = run.config(call.seed, call.num_seeds), runs.read_config(folder)
    wanted = dataclasses.replace(wanted, versions=stored.versions, device=stored.device)
    if differs := configs.first_difference("", wanted, stored):
        name = differs[0].replace("_config.", ".")
        raise flags.UsageError(f"{name} is {differs[1]}, but the run in {folder} has {differs[2]}; {remedy}")


def _is_finished(folder: Path, run: Trained) -> bool:
    """Tells whether a run, whose configuration was checked, is trained to its end."""
    return (folder / runs.CONFIG).is_file() and runs.last_checkpoint(folder) == run.updates
