"""Loggers, which are callbacks of the training loop, and the table of an evaluation."""

from __future__ import annotations

import collections
import contextlib
import queue
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from jaxmeta.config import codec
from jaxmeta.experiment import runs, survival

PLAIN_SECONDS = 10.0
"""Minimum seconds between two lines of progress without a terminal."""
MAX_PENDING = 1000
"""Maximum number of calls in the queue of a background logger."""
CLOSE_SECONDS = 60.0
"""Seconds that the end of a run waits for a background logger."""


class Guarded:
    """Wraps a logger so that its failure does not end training: it is reported once, and the logger is dropped."""

    def __init__(self, callback, stream: TextIO | None = None):
        self._callback = callback
        self._stream = stream or sys.stderr
        self._failed = False

    def __call__(self, update: int, state: Any, metrics: dict[str, np.ndarray]) -> None:
        try:
            self._callback(update, state, metrics)
        except Exception as error:
            if not self._failed:
                name, brief = type(self._callback).__name__, " ".join(str(error).split())
                survival.say(f"jaxmeta: {name} failed, training goes on without it: {brief}", self._stream)
            self._failed = True


class JsonLines:
    """Appends one line per update to `metrics.jsonl` in a run folder.

    A line has `update`, `env_steps` (total of the run so far; the mean over seeds), `seconds` (of training so far) and
    every metric of the update. With several seeds a metric is the mean over them, and `seeds` lists them one by one.
    """

    def __init__(self, folder: str | Path, env_steps: float = 0.0, seconds: float = 0.0):
        self._file = Path(folder) / runs.METRICS
        self._env_steps = env_steps
        self._seconds = seconds
        self._clock = time.monotonic()

    def __call__(self, update: int, state: Any, metrics: dict[str, np.ndarray]) -> None:
        values = {name: np.asarray(value, np.float64) for name, value in metrics.items()}
        steps = values.pop("env_steps", np.zeros(1))
        chunk = len(steps)
        total = self._env_steps + np.cumsum(steps.reshape(chunk, -1).mean(1))
        now = time.monotonic()
        # a chunk is one device call: its updates are taken to last equally long
        seconds = self._seconds + np.linspace(0, now - self._clock, chunk + 1)[1:]
        lines = []
        for index in range(chunk):
            record = {"update": update - chunk + 1 + index, "env_steps": float(total[index])}
            record |= {"seconds": round(float(seconds[index]), 3)}
            record |= {name: float(value[index].mean()) for name, value in values.items()}
            several = {name: value[index].tolist() for name, value in values.items() if value.ndim > 1}
            lines.append(codec.to_json(record | ({"seeds": several} if several else {})) + "\n")
        # before the write: if it fails, the lines after it still count what was done
        self._env_steps, self._seconds, self._clock = float(total[-1]), float(seconds[-1]), now
        self._file.parent.mkdir(parents=True, exist_ok=True)
        # reopened for every chunk and written at once, so that a concurrent reader never sees half a line
        with self._file.open("a") as file:
            file.write("".join(lines))


class TensorBoard:
    """Writes every metric, averaged over seeds, as TensorBoard scalars over updates.

    It writes synchronously. The writers of tensorboardX use a thread with a bounded queue; if a full disk kills that
    thread, adding to the queue blocks forever.
    """

    def __init__(self, folder: Path, done: int = 0):
        self._folder = folder / runs.TENSORBOARD
        self._done = done
        self._writer: Any = None
        self._broken = False

    def __call__(self, update: int, state: Any, metrics: dict[str, np.ndarray]) -> None:
        if self._broken:
            return  # the file may end with half a record, after which nothing can be read
        try:
            self._write(update, metrics)
        except OSError:
            self._broken = True
            raise

    def _write(self, update: int, metrics: dict[str, np.ndarray]) -> None:
        from tensorboardX.proto.event_pb2 import (  # generated as it is imported
            Event,  # pyright: ignore[reportAttributeAccessIssue]
            SessionLog,  # pyright: ignore[reportAttributeAccessIssue]
        )
        from tensorboardX.summary import scalar

        if self._writer is None:
            from tensorboardX.event_file_writer import EventsWriter

            self._folder.mkdir(parents=True, exist_ok=True)
            self._writer = EventsWriter(str(self._folder / "events"))
            if self._done:  # hides what an interrupted run wrote after its last checkpoint
                start = SessionLog(status=SessionLog.START)
                self._writer.write_event(Event(step=self._done + 1, session_log=start))
        now = time.time()
        for one, scalars in _scalars(update, metrics):
            for name, value in scalars.items():
                self._writer.write_event(Event(wall_time=now, step=one, summary=scalar(name, value)))
        self._writer.flush()

    def close(self) -> None:
        """Closes the file."""
        with contextlib.suppress(Exception):
            if self._writer is not None:
                self._writer.close()


