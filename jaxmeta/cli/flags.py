"""What the flags of the command line are, and what is refused before anything is compiled or written."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import math
import os
import re
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import tyro

from jaxmeta import reproduce
from jaxmeta.config import codec
from jaxmeta.experiment import registry, runs
from jaxmeta.viz import PICTURE

HELP_FLAGS = ("-h", "--help")
_SwitchOn = tyro.conf.FlagCreatePairsOff
_RunFolder = Annotated[Path | None, tyro.conf.Positional, tyro.conf.arg(metavar="DIR", help="Run folder.")]
_Cache = Annotated[bool, _SwitchOn]


class UsageError(ValueError):
    """What the user asked for cannot be done; the message is one line."""


@dataclasses.dataclass(frozen=True)
class TrainOptions:
    """Flags of `train` besides those of the algorithm and the tasks."""

    out: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Run folder to write, new or empty (required)."""
    updates: int = 500
    """Meta-updates in total."""
    seed: int = 0
    """Decides all that is random."""
    num_seeds: int = 1
    """Independent runs side by side, from one compiled program."""
    reveal: Annotated[bool, _SwitchOn] = False
    """Show the agent in every observation what the task is: it becomes an oracle."""
    resume: Annotated[bool, _SwitchOn] = False
    """Continue the run in DIR from its last checkpoint; its configuration stays, `--updates` may grow."""
    start_from: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Begin with what another run learned, such as one on shorter trials, instead of random parameters: of the same
    algorithm, network and `--num-seeds`. Only parameters are taken over; flags that decide first ones do nothing."""
    devices: int | None = None
    """Devices to use, on a CPU cores; by default as many as divide the tasks of an update. With `--distributed`
    those of each process."""
    distributed: Annotated[bool, _SwitchOn] = False
    """Train as one of several processes, which SLURM, a TPU pod or the next three flags tell of each other."""
    coordinator: Annotated[str | None, tyro.conf.arg(metavar="HOST:PORT")] = None
    """Where process 0 listens, with `--distributed`."""
    num_processes: int | None = None
    """How many processes there are, with `--distributed`."""
    process_id: int | None = None
    """Which of them this is, from 0, with `--distributed`."""
    heartbeat: int = 30
    """Seconds after which processes end if one of them no longer answers, with `--distributed`."""
    chunk: int = 1
    """Updates per device call; the result does not depend on it."""
    checkpoint_every: int = 50
    """Updates that are lost at most if the process is killed: checkpoints are twice as frequent. The end of the run is
    always saved."""
    eval_tasks: int = 40
    """Held-out tasks of the evaluation at the end; 0 leaves it out."""
    wandb: Annotated[str | None, tyro.conf.arg(metavar="PROJECT")] = None
    """Also log to this project of Weights & Biases."""
    cache: _Cache = True
    """Compile anew instead of using the compiled programs in the user's cache folder."""


@dataclasses.dataclass(frozen=True)
class EvaluateOptions:
    """Lets the agent of a run adapt to held-out tasks and reports its returns."""

    run: _RunFolder = None
    num_tasks: int = 40
    """Held-out tasks."""
    seed: int = 0
    """Decides the tasks and all else that is random."""
    rounds: int | None = None
    """Rounds of adaptation; by default as in meta-training."""
    streams: int | None = None
    """Parallel streams per task and round; by default as in meta-training."""
    deterministic: Annotated[bool, _SwitchOn] = False
    """Act by the mode of the policy instead of sampling."""
    json: Annotated[bool, _SwitchOn] = False
    """Print one JSON object instead of a table."""
    cache: _Cache = True
    """Compile anew instead of using the compiled programs in the user's cache folder."""


@dataclasses.dataclass(frozen=True)
class PlotOptions:
    """Draws the learning curve and the adaptation curve of a run into its folder."""

    run: _RunFolder = None
    cache: _Cache = True
    """Compile anew instead of using the compiled programs in the user's cache folder."""


@dataclasses.dataclass(frozen=True)
class RenderOptions:
    """Draws a trial of the agent of a run, episode by episode: where it goes and, if it has one, its belief."""

    run: _RunFolder = None
    task: Annotated[int, tyro.conf.arg(metavar="SEED")] = 0
    """Decides the task, drawn from the held-out ones."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """PNG to write; by default trial-SEED.png in the run folder. Only an earlier picture of a trial is overwritten."""
    cache: _Cache = True
    """Compile anew instead of using the compiled programs in the user's cache folder."""


@dataclasses.dataclass(frozen=True)
class ListOptions:
    """Lists the algorithms and the task families."""

    json: Annotated[bool, _SwitchOn] = False
    """Print one JSON object instead of a table."""


