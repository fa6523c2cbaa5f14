"""One call of `jaxmeta train` after its arguments are parsed: devices, run folder, training, evaluation."""

from __future__ import annotations

import contextlib
import dataclasses
import shlex
from typing import Any

import jax

import jaxmeta as jm
from jaxmeta import devices
from jaxmeta.cli import checks, listing, train
from jaxmeta.cli.parsing import UsageError
from jaxmeta.config import codec
from jaxmeta.core import guard
from jaxmeta.core.checkpoint import CheckpointError
from jaxmeta.experiment import alarms, assessment, loading, locks, logging, provenance, registry, runs, survival


def join_processes(options: train.Options) -> None:
    """Connects to the other processes of a distributed run."""
    try:
        devices.join_processes(options.coordinator, options.num_processes, options.process_id, options.heartbeat)
    except (RuntimeError, ValueError) as error:
        brief = str(error).strip().split("\n")[0]
        raise UsageError(f"--distributed: the processes cannot connect: {brief}") from error


def check_devices(options: train.Options, meta: Any) -> None:
    """Refuses a number of devices or processes that cannot share the tasks of an update equally."""
    there = len(jax.devices())
    wanted = there if options.distributed else options.devices
    if wanted is not None and wanted > there:
        raise UsageError(f"--devices is {wanted}, but there are {there} here")
    used = execution(options).mesh(meta.info.spread).size
    if wanted is not None and used != wanted:
        other = "" if options.distributed else f" (try --devices {used})"
        raise UsageError(
            f"{wanted} devices cannot share the tasks of an update equally, only {used} can; the number of tasks must"
            f" be a multiple of {wanted}{other}"
        )


def execution(options: train.Options) -> devices.Execution:
    """Returns the devices to train on; with `--distributed`, all of them, and `--devices` is per process."""
    return devices.Execution(None if options.distributed else options.devices)