class WandB:
    """Logs every metric, averaged over seeds, to a project of Weights & Biases.

    Every call of `jaxmeta train` is a separate run there, named after the run folder.
    """

    def __init__(self, project: str, folder: Path, config: dict[str, Any]):
        self._settings = {"project": project, "name": folder.name, "dir": str(folder), "config": config}
        self._begun = False
        self._run: Any = None

    def __call__(self, update: int, state: Any, metrics: dict[str, np.ndarray]) -> None:
        if not self._begun:
            self._begun = True  # only one attempt: each might wait for the network or ask for a login
            import wandb  # pyright: ignore[reportMissingImports]

            self._run = wandb.init(**self._settings)
        if self._run is not None:
            for one, scalars in _scalars(update, metrics):
                self._run.log(scalars, step=one)

    def close(self) -> None:
        """Sends pending metrics and ends the run."""
        with contextlib.suppress(Exception):
            if self._run is not None:
                self._run.finish()


class Background:
    """Calls a logger in a separate thread, so that a slow one, such as over a network, does not block training.

    The logger receives the metrics, and None as the state. If it falls `MAX_PENDING` calls behind, or closing it takes
    more than `CLOSE_SECONDS`, it is dropped with one warning.
    """

    def __init__(self, callback: Any, stream: TextIO | None = None):
        self._callback, self._guarded = callback, Guarded(callback, stream)
        self._stream = stream or sys.stderr
        self._pending: queue.Queue[tuple[int, dict[str, np.ndarray]] | None] = queue.Queue(MAX_PENDING)
        self._behind = False
        self._thread = threading.Thread(target=self._work, name="logger", daemon=True)
        self._thread.start()

    def __call__(self, update: int, state: Any, metrics: dict[str, np.ndarray]) -> None:
        if not self._behind:
            self._put((update, metrics))

    def close(self) -> None:
        """Waits for the logger to finish, at most `CLOSE_SECONDS`."""
        self._put(None)
        self._thread.join(0.0 if self._behind else CLOSE_SECONDS)
        if self._thread.is_alive() and not self._behind:
            self._give_up(f"did not finish within {CLOSE_SECONDS:g} seconds; what it had not written is lost")

    def _put(self, item: tuple[int, dict[str, np.ndarray]] | None) -> None:
        try:
            self._pending.put_nowait(item)
        except queue.Full:
            self._give_up(f"is {MAX_PENDING} calls behind; training goes on without it")

    def _give_up(self, why: str) -> None:
        if not self._behind:
            survival.say(f"jaxmeta: {type(self._callback).__name__} {why}", self._stream)
        self._behind = True

    def _work(self) -> None:
        while (item := self._pending.get()) is not None:
            self._guarded(item[0], None, item[1])
        self._callback.close()


class Progress:
    """Shows the progress of training: a bar on a terminal, else a plain line every few seconds.

    Use it as a context manager; it writes to `stream`, by default standard error.
    """

    def __init__(self, done: int, total: int, stream: TextIO | None = None):
        self._stream = stream or sys.stderr
        self._update, self._total = done, total
        self._bar: Any = None
        self._task: Any = None
        # the first device call compiles, so rates are shown from the second one on
        self._recent: collections.deque[tuple[float, int, float]] = collections.deque(maxlen=50)
        self._steps = 0.0
        self._last_line = float("-inf")

    def __enter__(self) -> Progress:
        if self._stream.isatty():
            self._bar = _make_bar(self._stream)
            self._bar.start()
            self._task = self._bar.add_task("", total=self._total, completed=self._update, status="compiling", left="")
        elif self._update < self._total:
            print(f"update {self._update}/{self._total}  compiling", file=self._stream, flush=True)
        return self

    def __exit__(self, *exception) -> None:
        if self._bar is not None:
            self._bar.stop()

    def __call__(self, update: int, state: Any, metrics: dict[str, np.ndarray]) -> None:
        self._update = update
        self._steps += float(np.sum(metrics.get("env_steps", 0.0)))
        self._recent.append((time.monotonic(), update, self._steps))
        status, left = self._status(metrics), self._left()
        if self._bar is not None:
            self._bar.update(self._task, completed=update, status=status, left=left)
            return
        now = time.monotonic()
        if now - self._last_line >= PLAIN_SECONDS or update >= self._total:
            self._last_line = now
            parts = [f"update {update}/{self._total}", status, left]
            print("  ".join(part for part in parts if part), file=self._stream, flush=True)

    def _status(self, metrics: dict[str, np.ndarray]) -> str:
        """Formats the speed, and the returns of the last update."""
        speed = self._per_second(2)
        parts = [f"{_short(speed)} steps/s"] if speed else []
        first, last = (metrics.get(f"return/{name}") for name in ("first", "last"))
        if first is not None and last is not None:
            parts.append(f"return {np.mean(first[-1]):.4g} → {np.mean(last[-1]):.4g}")
        return "  ".join(parts)

    def _left(self) -> str:
        speed = self._per_second(1)
        return f"{_clock((self._total - self._update) / speed)} left" if speed else ""

    def _per_second(self, column: int) -> float | None:
        """Returns the recent speed in updates (column 1) or environment steps (column 2)."""
        if len(self._recent) < 2 or self._recent[-1][0] == self._recent[0][0]:
            return None
        first, last = self._recent[0], self._recent[-1]
        return (last[column] - first[column]) / (last[0] - first[0])