@dataclasses.dataclass(frozen=True)
class ReproduceOptions:
    """Trains what a published table needs and prints our numbers beside the published ones."""

    table: Annotated[
        str | None, tyro.conf.Positional, tyro.conf.arg(metavar="NAME", help=f"One of {', '.join(reproduce.TABLES)}.")
    ] = None
    rows: Annotated[str | None, tyro.conf.arg(metavar="ROW,...")] = None
    """Only these rows, by group or by full name, such as 10x5,100x10/rl2; by default all."""
    quick: Annotated[bool, _SwitchOn] = False
    """Show in a minute or so that it works: few updates and trials, nothing that counts."""
    seed: int = 0
    """Decides all that is random."""
    num_seeds: int = 1
    """Independent training runs per agent; statistics are over them."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Folder of the runs and the table; by default runs/reproduce/NAME, and NAME-quick with `--quick`."""
    results: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Folder of the copy to commit; by default benchmarks/results, where there is one and `--out` is not given."""
    again: Annotated[bool, _SwitchOn] = False
    """Run finished rows anew; what they left is moved aside, and their rows of other seeds are replaced."""
    json: Annotated[bool, _SwitchOn] = False
    """Print the chosen rows as one JSON object instead of a table; progress goes to the standard error."""
    cache: _Cache = True
    """Compile anew instead of using the compiled programs in the user's cache folder."""


def train_flags(argv: list[str]) -> tuple[Any, runs.RunConfig]:
    """Parses the arguments of `train` and checks all that can be checked before JAX starts."""
    options, config = train_config(argv)
    if options.resume:
        options, config = _resumed(argv, options.out)
    # of several processes one may have begun to write; the first looks once they have met
    _check_out(options.out, options.resume or options.distributed)
    _check_wandb(options.wandb)
    if options.resume:
        at_least(
            "--updates", options.updates, runs.last_checkpoint(options.out) or 0, ", what the run has done already"
        )
    elif options.start_from is not None:
        _check_start(options, config)
        config = runs.with_start(config)
    return options, config


def train_config(argv: list[str]) -> tuple[Any, runs.RunConfig]:
    """Parses the arguments of `train` as those of a new run, whatever is in its folder."""
    if len(argv) < 2 or any(token.startswith("-") for token in argv[:2]):
        raise UsageError("train needs ALGO and TASKS first, such as `jaxmeta train maml navigation --out runs/first`")
    algo, tasks, *flags = argv
    kind = _train_kind(algo, tasks)
    _check_finite(kind, flags)
    options = parse(kind, flags, f"jaxmeta train {algo} {tasks}")
    if options.out is None:
        raise UsageError("--out is missing; it names the run folder (try --out runs/first)")
    for name, least in (("updates", 1), ("num_seeds", 1), ("chunk", 1), ("checkpoint_every", 1), ("eval_tasks", 0)):
        at_least("--" + name.replace("_", "-"), getattr(options, name), least)
    check_seed(options.seed)
    _check_devices(options)
    return options, runs.RunConfig(
        algo,
        tasks,
        options.algo,
        options.tasks,
        options.seed,
        options.num_seeds,
        options.updates,
        options.reveal,
        start_from=None if options.start_from is None else str(options.start_from),
    )


def _resumed(argv: list[str], folder: Path) -> tuple[Any, runs.RunConfig]:
    """Parses the arguments of `train` for a run that goes on: flags that are not given mean what they meant then."""
    algo, tasks, *flags = argv
    stored = runs.read_config(folder)
    _must_agree("ALGO", algo, stored.algo, folder)
    _must_agree("TASKS", tasks, stored.tasks, folder)
    kind = _train_kind(algo, tasks)
    before = kind(
        algo=stored.algo_config,
        tasks=stored.tasks_config,
        seed=stored.seed,
        num_seeds=stored.num_seeds,
        updates=stored.updates,
        reveal=stored.reveal,
        start_from=None if stored.start_from is None else Path(stored.start_from),
    )
    # a switch that is on has no flag that turns it on
    flags = [flag for flag in flags if not (flag == "--reveal" and stored.reveal)]
    options = parse(kind, flags, f"jaxmeta train {algo} {tasks}", before)
    _check_devices(options)
    if options.start_from is not None:
        options = dataclasses.replace(options, start_from=options.start_from.resolve())
    for part in ("algo", "tasks", "seed", "num_seeds", "reveal", "start_from"):
        if differs := codec.first_difference(part, getattr(options, part), getattr(before, part)):
            name, given, then = differs
            _must_agree("--" + name.replace("_", "-"), given, then, folder)
    return options, dataclasses.replace(stored, updates=options.updates)


