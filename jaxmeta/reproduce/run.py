"""Runs a call of `jaxmeta reproduce`: trains and measures unfinished runs."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jaxmeta.cli import train
from jaxmeta.experiment import provenance, runs
from jaxmeta.reproduce import files, measure
from jaxmeta.reproduce.base import Computed, Run, Trained
from jaxmeta.reproduce.call import Call, check_folder, measurement_key

Train = Callable[[train.Options, runs.RunConfig], int]
"""Meta-trains an agent and returns the exit code of `jaxmeta train`."""


def perform(call: Call, train: Train) -> tuple[list[dict[str, Any]], int]:
    """Performs unfinished runs sequentially and writes the table after each.

    Returns:
      The rows of the chosen runs and exit code 0. If training was stopped, the rows so far and the exit code of
      `jaxmeta train`.
    """
    rows: list[dict[str, Any]] = []
    published: list[dict[str, Any]] = []
    measured = False
    origin = provenance.origin()  # at the start: later edits of the code do not affect this process
    if call.again:
        _move_aside([call.out / run.name for run in call.chosen])
    for index, run in enumerate(call.chosen):
        folder, key = call.out / run.name, measurement_key(call, run)
        with files.locked(folder, wait=False):
            measurement = files.read_measurement(folder, key)
            done = measurement is not None
            print(f"[{index + 1}/{len(call.chosen)}] {run.name}{': already done' if done else ''}", file=sys.stderr)
            if measurement is None:
                measured = True
                with contextlib.redirect_stdout(sys.stderr):
                    code = _train(call, run, train)
                    if code:
                        how = "the same command, without --again," if call.again else "the same command"
                        print(f"jaxmeta: {index} of {len(call.chosen)} runs are finished; {how} continues from there")
                        return rows, code
                    measurement = {"key": key} | measure.measure(call, run, origin)
            if "optima" not in measurement:
                # some take a minute, so they are stored with the measurement
                measurement |= {"optima": measure.optima(run)}
                files.write_measurement(folder, measurement)
                measurement = files.read_measurement(folder, key) or measurement
        rows += [measure.table_row(call, run, row, measurement) for row in run.rows]
        if not done or index + 1 == len(call.chosen):
            published, *_ = [files.publish(call.table, file, rows) for file in call.tables()]
    if measured or not all(list(file.parent.glob(f"{file.stem}-*.png")) for file in call.tables()):
        _draw_pictures(call)  # some take minutes, so a finished table keeps its own
    chosen = {row["name"] for row in rows}
    return [row for row in published if row["name"] in chosen], 0


def _draw_pictures(call: Call) -> None:
    """Draws the further figures of a table from its trained runs, into the folder of each of its files."""
    if call.table.pictures is None:
        return
    from jaxmeta.viz import canvas

    trained = {run.name: call.out / run.name for run in call.table.runs if isinstance(run, Trained)}
    there = {name: folder for name, folder in trained.items() if runs.last_checkpoint(folder) is not None}
    for name, figure in call.table.pictures(there).items():
        for file in call.tables():
            canvas.save(figure, file.with_name(f"{file.stem}-{name}.png"))


def _move_aside(folders: list[Path]) -> None:
    """Moves the folders of runs aside; moves none if another process uses one of them."""
    there = [folder for folder in folders if folder.exists()]
    with contextlib.ExitStack() as stack:
        for folder in there:
            stack.enter_context(files.locked(folder, wait=False))
        for folder in there:
            print(f"moved {folder} to {files.move_aside(folder)}", file=sys.stderr)


def _train(call: Call, run: Run, train: Train) -> int:
    """Trains a run, and first the one that it starts or is computed from, unless finished; returns the exit code."""
    folder, start = call.out / run.name, call.start(run)
    if isinstance(run, Computed) and start:
        with files.locked(call.out / start.name, wait=False):
            return _train(call, start, train)
    if not isinstance(run, Trained) or _is_finished(folder, run):
        return 0
    options = call.train_options(run)
    config = run.config(call.seed, call.num_seeds)
    if (folder / runs.CONFIG).is_file():
        check_folder(call, run)  # another process may have written to it since the first check
        options = dataclasses.replace(options, resume=True, start_from=None)
        config = dataclasses.replace(runs.read_config(folder), updates=run.updates)
    elif start:
        with files.locked(call.out / start.name, wait=False):
            if code := _train(call, start, train):
                return code
        config = dataclasses.replace(config, start_from=str(options.start_from))
    return train(options, config)


def _is_finished(folder: Path, run: Trained) -> bool:
    """Returns whether a run, whose configuration was checked, is fully trained."""
    return (folder / runs.CONFIG).is_file() and runs.last_checkpoint(folder) == run.updates
