"""The command line: train, evaluate, plot, render, reproduce, list. Only what needs JAX imports it."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import importlib
import inspect
import io
import json
import os
import shlex
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jaxmeta as jm
from jaxmeta.cli import flags
from jaxmeta.config import codec
from jaxmeta.experiment import logging, provenance, registry, runs, survival

HELP = """usage: jaxmeta COMMAND ...

Meta-reinforcement learning in JAX.

  train ALGO TASKS --out DIR    meta-train an agent; writes a run folder
  evaluate DIR                  let it adapt to held-out tasks and report its returns
  plot DIR                      draw its learning curve and its adaptation curve
  render DIR                    draw a trial of the agent: where it goes on a grid, what it predicts of a wave
  reproduce NAME                train what a published table needs; print ours beside the published numbers
  list                          algorithms and task families

`jaxmeta COMMAND --help` tells more; `jaxmeta --version` prints the version."""


RENDERED = {"grid-navigation": "jaxmeta.viz.beliefs", "sinusoid": "jaxmeta.viz.waves"}
"""Task families whose trials are drawn, and by what."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns the exit code.

    It is 0 if all went well, 2 for bad input, 1 if the machine gave out (memory, disk) or a reproduced number is not
    what is required, 3 if updates were not finite (the state is in `nonfinite/` of the run folder). A run that was told
    to stop returns 128 and the signal's number, which is 130 for Ctrl-C and 143 for SIGTERM: `--resume` continues it.
    It has saved its state, unless the device call did not end within 8 seconds: its last checkpoint remains then.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without Greek letters is no reason to fail
    try:
        return _dispatch(argv)
    except (flags.UsageError, codec.RunError) as error:
        return _fail(error, 2)
    except SystemExit as stop:  # tyro has printed a help text
        return int(stop.code or 0)
    except KeyboardInterrupt:
        print("jaxmeta: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of the output, such as `head`, has left
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (OSError, survival.SaveError) as error:
        return _fail(error, 1)
    except RuntimeError as error:
        import jax

        if not isinstance(error, jax.errors.JaxRuntimeError):
            raise
        return _fail(_device_error(str(error), argv[0]), 1)


def _fail(what: Any, code: int) -> int:
    """Says in one line what went wrong and returns the exit code."""
    print("jaxmeta: " + " ".join(str(what).split()), file=sys.stderr)
    return code


def _device_error(text: str, command: str) -> str:
    """Says what a device program failed of, and what may help."""
    first = text.strip().split("\n")[0][:300]  # what follows may be pages: a dump of all buffers
    flags = {"train": "--algo.num-tasks, --algo.streams or --algo.hidden", "evaluate": "--num-tasks or --streams"}
    return f"{first}; reduce {flags[command]}" if "RESOURCE_EXHAUSTED" in first and command in flags else first


def _dispatch(argv: list[str]) -> int:
    commands = {
        "train": _train,
        "evaluate": _evaluate,
        "plot": _plot,
        "render": _render,
        "reproduce": _reproduce,
        "list": _list,
    }
    if not argv:
        raise flags.UsageError(f"no command; choose one of {', '.join(commands)} (`jaxmeta --help` tells more)")
    if argv[0] in flags.HELP_FLAGS:
        print(HELP)
    elif argv[0] == "--version":
        print(f"jaxmeta {jm.__version__}")
    elif argv[0] in commands:
        return commands[argv[0]](argv[1:])
    else:
        raise flags.UsageError(f"no command {argv[0]!r};{registry.near(argv[0], commands)} `jaxmeta --help` shows all")
    return 0


def _list(argv: list[str]) -> int:
    """Lists what the registry knows."""
    options = flags.parse(flags.ListOptions, argv, "jaxmeta list")
    if options.json:
        supervised = {"supervised_algos": list(registry.SUPERVISED_ALGOS)}
        print(json.dumps({"algos": list(registry.ALGOS), "tasks": list(registry.TASKS)} | supervised))
        return 0
    from rich.console import Console
    from rich.table import Table

    for heading, entries in (
        ("algorithm", registry.ALGOS),
        ("on supervised tasks", registry.SUPERVISED_ALGOS),
        ("tasks", registry.TASKS),
    ):
        table = Table(heading, "")
        for name, entry in entries.items():
            table.add_row(name, _describe(entry).removeprefix(f"`{name}`: ").splitlines()[0])
        Console().print(table)
    return 0


def _plot(argv: list[str]) -> int:
    """Draws the pictures of a run."""
    options = flags.parse(flags.PlotOptions, argv, "jaxmeta plot")
    runs.read_config(flags.need_run(options.run, "plot"))  # its errors come before JAX starts
    evaluation = runs.read_evaluation(options.run)
    if evaluation is None:
        evaluation = runs.assess(_load(options))
    from jaxmeta.viz import plot

    for file in plot.draw(options.run, runs.read_metrics(options.run), evaluation):
        print(file)
    return 0


def _render(argv: list[str]) -> int:
    """Draws a trial of the agent of a run."""
    options = flags.parse(flags.RenderOptions, argv, "jaxmeta render")
    config = runs.read_config(flags.need_run(options.run, "render"))  # its errors come before JAX starts
    flags.check_seed(options.task)
    if config.tasks not in RENDERED:
        known = " and ".join(RENDERED)
        raise flags.UsageError(f"the run in {options.run} is on {config.tasks}; render draws runs on {known}")
    file = options.out or options.run / f"trial-{options.task}.png"
    flags.check_picture("--out", file)
    run = _load(options)
    from jaxmeta.viz import plot

    plot.save(importlib.import_module(RENDERED[config.tasks]).draw_trial(run, options.task), file)
    print(file)
    return 0


def _evaluate(argv: list[str]) -> int:
    """Evaluates the last checkpoint of a run."""
    options = flags.parse(flags.EvaluateOptions, argv, "jaxmeta evaluate")
    flags.need_run(options.run, "evaluate")
    flags.at_least("--num-tasks", options.num_tasks, 1)
    if options.rounds is not None:
        flags.at_least("--rounds", options.rounds, 0)
    if options.streams is not None:
        flags.at_least("--streams", options.streams, 1)
    flags.check_seed(options.seed)
    config = runs.read_config(options.run)
    # an algorithm that adapts between rounds has a field for their number
    if options.rounds and not getattr(config.algo_config, "rounds", 0):
        raise flags.UsageError(
            f"--rounds is {options.rounds}, but the agent in {options.run} was meta-trained without adaptation"
            " between rounds; leave --rounds out"
        )
    prior = getattr(config.algo_config, "prior_episodes", 0)
    if options.rounds and options.rounds < prior:
        raise flags.UsageError(
            f"--rounds is {options.rounds}, but the agent in {options.run} acts on a belief only after {prior}"
            f" episodes; take at least {prior}"
        )
    run = _load(options)
    evaluation = runs.assess(
        run, options.num_tasks, options.seed, options.rounds, options.deterministic, options.streams
    )
    if options.json:
        print(codec.to_json(evaluation))
    else:
        logging.print_evaluation(evaluation)
    return 0


def _reproduce(argv: list[str]) -> int:
    """Puts our numbers beside those of a published table."""
    options = flags.parse(flags.ReproduceOptions, argv, "jaxmeta reproduce")
    from jaxmeta.reproduce import run, show

    call = run.prepare(options)
    _start_jax(options.cache)
    rows, code = run.perform(call, _train)
    if code:
        return code
    if options.json:
        print(codec.to_json({"name": call.table.name, "rows": rows}, indent=2))
    else:
        written = [file for table in call.tables() for file in (table, table.with_suffix(".png"))]
        show.print_table(call.table, rows, written)
    return 1 if any(row["met"] is False for row in rows) and not options.quick else 0


def _train(argv: list[str]) -> int:
    """Meta-trains an agent."""
    if any(token in flags.HELP_FLAGS for token in argv[:2]):
        print(_train_help())
        return 0
    with _importing():
        options, config = flags.train_flags(argv)

        _start_jax(options.cache, options.devices)
        if options.distributed:
            _join_processes(options)
        family, meta = config.build()
        _check_spread(options, meta)
        if config.start_from is not None and not options.resume:
            runs.start_form(config, meta)  # refuses what does not fit before anything is written
    return _Training(options, config, family, meta).run()


def _join_processes(options: Any) -> None:
    """Meets the other processes; what the first finds wrong with the folder all refuse."""
    from jaxmeta import devices

    try:
        devices.join_processes(options.coordinator, options.num_processes, options.process_id, options.heartbeat)
    except (RuntimeError, ValueError) as error:
        brief = str(error).strip().split("\n")[0]
        raise flags.UsageError(f"--distributed: the processes do not find each other: {brief}") from error
    found = None
    if devices.is_first_process() and not options.resume:
        try:
            flags.check_empty(options.out)
        except flags.UsageError as error:
            found = error
    if devices.largest_of_processes(found is not None):
        raise found or flags.UsageError(f"process 0 refuses --out {options.out}")


def _check_spread(options: Any, meta: Any) -> None:
    """Refuses devices, or processes, that would have nothing to do."""
    import jax

    there = len(jax.devices())
    wanted = there if options.distributed else options.devices
    if wanted is not None and wanted > there:
        raise flags.UsageError(f"--devices is {wanted}, but there are {there} here")
    used = _execution(options).mesh(meta.info.spread).size
    if wanted is not None and used != wanted:
        other = "" if options.distributed else f" (try --devices {used})"
        raise flags.UsageError(
            f"{wanted} devices are to be used, but the tasks of an update spread over {used} only: their number must be"
            f" a multiple of {wanted}{other}"
        )


def _execution(options: Any) -> Any:
    """Returns the devices to train on; with several processes, `--devices` counts those of each, and all are used."""
    from jaxmeta.devices import Execution

    return Execution(None if options.distributed else options.devices)


class _Training:
    """One call of `jaxmeta train`, from the first word it prints to the last file it writes."""

    def __init__(self, options: Any, config: runs.RunConfig, family: Any, meta: Any):
        self.options, self.config, self.family, self.meta, self.folder = options, config, family, meta, options.out
        self.origin, self.done = provenance.origin(), 0
        self.state: Any = None
        self.execution = _execution(options)
        from jaxmeta import devices

        self.is_main_process = devices.is_first_process()

    def run(self) -> int:
        """Trains, evaluates, draws; returns the exit code."""
        from jaxmeta.core import guard

        if self.config.updates <= self.meta.info.warmup:
            least = self.meta.info.warmup + 1
            raise flags.UsageError(
                f"--updates is {self.config.updates}; it must be at least {least}, as those before only collect"
            )
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise flags.UsageError(f"--out {self.folder} cannot be made: {error.strerror}") from error
        self._checkpointer = jm.Checkpointer(self.folder / runs.CHECKPOINTS)
        try:
            with codec.named("algo", self.config.algo_config):
                self.state = self._restore() if self.options.resume else self._fresh()
            self.config = self._noted()
            if self.is_main_process:
                runs.write_config(self.folder, self.config)
                self._introduce()
            stopped = self._train()
        except guard.NonFiniteError as error:
            return self._dump(error)
        finally:
            self._checkpointer.close()
        if stopped:
            out = shlex.quote(str(self.folder))
            how = f"jaxmeta train {self.config.algo} {self.config.tasks} --out {out} --resume"
            if self.is_main_process:
                print(f"jaxmeta: stopped at update {self.done}; continue with `{how}`", file=sys.stderr)
            return 128 + stopped
        if self.options.eval_tasks:
            self._report()
        if self.is_main_process:
            print(f"run folder: {self.folder}")
        return 0

    def _dump(self, error: Any) -> int:
        """Saves a state that could not be trained on, to look at; returns the exit code."""
        folder = self.folder / runs.NON_FINITE
        dump = jm.Checkpointer(folder)
        try:
            dump.save(error.update, error.state, about={"run": codec.encode(self.config, "")})
            where = f"the state is in {folder} to look at"
        except Exception as failure:  # such as a full disk
            where = f"the state cannot be saved to {folder}: {failure}"
        dump.close()
        latest = self._checkpointer.latest()
        kept = "there is no checkpoint" if latest is None else f"the last checkpoint is of update {latest}"
        return _fail(f"{error}; {where}, {kept}", 3)

    def _fresh(self) -> Any:
        return runs.fresh_state(self.config, self.meta, self.execution)

    def _restore(self) -> Any:
        """Returns the state of the last good checkpoint; later ones that are damaged are put aside."""
        from jaxmeta.core.checkpoint import CheckpointError

        if self._checkpointer.latest() is None:
            return self._fresh()  # stopped before its first checkpoint: it starts over
        try:
            form = jm.state_form(self.meta, runs.seed_axis(self.config), self.execution)
            self.done, state, skipped = self._checkpointer.restore_last(form)
        except CheckpointError as error:
            raise codec.RunError(str(error)) from error
        for update, message in skipped.items():
            if self.is_main_process:
                print(f"jaxmeta: {message}; going back to update {self.done}", file=sys.stderr)
            self._checkpointer.set_aside(update)
        return state

    def _noted(self) -> runs.RunConfig:
        """Returns the configuration with where the run is trained; what a resumed run says of that is added to."""
        if not self.done:
            return dataclasses.replace(self.config, **self.origin)
        if self.done == self.config.updates:
            return self.config  # nothing is left to train
        names = ("device", "platform", "commit")
        both = {name: provenance.continued(getattr(self.config, name), self.origin[name]) for name in names}
        return dataclasses.replace(self.config, **both)

    def _train(self) -> int | None:
        """Trains to the end and returns None, or returns the number of the signal that stopped it."""
        total, every = self.config.updates, self.options.checkpoint_every
        about = {"run": codec.encode(self.config, "")}
        boards = self._boards() if self.is_main_process else []
        with contextlib.ExitStack() as stack:
            signals = stack.enter_context(survival.StopSignals())
            loggers: list[Any] = []
            if self.is_main_process:
                progress = stack.enter_context(logging.Progress(self.done, total))
                kept = runs.truncate_metrics(self.folder, self.done)
                lines = logging.JsonLines(self.folder, kept.get("env_steps") or 0.0, kept.get("seconds") or 0.0)
                loggers = [logging.Guarded(callback) for callback in (lines, *boards, progress)]
            saver = survival.Saver(self._checkpointer, signals, self.done, total, every, about)
            callbacks = [*loggers, saver]
            chunk, num_seeds = self.options.chunk, runs.seed_axis(self.config)
            try:
                self.state = jm.train(
                    self.meta,
                    self._release_state(),
                    total,
                    chunk=chunk,
                    num_seeds=num_seeds,
                    callbacks=callbacks,
                    execution=self.execution,
                )
            except survival.Stopped as stopped:
                self.done = stopped.update
                return stopped.number
            finally:
                for board in boards:
                    board.close()
        return None

    def _release_state(self) -> Any:
        """Returns the state and forgets it: training copies replay buffers, and only one of the two has to stay."""
        state, self.state = self.state, None
        return state

    def _boards(self) -> list[Any]:
        """Returns the loggers that are to be closed."""
        boards: list[Any] = [logging.TensorBoard(self.folder, self.done)]
        if self.options.wandb is not None:
            boards.append(logging.WandB(self.options.wandb, self.folder, codec.encode(self.config, "")))
        return boards

    def _introduce(self) -> None:
        """Prints what is about to run, the definition of the tasks included."""
        import jax

        config, spec = self.config, self.family.env.spec
        num_tasks, plan = self.meta.info.num_tasks, self.meta.info.plan
        trials = f"{num_tasks} tasks x {plan.rounds + 1} rounds x {plan.streams} streams"
        size = sum(leaf.size for leaf in jax.tree.leaves(self.state.params)) // config.num_seeds
        print(f"jaxmeta {jm.__version__}, jax {jax.__version__}, on {self.origin['device']}")
        algo = registry.find_algo(config.algo, config.tasks)
        print(f"algorithm  {config.algo}: {_describe(algo).splitlines()[0]}")
        tasks = _describe(registry.TASKS[config.tasks]).removeprefix(f"`{config.tasks}`: ")
        print(f"tasks      {config.tasks}: " + tasks.replace("\n", "\n" + " " * 11))
        if config.reveal:
            print("           the agent is shown what the task is")
        print(f"update     {trials} x {plan.episodes} episodes x {spec.horizon} steps; {size:,} parameters")
        if self.meta.info.warmup:
            print(f"           the first {self.meta.info.warmup} updates only collect")
        if config.start is not None:
            print(f"           it begins with what {config.start_from} had learned at update {config.start['update']}")
        seeds = f"seed {config.seed}" + (f", {config.num_seeds} runs side by side" if config.num_seeds > 1 else "")
        print(f"run        {self.folder}, updates {self.done} to {config.updates}, {seeds}", flush=True)

    def _report(self) -> None:
        """Evaluates on held-out tasks and draws the pictures."""
        from jaxmeta.viz import plot

        run = runs.Run(self.folder, self.config, self.family, self.meta, self.state)
        evaluation = runs.assess(run, self.options.eval_tasks)
        if not self.is_main_process:
            return
        runs.write_atomically(self.folder / runs.EVALUATION, codec.to_json(evaluation, indent=2) + "\n")
        logging.print_evaluation(evaluation)
        for file in plot.draw(self.folder, runs.read_metrics(self.folder), evaluation):
            print(f"picture: {file}")


def _load(options: Any) -> runs.Run:
    _start_jax(options.cache)
    with warnings.catch_warnings(action="ignore"):
        run = runs.load(options.run)
    for message in run.skipped.values():
        print(f"jaxmeta: {message}; going back to update {run.step}", file=sys.stderr)
    return run


@contextlib.contextmanager
def _importing() -> Iterator[None]:
    """Makes the first import of JAX, and an early exit after it, faster by a quarter.

    The garbage collector would search all that an import makes, time and again, and once more at the end; none of it is
    garbage.
    """
    if "jax" in sys.modules:
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def _start_jax(cache: bool, devices: int | None = None) -> None:
    """Makes the CPU's cores devices and turns the compilation cache on, before any computation."""
    jm.use_cpu_cores(devices)
    import jax

    if not cache:
        jax.config.update("jax_compilation_cache_dir", None)  # the environment may name one
        return
    if getattr(jax.config, "jax_compilation_cache_dir", None):
        return
    folder = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "jaxmeta"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        # compiled programs are run as they are: nobody else may put one there
        folder.chmod(0o700)
    except OSError:
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))


def _describe(entry: registry.Entry) -> str:
    """Returns what an algorithm is, or what the id of a task family means here, from its config's docstring."""
    return inspect.getdoc(entry.load()[1]) or ""


def _train_help() -> str:
    return f"""usage: jaxmeta train ALGO TASKS --out DIR [flags]

Meta-trains an agent and writes a run folder: configuration, metrics, checkpoints, evaluation, pictures.

  ALGO    {", ".join(registry.ALGOS)}
          on supervised tasks: {", ".join(registry.SUPERVISED_ALGOS)}
  TASKS   {", ".join(name for name in registry.TASKS if name not in registry.SUPERVISED_TASKS)}
          supervised: {", ".join(registry.SUPERVISED_TASKS)}

`jaxmeta train ALGO TASKS --help` shows all flags of the two; `jaxmeta list` says what they are."""