def print_evaluation(evaluation: dict[str, Any]) -> None:
    """Prints a table of the returns by round and episode, with success rates if the tasks define success.

    With a finite set of tasks it prints a second table, by task.

    Args:
      evaluation: as `assessment.assess` returns it.
    """
    from rich.console import Console
    from rich.table import Table

    rounds, success = evaluation["returns"], evaluation.get("success")
    table = _table(Table, "", success is not None)
    for index, episodes in enumerate(rounds):
        for number, point in enumerate(episodes):
            parts = [f"round {index}"] if len(rounds) > 1 else []
            parts += [f"episode {number + 1}"] if len(episodes) > 1 or not parts else []
            begin = "the demonstration" if evaluation.get("demonstrated") else "the unadapted policy"
            mark = f" ({begin})" if index == number == 0 else ""
            rate = () if success is None else (_percent(success[index][number]["mean"]),)
            table.add_row(*_row(", ".join(parts) + mark, point), *rate)
    table.add_section()
    table.add_row(*_row("gain, last less first", evaluation["gain"]))
    if len(rounds[-1]) > 1:
        table.add_row(*_row("whole trial", evaluation["trial_return"]))
    # not the table's title: that would be wrapped to the table's width
    over = evaluated_on(evaluation, ", taken together")
    print(f"{evaluation['algo']} on {evaluation['tasks']} after {evaluation['step']} updates: return on {over}")
    Console().print(table)
    if "per_task" in evaluation:
        _print_per_task(evaluation)
    if (spent := evaluation.get("privacy")) is not None:
        print(f"a {spent['unit']} is protected with ε = {spent['epsilon']:.4g}, δ = {spent['delta']:.3g}")


def _print_per_task(evaluation: dict[str, Any]) -> None:
    """Prints the returns of the last episode by task, and names the worst task."""
    from rich.console import Console
    from rich.table import Table

    table = _table(Table, "task", "success" in evaluation)
    for one in evaluation["per_task"]:
        rate = (_percent(one["success"]["mean"]) if "success" in one else "-",) if "success" in evaluation else ()
        table.add_row(*_row(task_label(one), one["return"]), *rate)
    worst = evaluation["per_task"][evaluation["worst_task"]]
    print(f"by task, last episode; the lowest mean return is that of {task_label(worst)}")
    Console().print(table)


def _table(make: Any, first: str, success: bool) -> Any:
    """Makes a table of returns, and of success rates if `success`."""
    table = make(first)
    for column in ("mean", "95 % interval", "IQM", *(("success",) if success else ())):
        table.add_column(column, justify="right", no_wrap=True)
    return table


def _row(name: str, point: dict[str, Any]) -> tuple[str, ...]:
    """Formats a name, mean, interval and interquartile mean."""
    texts = ["nan" if value is None else f"{value:.4g}" for value in (point["mean"], *point["ci95"], point["iqm"])]
    return name, texts[0], f"{texts[1]} to {texts[2]}", texts[3]


def evaluated_on(evaluation: dict[str, Any], seeds: str = "") -> str:
    """Describes the tasks of an evaluation, such as "40 held-out tasks x 3 seeds"; `seeds` is added if several."""
    count, trials = evaluation["num_tasks"], evaluation.get("trials_per_task")
    tasks = f"{count} task{'' if count == 1 else 's'}"
    over = (
        f"{count} held-out tasks" if trials is None else f"{tasks}, {trials} trial{'' if trials == 1 else 's'} on each"
    )
    return over + (f" x {evaluation['num_seeds']} seeds{seeds}" if evaluation["num_seeds"] > 1 else "")


def task_label(one: dict[str, Any]) -> str:
    """Names a task of `per_task` by its index and, if it has one, its name: "task 2 (0.5, 0)"."""
    return f"task {one['task']}" + (f" ({one['name']})" if one["name"] else "")


def _scalars(update: int, metrics: dict[str, np.ndarray]) -> Iterator[tuple[int, dict[str, float]]]:
    """Yields every update of a chunk that ends with `update`, and its metrics averaged over seeds."""
    means = {name: np.asarray(value).reshape(len(value), -1).mean(1) for name, value in metrics.items()}
    chunk = len(next(iter(means.values()), ()))
    for index in range(chunk):
        yield update - chunk + 1 + index, {name: float(mean[index]) for name, mean in means.items()}


def _make_bar(stream: TextIO):
    from rich import progress
    from rich.console import Console

    columns = (
        progress.BarColumn(bar_width=None),
        progress.MofNCompleteColumn(),
        progress.TextColumn("{task.fields[status]}"),
        progress.TextColumn("{task.fields[left]}", style="cyan"),
    )
    return progress.Progress(*columns, console=Console(file=stream), expand=True)


def _short(number: float) -> str:
    """Formats 12345.6 as 12.3k."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{number / size:.3g}{unit}"
    return f"{number:.3g}"


def _percent(rate: float | None) -> str:
    """Formats 0.125 as 12.5 %."""
    return "nan" if rate is None or rate != rate else f"{100 * rate:.3g} %"


def _clock(seconds: float) -> str:
    """Formats seconds as h:mm:ss."""
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}"
