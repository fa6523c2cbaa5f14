"""Measures the runs of a table: evaluates them and computes their rows."""

from __future__ import annotations

import dataclasses
import operator
import shlex
import time
from typing import Any

from jaxmeta.config import codec
from jaxmeta.experiment import assessment, loading, provenance, runs
from jaxmeta.reproduce import statistics
from jaxmeta.reproduce.base import Computed, Evaluation, Point, Reference, Row, Run, Trained
from jaxmeta.reproduce.call import Call


def measure(call: Call, run: Run, origin: dict[str, Any]) -> dict[str, Any]:
    """Evaluates a run; returns its numbers, seeds, wall time in seconds, and origin (device, commit, versions)."""
    folder, begun = call.out / run.name, time.perf_counter()
    if isinstance(run, Computed):
        given: dict[str, Any] = {"folder": call.out / run.of} if run.of else {}
        if run.trains:
            given |= {"seed": call.seed, "num_seeds": call.num_seeds, "quick": call.quick}
        values = run.compute(**given, **run.arguments)
        points = {run.row_name(row): row.statistic(values) | {"num_trials": run.count} for row in run.rows}
    else:
        reports = _evaluate_trained(call, run) if isinstance(run, Trained) else _evaluate_reference(call, run)
        points = {run.row_name(row): summarize(row, reports[row.evaluation]) for row in run.rows}
    seconds = time.perf_counter() - begun
    if isinstance(run, Trained):
        origin = _origin(codec.encode(runs.read_config(folder), ""))
    if call.lineage(run):
        training = _training_seconds(call, run)
        seconds = training if isinstance(run, Trained) or training is None else training + seconds
    return {
        "points": points,
        "seeds": call.seeds(run),
        # of training, including compilation, and of what is computed; of the evaluation if nothing is trained
        "wall_s": seconds and round(seconds, 3),
    } | origin


def _origin(config: dict[str, Any]) -> dict[str, Any]:
    """Returns where a run, given its encoded configuration, and the runs that it started from were trained."""
    origin = {name: config.get(name) for name in provenance.ORIGIN}
    if config.get("start") is None:
        return origin
    before = _origin(config["start"]["config"])
    both = {name: provenance.continued(before[name], origin[name]) for name in ("device", "platform", "commit")}
    return origin | both


def _training_seconds(call: Call, run: Run) -> float | None:
    """Returns the training time of a run and of the runs that it started from; None if any was not recorded."""
    records = [runs.read_metrics(call.out / one.name) for one in call.lineage(run)]
    return sum(record[-1]["seconds"] for record in records) if all(records) else None


def optima(run: Run) -> dict[str, float | None]:
    """Computes the exact optimum of every row that has one, by its full name."""
    return {run.row_name(row): row.optimum() if callable(row.optimum) else row.optimum for row in run.rows}


def _evaluate_trained(call: Call, run: Run) -> dict[str, Any]:
    assert isinstance(run, Trained)
    stored = loading.load(call.out / run.name)
    reports = {}
    for one in run.trials:
        config = run.config(call.seed, call.num_seeds, one)
        # agent and plan are those of meta-training, even if the tasks have another size
        reports[one.name] = evaluate(stored.meta.learner, stored.params, stored.meta.plan, config, one, call.seed)
    return reports


def _evaluate_reference(call: Call, run: Run) -> dict[str, Any]:
    assert isinstance(run, Reference)
    import jax

    import jaxmeta as jm

    learner = operator.attrgetter(run.learner)(jm.references)(**run.arguments)
    params, reports = learner.init(jax.random.key(call.seed)), {}
    for one in run.trials:
        config = run.config(one)
        plan = jm.Plan(episodes=config.build_family().episodes)
        reports[one.name] = evaluate(learner, params, plan, config, one, call.seed)
    return reports


def evaluate(
    learner: Any, params: Any, plan: Any, config: runs.RunConfig, evaluation: Evaluation, seed: int
) -> list[Any]:
    """Evaluates a learner; with the same seed all learners get the same tasks.

    Args:
      plan: layout of a trial; `evaluation` may change its rounds, streams and episodes.

    Returns:
      A list with one report. With `evaluation.every_task` and a single seed, one report per task.
    """
    import jax

    every_task = evaluation.every_task and evaluation.every_task(config.tasks_config)
    family, plan = config.build_family(), assessment.changed_plan(plan, evaluation.rounds, evaluation.streams)
    plan = dataclasses.replace(plan, episodes=evaluation.episodes or plan.episodes)
    report = assessment.trials(
        learner,
        params,
        family,
        plan,
        evaluation.num_tasks if every_task is None else assessment.repeated(every_task, evaluation.num_tasks),
        seed,
        runs.seed_axis(config),
        evaluation.deterministic,
        demonstrate=loading.demonstrator(config, family, plan),
    )
    if every_task is None or config.num_seeds > 1:
        return [report]
    count = jax.tree.leaves(every_task)[0].shape[0]
    return [jax.tree.map(lambda leaf, task=task: leaf[task::count], report) for task in range(count)]


def summarize(row: Row, reports: list[Any]) -> Point:
    """Computes the number of a row from the reports that `evaluate` returns."""
    points = [row.statistic(report) for report in reports]
    point = points[0] if len(points) == 1 else statistics.over_tasks(points)
    num_trials = sum(report.env_steps.size for report in reports)
    return {name: point[name] for name in ("mean", "stderr", "ci95")} | {"num_trials": num_trials}


def table_row(call: Call, run: Run, row: Row, measurement: dict[str, Any]) -> dict[str, Any]:
    """Returns a row as stored in the table, with `required` and `met` still None."""
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
