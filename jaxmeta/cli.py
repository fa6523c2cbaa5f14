"""The command line: train, evaluate, plot, list. JAX is imported only by the commands that need it."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import inspect
import io
import json
import os
import re
import shlex
import sys
import typing
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro

import jaxmeta as jm
from jaxmeta import logging, registry, runs

HELP = """usage: jaxmeta COMMAND ...

Meta-reinforcement learning in JAX.

  train ALGO TASKS --out DIR    meta-train an agent; writes a run folder
  evaluate DIR                  let it adapt to held-out tasks and report its returns
  plot DIR                      draw its learning curve and its adaptation curve
  list                          algorithms and task families

`jaxmeta COMMAND --help` tells more; `jaxmeta --version` prints the version."""

_HELP_FLAGS = ("-h", "--help")
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
    resume: Annotated[bool, _SwitchOn] = False
    """Continue the run in DIR from its last checkpoint; its configuration stays, `--updates` may grow."""
    chunk: int = 1
    """Updates per device call; the result does not depend on it."""
    checkpoint_every: int = 50
    """Updates between checkpoints; the end of the run is always saved."""
    eval_tasks: int = 40
    """Held-out tasks of the evaluation at the end; 0 leaves it out."""
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
class ListOptions:
    """Lists the algorithms and the task families."""

    json: Annotated[bool, _SwitchOn] = False
    """Print one JSON object instead of a table."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns the exit code: 2 for bad input, 130 or 143 if it was told to stop."""
    argv = list(sys.argv[1:] if argv is None else argv)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without Greek letters is no reason to fail
    try:
        return _dispatch(argv)
    except (UsageError, runs.RunError) as error:
        print("jaxmeta: " + " ".join(str(error).split()), file=sys.stderr)
        return 2
    except SystemExit as stop:  # tyro has printed a help text
        return int(stop.code or 0)
    except KeyboardInterrupt:
        print("jaxmeta: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of the output, such as `head`, has left
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _dispatch(argv: list[str]) -> int:
    commands = {"train": _train, "evaluate": _evaluate, "plot": _plot, "list": _list}
    if not argv:
        raise UsageError(f"no command; choose one of {', '.join(commands)} (`jaxmeta --help` tells more)")
    if argv[0] in _HELP_FLAGS:
        print(HELP)
    elif argv[0] == "--version":
        print(f"jaxmeta {jm.__version__}")
    elif argv[0] in commands:
        return commands[argv[0]](argv[1:])
    else:
        raise UsageError(f"no command {argv[0]!r};{_near(argv[0], commands)} `jaxmeta --help` shows all")
    return 0


def _list(argv: list[str]) -> int:
    """Lists what the registry knows."""
    options = _parse(ListOptions, argv, "jaxmeta list")
    if options.json:
        print(json.dumps({"algos": list(registry.ALGOS), "tasks": list(registry.TASKS)}))
        return 0
    from rich.console import Console
    from rich.table import Table

    for heading, describe, entries in (
        ("algorithm", _describe_algo, registry.ALGOS),
        ("tasks", lambda name: _describe_tasks(name).splitlines()[0], registry.TASKS),
    ):
        table = Table(heading, "")
        for name in entries:
            table.add_row(name, describe(name))
        Console().print(table)
    return 0


def _plot(argv: list[str]) -> int:
    """Draws the pictures of a run."""
    options = _parse(PlotOptions, argv, "jaxmeta plot")
    runs.read_config(_need_run(options.run, "plot"))  # its errors come before JAX starts
    evaluation = runs.read_evaluation(options.run)
    if evaluation is None:
        evaluation = runs.assess(_load(options))
    from jaxmeta import plot

    for file in plot.draw(options.run, runs.read_metrics(options.run), evaluation):
        print(file)
    return 0


def _evaluate(argv: list[str]) -> int:
    """Evaluates the last checkpoint of a run."""
    options = _parse(EvaluateOptions, argv, "jaxmeta evaluate")
    _need_run(options.run, "evaluate")
    _at_least("--num-tasks", options.num_tasks, 1)
    if options.rounds is not None:
        _at_least("--rounds", options.rounds, 0)
    _check_seed(options.seed)
    runs.read_config(options.run)
    run = _load(options)
    evaluation = runs.assess(run, options.num_tasks, options.seed, options.rounds, options.deterministic)
    if options.json:
        print(runs.to_json(evaluation))
    else:
        logging.print_evaluation(evaluation)
    return 0


def _train(argv: list[str]) -> int:
    """Meta-trains an agent."""
    if any(token in _HELP_FLAGS for token in argv[:2]):
        print(_train_help())
        return 0
    options, config = _train_flags(argv)
    _start_jax(options.cache)
    family, meta = config.build()
    return _Training(options, config, family, meta).run()


class _Training:
    """One call of `jaxmeta train`, from the first word it prints to the last file it writes."""

    def __init__(self, options: Any, config: runs.RunConfig, family: Any, meta: Any):
        import jax

        self.options, self.family, self.meta, self.folder = options, family, meta, options.out
        devices = jax.devices()
        device = f"{len(devices)} x {devices[0].device_kind}"
        self.config = config if options.resume else dataclasses.replace(config, versions=_versions(), device=device)
        with runs.named("algo", config.algo_config):
            self.state = runs.fresh_state(config, meta)
        self.device, self.done = device, 0

    def run(self) -> int:
        """Trains, evaluates, draws; returns the exit code."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"--out {self.folder} cannot be made: {error.strerror}") from error
        self._checkpointer = jm.Checkpointer(self.folder / runs.CHECKPOINTS)
        try:
            if self.options.resume:
                self._restore()
            runs.write_config(self.folder, self.config)
            self._introduce()
            stopped = self._train()
        finally:
            self._checkpointer.close()
        if stopped:
            out = shlex.quote(str(self.folder))
            how = f"jaxmeta train {self.config.algo} {self.config.tasks} --out {out} --resume"
            print(f"jaxmeta: stopped at update {self.done}; continue with `{how}`", file=sys.stderr)
            return 128 + stopped
        if self.options.eval_tasks:
            self._report()
        print(f"run folder: {self.folder}")
        return 0

    def _restore(self) -> None:
        from jaxmeta.core.checkpoint import CheckpointError

        if self._checkpointer.latest() is None:
            return  # stopped before its first checkpoint: it starts over
        try:
            self.state = self._checkpointer.restore(self.state)
        except CheckpointError as error:
            raise runs.RunError(str(error)) from error
        self.done = self._checkpointer.latest()

    def _train(self) -> int | None:
        """Trains to the end and returns None, or returns the number of the signal that stopped it."""
        kept = runs.truncate_metrics(self.folder, self.done)
        lines = logging.JsonLines(self.folder, kept.get("env_steps") or 0.0, kept.get("seconds") or 0.0)
        board = logging.TensorBoard(self.folder, self.done)
        total, every = self.config.updates, self.options.checkpoint_every
        with logging.StopSignals() as signals, logging.Progress(self.done, total) as progress:
            saver = logging.Saver(self._checkpointer, signals, self.done, total, every)
            callbacks = [*(logging.Guarded(callback) for callback in (lines, board, progress)), saver]
            chunk, num_seeds = self.options.chunk, runs.seed_axis(self.config)
            try:
                self.state = jm.train(
                    self.meta, self.state, total, chunk=chunk, num_seeds=num_seeds, callbacks=callbacks
                )
            except logging.Stopped as stopped:
                self.done = stopped.update
                return signals.number
            finally:
                board.close()
        return None

    def _introduce(self) -> None:
        """Prints what is about to run, the definition of the tasks included."""
        import jax

        config, plan, spec = self.config, self.meta.plan, self.family.env.spec
        num_tasks = getattr(config.algo_config, "num_tasks", 1)
        trials = f"{num_tasks} tasks x {plan.rounds + 1} rounds x {plan.streams} streams"
        size = sum(leaf.size for leaf in jax.tree.leaves(self.state.params)) // config.num_seeds
        print(f"jaxmeta {jm.__version__}, jax {jax.__version__}, on {self.device}")
        print(f"algorithm  {config.algo}: {_describe_algo(config.algo)}")
        print(f"tasks      {config.tasks}: " + _describe_tasks(config.tasks).replace("\n", "\n" + " " * 11))
        print(f"update     {trials} x {plan.episodes} episodes x {spec.horizon} steps; {size:,} parameters")
        seeds = f"seed {config.seed}" + (f", {config.num_seeds} runs side by side" if config.num_seeds > 1 else "")
        print(f"run        {self.folder}, updates {self.done} to {config.updates}, {seeds}", flush=True)

    def _report(self) -> None:
        """Evaluates on held-out tasks and draws the pictures."""
        from jaxmeta import plot

        run = runs.Run(self.folder, self.config, self.family, self.meta, self.state)
        evaluation = runs.assess(run, self.options.eval_tasks)
        runs.write_atomically(self.folder / runs.EVALUATION, runs.to_json(evaluation, indent=2) + "\n")
        logging.print_evaluation(evaluation)
        for file in plot.draw(self.folder, runs.read_metrics(self.folder), evaluation):
            print(f"picture: {file}")


def _train_flags(argv: list[str]) -> tuple[Any, runs.RunConfig]:
    """Parses the arguments of `train` and checks all that can be checked before JAX starts."""
    if len(argv) < 2 or any(token.startswith("-") for token in argv[:2]):
        raise UsageError("train needs ALGO and TASKS first, such as `jaxmeta train maml navigation --out runs/first`")
    algo, tasks, *flags = argv
    kind = _train_kind(algo, tasks)
    prog = f"jaxmeta train {algo} {tasks}"
    options = _parse(kind, flags, prog)
    if options.out is None:
        raise UsageError("--out is missing; it names the run folder (try --out runs/first)")
    if options.resume:
        stored = runs.read_config(options.out)
        _must_agree("ALGO", algo, stored.algo, options.out)
        _must_agree("TASKS", tasks, stored.tasks, options.out)
        stored_options = kind(
            algo=stored.algo_config,
            tasks=stored.tasks_config,
            seed=stored.seed,
            num_seeds=stored.num_seeds,
            updates=stored.updates,
        )
        # flags that are not given now mean what they meant then
        options = _parse(kind, flags, prog, stored_options)
        for part in ("algo", "tasks", "seed", "num_seeds"):
            _compare("--" + part, getattr(options, part), getattr(stored_options, part), options.out)
    for name, least in (("updates", 1), ("num_seeds", 1), ("chunk", 1), ("checkpoint_every", 1), ("eval_tasks", 0)):
        _at_least("--" + name.replace("_", "-"), getattr(options, name), least)
    _check_seed(options.seed)
    for part in ("algo", "tasks"):
        runs.encode(getattr(options, part), part)
    _check_out(options.out, options.resume)
    if options.resume:
        _at_least(
            "--updates", options.updates, runs.last_checkpoint(options.out) or 0, ", what the run has done already"
        )
        return options, dataclasses.replace(stored, updates=options.updates)
    return options, runs.RunConfig(
        algo, tasks, options.algo, options.tasks, options.seed, options.num_seeds, options.updates
    )


def _train_kind(algo: str, tasks: str) -> type:
    """Makes the dataclass of all flags of `train`; which there are depends on the algorithm and the tasks."""
    fields = []
    for field, kind, entries, name in (
        ("algo", "algorithm", registry.ALGOS, algo),
        ("tasks", "task family", registry.TASKS, tasks),
    ):
        try:
            _, config = registry.find(kind, entries, name).load()
        except KeyError as error:
            raise UsageError(error.args[0]) from None
        fields.append((field, config, dataclasses.field(default=config())))
    kind = dataclasses.make_dataclass("Train", fields, bases=(TrainOptions,), frozen=True)
    kind.__doc__ = f"Meta-trains {algo} on {tasks}."
    return kind


def _parse(kind: type, argv: list[str], prog: str, default: Any = None) -> Any:
    """Parses flags into a dataclass; an error of tyro, a box of text, becomes one line."""
    boxed = io.StringIO()
    given = {} if default is None else {"default": default}
    try:
        with contextlib.redirect_stderr(boxed):
            options, unknown = tyro.cli(kind, prog=prog, args=argv, return_unknown_args=True, **given)
    except SystemExit as stop:
        if not stop.code:
            raise
        raise UsageError(_one_line(boxed.getvalue(), argv)) from None
    flag = next((token for token in unknown if token.startswith("-")), None)
    if flag is not None:
        name = flag.split("=")[0].replace("_", "-")
        raise UsageError(f"no flag {flag!r};{_near(name, _flags(kind))} `{prog} --help` shows all")
    if unknown:
        raise UsageError(f"{unknown[0]!r} is one argument too many; `{prog} --help` shows what there is")
    return options


def _one_line(box: str, argv: list[str]) -> str:
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
        kind = next((word for token, word in words if f" {token}" in takes or f"|{token}" in takes), "of another kind")
        optional = " or None" if "{None}" in takes else ""
        return f"{match[1]} is {_given(match[1], argv)!r}; it must be {kind}{optional}"
    if match := re.match(r"Error parsing ([\w.]+): (.*)", text):
        return runs.qualify(match[1], match[2])
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


def _flags(kind: type, prefix: str = "--") -> Iterator[str]:
    """Lists the flags of a dataclass, nested ones included."""
    hints = typing.get_type_hints(kind)
    for field in dataclasses.fields(kind):
        name = prefix + field.name.replace("_", "-")
        if dataclasses.is_dataclass(hints[field.name]):
            yield from _flags(hints[field.name], name + ".")
        else:
            yield "--no-cache" if name == "--cache" else name


def _near(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f" did you mean {near[0]!r}?" if near else ""


def _must_agree(name: str, given: Any, stored: Any, folder: Path) -> None:
    if given != stored:
        raise UsageError(f"{name} is {given}, but the run in {folder} has {stored}; a resumed run keeps what it has")


def _compare(flag: str, given: Any, stored: Any, folder: Path) -> None:
    """Raises a UsageError that names the first leaf in which two configs differ."""
    if not dataclasses.is_dataclass(given):
        return _must_agree(flag.replace("_", "-"), given, stored, folder)
    for field in dataclasses.fields(given):
        _compare(f"{flag}.{field.name}", getattr(given, field.name), getattr(stored, field.name), folder)
    return None


def _at_least(flag: str, value: int, least: int, why: str = "") -> None:
    if value < least:
        raise UsageError(f"{flag} is {value}; it must be at least {least}{why}")


def _check_seed(seed: int) -> None:
    if not 0 <= seed < 2**32:
        raise UsageError(f"--seed is {seed}; it must lie between 0 and {2**32 - 1}")


def _check_out(folder: Path, resume: bool) -> None:
    """Refuses a folder that must not, or cannot, be written."""
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"--out {folder} is a file; it must be a folder")
    if folder.is_dir() and any(folder.iterdir()) and not resume:
        raise UsageError(f"--out {folder} is not empty; add --resume to continue its run, or choose another folder")
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        raise UsageError(f"--out {folder} cannot be written: {existing} is no folder that you may write to")


def _need_run(folder: Path | None, command: str) -> Path:
    if folder is None:
        raise UsageError(f"{command} needs the folder of a run, such as `jaxmeta {command} runs/first`")
    return folder


def _load(options: Any) -> runs.Run:
    _start_jax(options.cache)
    return runs.load(options.run)


def _start_jax(cache: bool) -> None:
    """Makes the CPU's cores devices and turns the compilation cache on, before any computation."""
    jm.use_cpu_cores()
    import jax

    if not cache or getattr(jax.config, "jax_compilation_cache_dir", None):
        return
    folder = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "jaxmeta"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        # compiled programs are run as they are: nobody else may put one there
        folder.chmod(0o700)
    except OSError:
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))


def _versions() -> dict[str, str]:
    from importlib import metadata

    return {"jaxmeta": jm.__version__} | {name: metadata.version(name) for name in ("jax", "brax")}


def _describe_algo(name: str) -> str:
    """Returns the first line of an algorithm's docstring."""
    return (inspect.getdoc(registry.ALGOS[name].load()[0]) or "").split("\n")[0]


def _describe_tasks(name: str) -> str:
    """Returns the definition of a task family: what its id means here, where the literature may differ."""
    return (inspect.getdoc(registry.TASKS[name].load()[1]) or "").removeprefix(f"`{name}`: ")


def _train_help() -> str:
    return f"""usage: jaxmeta train ALGO TASKS --out DIR [flags]

Meta-trains an agent and writes a run folder: configuration, metrics, checkpoints, evaluation, pictures.

  ALGO    {", ".join(registry.ALGOS)}
  TASKS   {", ".join(registry.TASKS)}

`jaxmeta train ALGO TASKS --help` shows all flags of the two; `jaxmeta list` says what they are."""
