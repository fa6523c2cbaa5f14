"""Does what a call of `jaxmeta reproduce` asks for: trains and measures what is not done yet."""

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
from jaxmeta.reproduce.base import Run, Trained
from jaxmeta.reproduce.call import Call, check_folder, measurement_key

Train = Callable[[train.Options, runs.RunConfig], int]
"""Meta-trains an agent and returns the exit code of `jaxmeta train`."""


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
        folder, key = call.out / run.name, measurement_key(call, run)
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
                    measurement = {"key": key} | measure.measure(call, run, origin)
            if "optima" not in measurement:
                # some take a minute: they are stored with the numbers that they stand beside
                measurement |= {"optima": measure.optima(run)}
                files.write_measurement(folder, measurement)
                measurement = files.read_measurement(folder, key) or measurement
        rows += [measure.table_row(call, run, row, measurement) for row in run.rows]
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
    options = call.train_options(run)
    config = run.config(call.seed, call.num_seeds)
    if (folder / runs.CONFIG).is_file():
        check_folder(call, run)  # another process may have written to it since all were checked
        options = dataclasses.replace(options, resume=True, start_from=None)
        config = dataclasses.replace(runs.read_config(folder), updates=run.updates)
    elif start := call.start(run):
        with files.locked(call.out / start.name, wait=False):
            if code := _train(call, start, train):
                return code
        config = dataclasses.replace(config, start_from=str(options.start_from))
    return train(options, config)


def _is_finished(folder: Path, run: Trained) -> bool:
    """Tells whether a run, whose configuration was checked, is trained to its end."""
    return (folder / runs.CONFIG).is_file() and runs.last_checkpoint(folder) == run.updates