def _train_kind(algo: str, tasks: str) -> type:
    """Makes the dataclass of all flags of `train`; which there are depends on the algorithm and the tasks."""
    fields = []
    for field, find in (
        ("algo", lambda: registry.find_algo(algo, tasks)),
        ("tasks", lambda: registry.find("task family", registry.TASKS, tasks)),
    ):
        try:
            _, config = find().load()
        except KeyError as error:
            raise UsageError(error.args[0]) from None
        fields.append((field, config, dataclasses.field(default=config())))
    kind = dataclasses.make_dataclass("Train", fields, bases=(TrainOptions,), frozen=True)
    kind.__doc__ = f"Meta-trains {algo} on {tasks}."
    return kind


def parse(kind: type, argv: list[str], prog: str, default: Any = None) -> Any:
    """Parses flags into a dataclass; an error of tyro, a box of text, becomes one line."""
    boxed = io.StringIO()
    given = {} if default is None else {"default": default}
    try:
        with contextlib.redirect_stderr(boxed):
            options, unknown = tyro.cli(kind, prog=prog, args=argv, return_unknown_args=True, **given)
    except SystemExit as stop:
        if not stop.code:
            raise
        raise UsageError(_one_line(boxed.getvalue(), argv, kind)) from None
    flag = next((token for token in unknown if token.startswith("-")), None)
    if flag is not None:
        name = flag.split("=")[0].replace("_", "-")
        raise UsageError(f"no flag {flag!r};{registry.near(name, dict(_flags(kind)))} `{prog} --help` shows all")
    if unknown:
        raise UsageError(f"{unknown[0]!r} is one argument too many; `{prog} --help` shows what there is")
    return options


def _one_line(box: str, argv: list[str], kind: type) -> str:
    """Says in one line what a box of tyro's says."""
    # where the output is not UTF-8 the box is blank and its title, on the first line, is underlined
    lines = [line.strip(" │") for line in box.splitlines()]
    lines = lines[2:] if len(lines) > 1 and lines[1].startswith("-") else lines[1:]
    rule = next((index for index, line in enumerate(lines) if line.startswith(("─", "╰", "---"))), len(lines))
    text = " ".join(line for line in lines[:rule] if line)
    if match := re.match(r"Error parsing (--[^\s/:]+)[^\s:]*: ", text):
        # the help text that follows begins with the flag and what it takes, such as `--seed INT`
        takes = next((line for line in lines[rule:] if line.startswith(match[1])), "")
        words = (("[INT", "integers"), ("[FLOAT", "numbers"), ("INT", "an integer"), ("FLOAT", "a number"))
        right = next((word for token, word in words if f" {token}" in takes or f"|{token}" in takes), "of another kind")
        optional = " or None" if "{None}" in takes else ""
        return f"{match[1]} is {_given(match[1], argv)!r}; it must be {right}{optional}"
    if match := re.match(r"Error parsing ([\w.]+): (.*)", text):
        for name in match[1].split("."):
            kind = typing.get_type_hints(kind)[name]
        return codec.qualify(match[1], kind, match[2])
    if match := re.match(r"invalid choice '(.*)' for argument '(\S+)'\. Expected one of \((.*)\)", text):
        return f"{match[2]} is {match[1]!r}; it must be one of {match[3].strip(',')}"
    if match := re.match(r"Missing value for argument '(\S+)'", text):
        return f"{match[1]} needs a value"
    return text or "the arguments cannot be parsed"


def _given(flag: str, argv: list[str]) -> str:
    """Finds what the user gave for a flag."""
    for index, token in reversed(list(enumerate(argv))):
        name, _, value = token.partition("=")
        if name.replace("_", "-") == flag.replace("_", "-"):
            rest = argv[index + 1 :]
            stop = next((i for i, word in enumerate(rest) if word.startswith("--")), len(rest))
            return value or " ".join(rest[:stop])
    return ""


def _flags(kind: type, prefix: str = "--") -> Iterator[tuple[str, Any]]:
    """Lists the flags of a dataclass and their types, nested ones included."""
    hints = typing.get_type_hints(kind)
    for field in dataclasses.fields(kind):
        name = prefix + field.name.replace("_", "-")
        if dataclasses.is_dataclass(hints[field.name]):
            yield from _flags(hints[field.name], name + ".")
        else:
            yield "--no-cache" if name == "--cache" else name, hints[field.name]


def _check_finite(kind: type, argv: list[str]) -> None:
    """Refuses numbers that are not finite by their flags.

    It comes before the configs' own checks: what those compare with a NaN may be told as a fault of another field.
    """
    for flag, hint in _flags(kind):
        for text in _given(flag, argv).split() if float in (hint, *typing.get_args(hint)) else ():
            if not _is_finite(text):
                raise UsageError(f"{flag.removeprefix('--').replace('-', '_')} is {text}; it must be finite")