class Training:
    """One call of `jaxmeta train`, after its arguments are parsed."""

    def __init__(self, options: train.Options, config: runs.RunConfig, family: Any, meta: Any, data: Any = ()):
        assert options.out is not None
        self.data = data
        self.options, self.config, self.family, self.meta, self.folder = options, config, family, meta, options.out
        self.origin, self.done = provenance.origin(), 0
        self.state: Any = None
        self.execution = execution(options)
        self.is_main_process = devices.is_first_process()

    def run(self) -> int:
        """Trains, evaluates and plots; returns the exit code."""
        if self.config.updates <= self.meta.info.warmup:
            least = self.meta.info.warmup + 1
            raise UsageError(
                f"--updates is {self.config.updates}; it must be at least {least}, as the first"
                f" {self.meta.info.warmup} only collect experience"
            )
        with contextlib.ExitStack() as stack:
            self._claim_folder(stack)
            self._checkpointer = jm.Checkpointer(self.folder / runs.CHECKPOINTS)
            stack.callback(self._checkpointer.close)
            try:
                with codec.named("algo", self.config.algo_config):
                    self.state = self._restore() if self.options.resume else self._fresh()
                self.config = self._noted()
                if self.is_main_process:
                    runs.write_config(self.folder, self.config)
                    self._introduce()
                stopped = self._train()
            except guard.NonFiniteError as error:
                self._say(self._dump(error))
                return 3
            if stopped:
                out = shlex.quote(str(self.folder))
                how = f"jaxmeta train {self.config.algo} {self.config.tasks} --out {out} --resume"
                self._say(f"stopped at update {self.done}; continue with `{how}`")
                return 128 + stopped
            if self.options.eval_tasks:
                self._report()
        if self.is_main_process:
            print(f"run folder: {self.folder}")
        return 0

    def _say(self, message: str) -> None:
        if self.is_main_process:
            survival.say(f"jaxmeta: {' '.join(message.split())}")

    def _claim_folder(self, stack: contextlib.ExitStack) -> None:
        """Makes and locks the run folder; if process 0 refuses it, all processes do."""
        found = None
        if self.is_main_process:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                stack.enter_context(locks.locked(self.folder))
                # another run may have written to it since the arguments were read
                if self.options.resume:
                    train.check_updates(self.folder, self.config.updates)
                else:
                    checks.empty(self.folder)
            except OSError as error:
                found = UsageError(f"--out {self.folder} cannot be written: {error.strerror}")
            except ValueError as error:
                found = error
        if devices.largest_of_processes(found is not None):
            raise found or UsageError(f"process 0 refused --out {self.folder}")

    def _dump(self, error: guard.NonFiniteError) -> str:
        """Saves the state that training stopped at, for inspection; returns the message for the user."""
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
        return f"{error}; {where}, {kept}"

    def _fresh(self) -> Any:
        return loading.fresh_state(self.config, self.meta, self.execution)

    def _restore(self) -> Any:
        """Returns the state of the last undamaged checkpoint; later, damaged ones are moved aside."""
        if self._checkpointer.latest() is None:
            return self._fresh()  # stopped before its first checkpoint
        try:
            form = jm.state_form(self.meta, runs.seed_axis(self.config), self.execution)
            self.done, state, skipped = self._checkpointer.restore_last(form)
        except CheckpointError as error:
            raise codec.RunError(str(error)) from error
        for update, message in skipped.items():
            self._say(f"{message}; going back to update {self.done}")
            self._checkpointer.set_aside(update)
        return state

    def _noted(self) -> runs.RunConfig:
        """Returns the configuration with device, platform and commit; a resumed run keeps those of earlier parts."""
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
                loggers = [logging.Guarded(callback) for callback in (lines, *boards, progress, alarms.Alarms())]
            for board in boards:
                stack.callback(board.close)
            saver = survival.Saver(self._checkpointer, signals, self.done, total, every, about)
            try:
                self.state = jm.train(
                    self.meta,
                    self._release_state(),
                    total,
                    chunk=self.options.chunk,
                    num_seeds=runs.seed_axis(self.config),
                    callbacks=[*loggers, saver],
                    data=self.data,
                    execution=self.execution,
                )
            except survival.Stopped as stopped:
                self.done = stopped.update
                return stopped.number
        return None

    def _release_state(self) -> Any:
        """Returns the state and drops its reference: training copies the replay buffers, so the old can be freed."""
        state, self.state = self.state, None
        return state

    def _boards(self) -> list[Any]:
        """Returns the loggers that must be closed at the end."""
        boards: list[Any] = [logging.TensorBoard(self.folder, self.done)]
        if self.options.wandb is not None:
            board = logging.WandB(self.options.wandb, self.folder, codec.encode(self.config, ""))
            boards.append(logging.Background(board))
        return boards

    def _introduce(self) -> None:
        """Prints a summary of the run: devices, algorithm, tasks, size of an update."""
        config, spec = self.config, self.family.env.spec
        num_tasks, plan = self.meta.info.num_tasks, self.meta.info.plan
        trials = f"{num_tasks} tasks x {plan.rounds + 1} rounds x {plan.streams} streams"
        size = sum(leaf.size for leaf in jax.tree.leaves(self.state.params)) // config.num_seeds
        print(f"jaxmeta {jm.__version__}, jax {jax.__version__}, on {self._devices()}")
        algo, *_ = listing.describe(config.algo, registry.find_algo(config.algo, config.tasks)).splitlines()
        print(f"algorithm  {config.algo}: {algo}")
        tasks = listing.describe(config.tasks, registry.find_tasks(config.tasks))
        # a factory of the user's may have no docstring
        print(f"tasks      {config.tasks}" + (": " + tasks.replace("\n", "\n" + " " * 11) if tasks else ""))
        if config.sampler != "uniform":
            sampler, *_ = listing.describe(config.sampler, registry.SAMPLERS[config.sampler]).splitlines()
            print(f"sampler    {config.sampler}: {sampler}")
        if config.reveal:
            print("           the task is part of every observation")
        print(f"update     {trials} x {plan.episodes} episodes x {spec.horizon} steps; {size:,} parameters")
        if self.meta.info.warmup:
            print(f"           the first {self.meta.info.warmup} updates only collect experience")
        if config.start is not None:
            print(f"           starts from the parameters of {config.start_from} at update {config.start['update']}")
        for folder, update in zip(config.library or (), (config.sources or {}).get("library", ()), strict=False):
            print(f"           the library has {folder} ({update})")
        for name in ("demonstrations", "expert"):
            if (source := getattr(config, name)) is not None:
                print(f"           imitates {name} {source} ({(config.sources or {}).get(name)})")
        seeds = f"seed {config.seed}" + (f", {config.num_seeds} runs in parallel" if config.num_seeds > 1 else "")
        print(f"run        {self.folder}, updates {self.done} to {config.updates}, {seeds}", flush=True)

    def _devices(self) -> str:
        """Describes the devices in use, and why some are idle: their number must divide the number of tasks."""
        spread, there = self.meta.info.spread, jax.devices()
        used = self.execution.mesh(spread).size
        kind = there[0].device_kind
        if used == len(there):
            return f"{used} x {kind}"
        # an algorithm with minibatches shards one of them at a time
        tasks = f"{spread} tasks" if spread == self.meta.info.num_tasks else f"{spread}, the tasks sharded at a time"
        why = "" if self.options.devices else f" (the largest number that divides {tasks})"
        return f"{used} of {len(there)} x {kind}{why}"

    def _report(self) -> None:
        """Evaluates on held-out tasks and draws the plots."""
        from jaxmeta.viz import curricula, plot

        run = loading.Run(self.folder, self.config, self.family, self.meta, self.state)
        evaluation = assessment.assess(run, self.options.eval_tasks)
        if not self.is_main_process:
            return
        runs.write_atomically(self.folder / runs.EVALUATION, codec.to_json(evaluation, indent=2) + "\n")
        logging.print_evaluation(evaluation)
        records = runs.read_metrics(self.folder)
        for file in (*plot.draw(self.folder, records, evaluation), *curricula.draw(self.folder, records, evaluation)):
            print(f"picture: {file}")
