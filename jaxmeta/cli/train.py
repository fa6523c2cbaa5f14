"""`jaxmeta train`: its flags, and the checks before anything is compiled or written."""

from __future__ import annotations

import dataclasses
import logging
import typing
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from jaxmeta.cli import checks, parsing, startup
from jaxmeta.cli.parsing import UsageError
from jaxmeta.config import codec
from jaxmeta.experiment import loading, registry, runs

if TYPE_CHECKING:
    from jaxmeta.cli.training import Training


PATHS = ("start_from", "demonstrations", "expert")
"""Options that name a file or a folder, and fields of `RunConfig`."""


@dataclasses.dataclass(frozen=True)
class Options:
    """Flags of `train` besides those of the algorithm and the tasks."""

    out: parsing.NewFolder = None
    """Run folder to write, new or empty (required)."""
    updates: int = 500
    """Meta-updates in total."""
    seed: int = 0
    """Random seed."""
    num_seeds: int = 1
    """Independent runs in parallel, from one compiled program."""
    sampler_name: Annotated[
        Literal["uniform", "prioritised", "learnability", "progress", "near-far"], tyro.conf.arg(name="sampler")
    ] = "uniform"
    """Sampler of tasks: uniform is the algorithm's own, the others are curricula; `--sampler NAME --help` shows the
    flags of one."""
    reveal: parsing.Switch = False
    """Add the task to every observation: the agent becomes an oracle."""
    resume: parsing.Switch = False
    """Continue the run in DIR from its last checkpoint. Its configuration stays the same, but `--updates` may grow."""
    start_from: parsing.Folder = None
    """Start from the parameters of another run, such as one on shorter trials, instead of random ones. That run must
    have the same algorithm, network and `--num-seeds`. Flags of the initialisation have no effect."""
    demonstrations: parsing.File = None
    """Learn from demonstrations that `jaxmeta collect` has written: with clone and distill."""
    expert: parsing.Folder = None
    """Imitate the agent of another run, such as one with `--reveal`: with clone, dagger, distill and dpt. By default
    these imitate the planner or the learning algorithm that jaxmeta has for the tasks."""
    library: parsing.Folders = ()
    """Act through the policies of other runs, such as of ppo or multi-task on the same kind of tasks: with lead-policy,
    which needs at least one."""
    devices: int | None = None
    """Number of devices; on a CPU, of cores. By default the largest that divides the tasks of an update. With
    `--distributed`, devices per process."""
    distributed: parsing.Switch = False
    """Train in several processes, of which this is one. SLURM, a TPU pod or the next three flags connect them."""
    coordinator: Annotated[str | None, tyro.conf.arg(metavar="HOST:PORT")] = None
    """Address of process 0, with `--distributed`."""
    num_processes: int | None = None
    """Number of processes, with `--distributed`."""
    process_id: int | None = None
    """Index of this process, from 0, with `--distributed`."""
    heartbeat: int = 30
    """Seconds after which all processes exit if one stops responding, with `--distributed`."""
    chunk: int = 1
    """Updates per device call; the result does not depend on it."""
    checkpoint_every: int = 50
    """Updates lost at most if the process is killed; checkpoints are written twice as often. The last update is always
    saved."""
    eval_tasks: int = 40
    """Held-out tasks of the evaluation at the end; 0 skips it."""
    wandb: Annotated[str | None, tyro.conf.arg(metavar="PROJECT")] = None
    """Also log to this project of Weights & Biases."""
    cache: parsing.Cache = True


def run(argv: list[str]) -> int:
    """Meta-trains an agent; returns the exit code."""
    if any(token in parsing.HELP_FLAGS for token in argv[:2]):
        print(_help())
        return 0
    with startup.importing():
        training = start(*configure(argv))
    return training.run()


def meta_train(options: Options, config: runs.RunConfig) -> int:
    """Meta-trains an agent that is configured in Python, as `run` does from flags; returns the exit code.

    Args:
      options: as `run` parses them. Fields that `config` has too, such as `updates`, must agree with it.
      config: with `options.resume`, the configuration of the run in the folder; only `updates` may differ.

    Raises:
      UsageError: if the options or the configuration are invalid, before anything is written.
    """
    with startup.importing():
        training = start(options, check(options, config))
    return training.run()