def _is_finite(text: str) -> bool:
    """Tells NaN and infinity from all other texts; what is no number at all is left to the parser."""
    try:
        return math.isfinite(float(text))
    except ValueError:
        return True


def _must_agree(name: str, given: Any, stored: Any, folder: Path) -> None:
    if given != stored:
        raise UsageError(f"{name} is {given}, but the run in {folder} has {stored}; a resumed run keeps what it has")


def at_least(flag: str, value: int, least: int, why: str = "") -> None:
    """Raises a UsageError if a value is too small."""
    if value < least:
        raise UsageError(f"{flag} is {value}; it must be at least {least}{why}")


def check_seed(seed: int) -> None:
    """Raises a UsageError if a seed does not fit what JAX takes."""
    if not 0 <= seed < 2**32:
        raise UsageError(f"--seed is {seed}; it must lie between 0 and {2**32 - 1}")


def _check_devices(options: TrainOptions) -> None:
    """Refuses numbers of devices and processes that cannot be meant."""
    if options.devices is not None:
        at_least("--devices", options.devices, 1)
    at_least("--heartbeat", options.heartbeat, 1)
    given = {
        "coordinator": options.coordinator,
        "num-processes": options.num_processes,
        "process-id": options.process_id,
    }
    missing = [f"--{name}" for name, value in given.items() if value is None]
    if len(missing) < 3 and not options.distributed:
        raise UsageError(f"--{next(name for name, value in given.items() if value is not None)} needs --distributed")
    if 0 < len(missing) < 3:
        raise UsageError(f"{missing[0]} is missing; --coordinator, --num-processes and --process-id are given together")
    if options.num_processes is not None and options.process_id is not None:
        at_least("--num-processes", options.num_processes, 1)
        if not 0 <= options.process_id < options.num_processes:
            most = options.num_processes - 1
            raise UsageError(f"--process-id is {options.process_id}; it must lie between 0 and {most}")


def _check_out(folder: Path, resume: bool) -> None:
    """Refuses a folder that must not, or cannot, be written."""
    if not resume:
        check_empty(folder)
    check_writable("--out", folder)


def _check_start(options: Any, config: runs.RunConfig) -> None:
    """Refuses to begin with a run that is not there, or is of another kind."""
    folder = options.start_from
    if hasattr(config.algo_config, "sac"):
        raise UsageError(
            f"--start-from is {folder}, but {config.algo} learns from a replay and from critics that follow slowly,"
            " which are no parameters; continue that run with --resume"
        )
    try:
        start = runs.read_config(folder)
    except codec.RunError as error:
        raise UsageError(f"--start-from: {error}") from None
    if runs.last_checkpoint(folder) is None:
        raise UsageError(f"--start-from {folder} has no checkpoint yet; train that run first")
    for name, there, here in (("ALGO", start.algo, config.algo), ("--num-seeds", start.num_seeds, config.num_seeds)):
        if there != here:
            raise UsageError(f"{name} is {here}, but the run in --start-from {folder} has {there}; they must agree")


def check_empty(folder: Path) -> None:
    """Raises a UsageError if there is something in a folder that a new run is to be written to."""
    if folder.is_dir() and any(folder.iterdir()):
        raise UsageError(f"--out {folder} is not empty; add --resume to continue its run, or choose another folder")


def check_writable(flag: str, folder: Path) -> None:
    """Raises a UsageError if a folder can be neither written nor made."""
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{flag} {folder} is a file; it must be a folder")
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        raise UsageError(f"{flag} {folder} cannot be written: {existing} is no folder that you may write to")


def check_picture(flag: str, file: Path) -> None:
    """Raises a UsageError if a picture cannot be written to a file, or something else stands there."""
    check_writable(flag, file.parent)
    if not file.parent.is_dir():
        raise UsageError(f"{flag} {file} cannot be written: there is no folder {file.parent}")
    if file.exists() and not (file.is_file() and PICTURE.encode() in file.read_bytes()[:1000]):
        raise UsageError(f"{file} is there already and is no picture of jaxmeta; choose another {flag}")


def _check_wandb(project: str | None) -> None:
    """Raises a UsageError if Weights & Biases is asked for, but not there."""
    if project is None:
        return
    try:
        import wandb  # pyright: ignore[reportMissingImports]  # noqa: F401
    except ImportError:
        raise UsageError('--wandb needs the package wandb; try pip install "jaxmeta[wandb]"') from None


def need_run(folder: Path | None, command: str) -> Path:
    """Returns the run folder, or raises a UsageError if none was given."""
    if folder is None:
        raise UsageError(f"{command} needs the folder of a run, such as `jaxmeta {command} runs/first`")
    return folder