def start(options: Options, config: runs.RunConfig) -> Training:
    """Starts JAX and builds family and meta-learner; raises errors before anything is written."""
    startup.start_jax(options.cache, options.devices)
    # a failed checkpoint is reported in one line; asyncio, which Orbax uses, would print pages
    for name in ("asyncio", "concurrent.futures"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    from jaxmeta.cli import training

    if options.distributed:
        training.join_processes(options)
    startup.find_devices()
    family, meta = config.build()
    training.check_devices(options, meta)
    if config.start_from is not None and not options.resume:
        loading.start_form(config, meta)
    return training.Training(options, config, family, meta, loading.training_data(config, family))


def configure(argv: list[str]) -> tuple[Any, runs.RunConfig]:
    """Parses the arguments of `train` and makes all checks that need no JAX."""
    options, config = new_run(argv)
    if options.resume:
        options, config = _resumed(argv, options.out)
    return options, check(options, config)


def check(options: Options, config: runs.RunConfig) -> runs.RunConfig:
    """Makes all checks that need no JAX; returns the config, with the run that it starts from, if any."""
    assert options.out is not None
    # with several processes another may already write here; process 0 checks after they have connected
    if not options.resume and not options.distributed:
        checks.empty(options.out)
    checks.writable("--out", options.out)
    _check_wandb(options.wandb)
    if options.resume:
        check_updates(options.out, options.updates)
    elif options.start_from is not None:
        _check_start(options, config)
        config = runs.with_start(config)
    if not options.resume:
        _check_sources(config)
        config = runs.with_sources(config)
    return config


def new_run(argv: list[str]) -> tuple[Any, runs.RunConfig]:
    """Parses the arguments of `train` for a new run; does not look into its folder."""
    if len(argv) < 2 or any(token.startswith("-") for token in argv[:2]):
        raise UsageError("train needs ALGO and TASKS first, such as `jaxmeta train maml navigation --out runs/first`")
    algo, tasks, *flags = argv
    options = parsing.parse(_kind(algo, tasks, flags), flags, _prog(algo, tasks))
    if options.out is None:
        raise UsageError("--out is missing; it names the run folder (try --out runs/first)")
    for name, least in (("updates", 1), ("num_seeds", 1), ("chunk", 1), ("checkpoint_every", 1), ("eval_tasks", 0)):
        checks.at_least("--" + name.replace("_", "-"), getattr(options, name), least)
    checks.seed(options.seed)
    _check_processes(options)
    config = runs.RunConfig(
        algo,
        tasks,
        options.algo,
        options.tasks,
        options.seed,
        options.num_seeds,
        options.updates,
        options.reveal,
        options.sampler_name,
        None if options.sampler_name == "uniform" else options.sampler,
        start_from=None if options.start_from is None else str(options.start_from),
        demonstrations=None if options.demonstrations is None else str(options.demonstrations),
        expert=None if options.expert is None else str(options.expert),
        library=tuple(map(str, options.library)) or None,
    )
    if registry.is_own(tasks):
        runs.check_storable(config)
    return options, config


def check_updates(folder: Path, updates: int) -> None:
    """Refuses to resume a run with fewer updates than it has done."""
    done = runs.last_checkpoint(folder) or 0
    checks.at_least("--updates", updates, done, ", which the run has already done")


def _resumed(argv: list[str], folder: Path) -> tuple[Any, runs.RunConfig]:
    """Parses the arguments of `train` for a resumed run: flags that are not given keep their value."""
    algo, tasks, *flags = argv
    stored = runs.read_config(folder)
    _must_agree("ALGO", algo, stored.algo, folder)
    _must_agree("TASKS", tasks, stored.tasks, folder)
    kind = _kind(algo, tasks, flags, stored.sampler)
    _must_agree("--sampler", kind().sampler_name, stored.sampler, folder)
    more = {} if stored.sampler_config is None else {"sampler": stored.sampler_config}
    before = kind(
        **more,
        algo=stored.algo_config,
        tasks=stored.tasks_config,
        seed=stored.seed,
        num_seeds=stored.num_seeds,
        updates=stored.updates,
        reveal=stored.reveal,
        library=tuple(map(Path, stored.library or ())),
        **{name: None if (path := getattr(stored, name)) is None else Path(path) for name in PATHS},
    )
    options = parsing.parse(kind, flags, _prog(algo, tasks), before)
    _check_processes(options)
    there = {name: path.resolve() for name in PATHS if (path := getattr(options, name)) is not None}
    options = dataclasses.replace(options, **there, library=tuple(path.resolve() for path in options.library))
    for part in ("algo", "tasks", "sampler", "seed", "num_seeds", "reveal", "library", *PATHS):
        if differs := codec.first_difference(part, getattr(options, part), getattr(before, part)):
            name, given, then = differs
            _must_agree("--" + name.replace("_", "-"), given, then, folder)
    return options, dataclasses.replace(stored, updates=options.updates)


def _kind(algo: str, tasks: str, flags: list[str], usual: Any = Options.sampler_name) -> type:
    """Makes the dataclass of all flags of `train` for an algorithm, a task family and the sampler in the flags.

    Args:
      usual: the sampler if the flags have none.
    """
    import_own(tasks, Options, flags, _prog(algo, tasks))
    known = parsing.parse(Options, flags, _prog(algo, tasks), Options(sampler_name=usual), ignore_unknown=True)
    find = {
        "algo": lambda: registry.find_algo(algo, tasks),
        "tasks": lambda: registry.find_tasks(tasks),
        "sampler": lambda: registry.find("sampler", registry.SAMPLERS, known.sampler_name),
    }
    return with_configs(Options, find, f"Meta-trains {algo} on {tasks}.", sampler_name=known.sampler_name)


def import_own(tasks: str, kind: Any, flags: list[str], prog: str) -> None:
    """Configures JAX before the module of a user's family is imported, which may run JAX."""
    if registry.is_own(tasks):
        known = parsing.parse(kind, flags, prog, ignore_unknown=True)
        startup.start_jax(known.cache, getattr(known, "devices", None))
        if not getattr(known, "distributed", False):
            startup.find_devices()


def with_configs(kind: Any, find: dict[str, Callable[[], Any]], about: str, **defaults: Any) -> type:
    """Adds the configs of algorithms or task families to a dataclass of flags.

    Args:
      find: by name of the field, a function that looks the registered entry up.
      about: docstring of the result, for the help text.
      defaults: other defaults of fields that the dataclass has already.
    """
    hints = typing.get_type_hints(kind, include_extras=True)
    fields: list[Any] = [(name, hints[name], value) for name, value in defaults.items()]
    for field, look_up in find.items():
        try:
            _, config = look_up().load()
        except KeyError as error:
            raise UsageError(error.args[0]) from None
        fields.append((field, config, dataclasses.field(default_factory=config)))
    made = dataclasses.make_dataclass(kind.__module__.rpartition(".")[2].title(), fields, bases=(kind,), frozen=True)
    made.__doc__ = about
    return made


def _prog(algo: str, tasks: str) -> str:
    return f"jaxmeta train {algo} {tasks}"


def _must_agree(name: str, given: Any, stored: Any, folder: Path) -> None:
    if given != stored:
        raise UsageError(f"{name} is {given}, but the run in {folder} has {stored}; a resumed run cannot change it")


def _check_processes(options: Options) -> None:
    """Refuses invalid or incomplete flags of devices and processes."""
    if options.devices is not None:
        checks.at_least("--devices", options.devices, 1)
    checks.at_least("--heartbeat", options.heartbeat, 1)
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
        checks.at_least("--num-processes", options.num_processes, 1)
        if not 0 <= options.process_id < options.num_processes:
            most = options.num_processes - 1
            raise UsageError(f"--process-id is {options.process_id}; it must lie between 0 and {most}")


def _check_start(options: Any, config: runs.RunConfig) -> None:
    """Refuses to start from a run that does not exist, has no checkpoint, or has another algorithm."""
    folder = options.start_from
    if registry.is_off_policy(config.algo, config.algo_config):
        raise UsageError(
            f"--start-from is {folder}, but {config.algo} also needs its replay buffer and target networks, which are"
            " not copied; continue that run with --resume"
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


def _check_sources(config: runs.RunConfig) -> None:
    """Refuses what an algorithm does not use, a lead policy without a library, and two sources to imitate."""
    known = {
        "demonstrations": registry.FROM_DEMONSTRATIONS,
        "expert": registry.FROM_EXPERT,
        "library": registry.FROM_LIBRARY,
    }
    for name, algos in known.items():
        value = getattr(config, name)
        if value is not None and config.algo not in algos:
            given, takes = value if isinstance(value, str) else " ".join(value), ", ".join(sorted(algos))
            do = "does" if len(algos) == 1 else "do"
            raise UsageError(f"--{name} is {given}, but {config.algo} does not use it; {takes} {do}")
    if config.algo in registry.FROM_LIBRARY and config.library is None:
        raise UsageError(f"--library is missing; {config.algo} acts through known policies (try --library runs/first)")
    if config.demonstrations is not None and config.expert is not None:
        raise UsageError(f"--expert is {config.expert}, but --demonstrations says what to imitate; leave one out")


def _check_wandb(project: str | None) -> None:
    """Raises a UsageError if `--wandb` is given but wandb is not installed."""
    if project is None:
        return
    try:
        import wandb  # pyright: ignore[reportMissingImports]  # noqa: F401
    except ImportError:
        raise UsageError('--wandb needs the package wandb; try pip install "jaxmeta[wandb]"') from None


def _help() -> str:
    return f"""usage: jaxmeta train ALGO TASKS --out DIR [flags]

Meta-trains an agent and writes a run folder: configuration, metrics, checkpoints, evaluation, pictures.

  ALGO    {", ".join(registry.ALGOS)}
          on supervised tasks: {", ".join(registry.SUPERVISED_ALGOS)}
  TASKS   {", ".join(name for name in registry.TASKS if name not in registry.SUPERVISED_TASKS)}
          supervised: {", ".join(registry.SUPERVISED_TASKS)}
          your own: MODULE:FACTORY, such as my_module:my_family; the module may be in the current folder. The factory
          returns a jm.TaskFamily; it takes no argument, or one dataclass, whose fields become flags

`jaxmeta train ALGO TASKS --help` shows all flags of the two; `jaxmeta list` describes them."""
