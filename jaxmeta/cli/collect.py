"""`jaxmeta collect`: stores demonstrations of an expert or of a run, to learn from."""

from __future__ import annotations

import dataclasses
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jaxmeta.cli import checks, parsing, startup, train
from jaxmeta.cli.parsing import UsageError
from jaxmeta.config import codec
from jaxmeta.experiment import loading, registry, runs

COLLECTION_STREAM = zlib.crc32(b"demonstrations")
PIECE = 64
"""Tasks per device call."""
SECONDS = 10.0
"""Least seconds between two lines of progress."""
EXPERTS = {
    "planner": "the optimal agent that knows the task",
    "teacher": "a classical learning algorithm: UCB1 on Bernoulli bandits, PSRL on tabular MDPs",
    "behaviour": "random actions; on grids a walk from one random cell to the next",
}
"""Experts by name, for the tasks that jaxmeta has them for."""


@dataclasses.dataclass(frozen=True)
class Options:
    """Stores demonstrations on training tasks."""

    out: parsing.NewFile = None
    """File to write, `.npz`; it must not exist (required)."""
    num_tasks: int = 100
    """Training tasks."""
    streams: int = 1
    """Parallel streams per task."""
    episodes: int | None = None
    """Episodes per stream; by default as in training for a run, else that of the tasks."""
    seed: int = 0
    """Random seed of the tasks and the agent."""
    json: parsing.Switch = False
    """Print one JSON object instead of a summary."""
    cache: parsing.Cache = True


def run(argv: list[str]) -> int:
    """Collects demonstrations; returns the exit code."""
    if any(token in parsing.HELP_FLAGS for token in argv[:2]):
        print(_help())
        return 0
    if len(argv) < 2 or any(token.startswith("-") for token in argv[:2]):
        raise UsageError("collect needs EXPERT and TASKS first, such as `jaxmeta collect planner maze --out maze.npz`")
    name, tasks, *flags = argv
    prog = f"jaxmeta collect {name} {tasks}"
    train.import_own(tasks, Options, flags, prog)
    find = {"tasks": lambda: registry.find_tasks(tasks)}
    options: Any = parsing.parse(train.with_configs(Options, find, f"Stores demonstrations on {tasks}."), flags, prog)
    file = _check(options, name, tasks)
    config = runs.RunConfig("", tasks, None, options.tasks)
    startup.start_jax(options.cache)
    startup.find_devices()
    family = config.build_family()
    expert, plan = _expert(name, family, options)
    demonstrations = collected(expert, family, plan, options, f"{name}: {EXPERTS.get(name, 'a run')}", tasks)
    from jaxmeta.core.demonstrations import DemonstrationsError

    try:
        digest = demonstrations.save(file)
    except DemonstrationsError as error:
        raise UsageError(f"--out: {error}") from None
    _report(options, file, digest, demonstrations)
    return 0


def _check(options: Any, name: str, tasks: str) -> Path:
    """Makes all checks that need no JAX; returns the file to write."""
    if options.out is None:
        raise UsageError("--out is missing; it names the file of demonstrations (try --out demonstrations.npz)")
    file: Path = options.out
    if file.exists():
        raise UsageError(f"--out {file} exists; demonstrations never replace a file, choose another name")
    checks.writable("--out", file.parent)
    if not file.parent.is_dir():
        raise UsageError(f"--out {file} cannot be written: the folder {file.parent} does not exist")
    for flag, least in (("num_tasks", 1), ("streams", 1)):
        checks.at_least("--" + flag.replace("_", "-"), getattr(options, flag), least)
    if options.episodes is not None:
        checks.at_least("--episodes", options.episodes, 1)
    checks.seed(options.seed)
    if name not in EXPERTS and not Path(name).is_dir():
        near = registry.near(name, EXPERTS)
        raise UsageError(f"no expert {name!r};{near} it must be the folder of a run, or one of {', '.join(EXPERTS)}")
    if tasks in registry.SUPERVISED_TASKS:
        raise UsageError(f"{tasks} are supervised tasks, on which nobody acts; collect needs tasks with rewards")
    return file


def _expert(name: str, family: Any, options: Any) -> tuple[Any, Any]:
    """Returns an expert and the layout of its trials."""
    from jaxmeta import references
    from jaxmeta.types import Plan

    plan = Plan(streams=options.streams, episodes=options.episodes or family.episodes)
    if name not in EXPERTS:
        trained = loading.load(name).meta.plan
        changes = {"streams": options.streams, "episodes": options.episodes or trained.episodes}
        return loading.expert(name, family), dataclasses.replace(trained, **changes)
    try:
        if name == "planner":
            return references.experts.planner(family), plan
        expert = references.experts.teacher(family) if name == "teacher" else references.experts.blind_behaviour(family)
    except ValueError as error:
        raise UsageError(str(error)) from None
    if expert is None:
        raise UsageError("teacher: jaxmeta has no classical learning algorithm for these tasks; collect from a run")
    return expert, plan


def collected(expert: Any, family: Any, plan: Any, options: Any, source: str, tasks: str) -> Any:
    """Runs an expert on training tasks and returns the demonstrations; rounds of an adaptation become one stream."""
    import jax
    import numpy as np

    import jaxmeta as jm

    key = jax.random.fold_in(jax.random.key(options.seed), COLLECTION_STREAM)
    task_key, trial_key = jax.random.split(key)
    # keys of all tasks at once: the result does not depend on the size of a piece
    keys = [jax.random.split(one, options.num_tasks) for one in (task_key, trial_key)]
    piece = min(PIECE, options.num_tasks)

    @jax.jit
    def trials(task_keys, trial_keys):
        def one(task_key, trial_key):
            task = family.sample(task_key)
            trial = jm.collect(jm.outer.acting(expert, task), expert.params, family.env, task, trial_key, plan)
            rounds = jm.outer.history(trial).rounds
            return jax.tree.map(lambda leaf: leaf[0], rounds.replace(output=()))

        rollouts = jax.vmap(one)(task_keys, trial_keys)
        return rollouts.replace(reset_key=jax.random.key_data(rollouts.reset_key))

    told, pieces = _progress(options.num_tasks), []
    for start in range(0, options.num_tasks, piece):
        index = np.minimum(np.arange(start, start + piece), options.num_tasks - 1)  # one shape, one compilation
        kept = min(piece, options.num_tasks - start)
        pieces.append(
            jax.tree.map(lambda leaf, kept=kept: leaf[:kept], jax.device_get(trials(*(k[index] for k in keys))))
        )
        told(start + kept)
    whole = jax.tree.map(lambda *leaves: np.concatenate(leaves), *pieces)
    if whole.fault.any():
        raise codec.RunError(f"{int(whole.fault.any((1, 2)).sum())} of {options.num_tasks} trials are not finite")
    whole = whole.replace(reset_key=jax.random.wrap_key_data(whole.reset_key))
    return jm.Demonstrations.of(whole, family.env.spec, tasks, source)


def _progress(total: int) -> Callable[[int], None]:
    """Returns a function that prints how many tasks are done, to stderr, every few seconds."""
    last = time.monotonic()

    def tell(done: int) -> None:
        nonlocal last
        if time.monotonic() - last >= SECONDS and done < total:
            last = time.monotonic()
            print(f"collected {done}/{total} tasks", file=sys.stderr, flush=True)

    return tell


def _report(options: Any, file: Path, digest: str, demonstrations: Any) -> None:
    rollouts = demonstrations.rollouts
    returns = rollouts.reward.sum(1).mean() / demonstrations.episodes
    about = {
        "file": str(file),
        "sha256": digest,
        "tasks": demonstrations.family,
        "source": demonstrations.source,
        "num_tasks": demonstrations.num_tasks,
        "streams": demonstrations.streams,
        "episodes": demonstrations.episodes,
        "env_steps": int(rollouts.valid.sum()),
        "bytes": file.stat().st_size,
        "episode_return": float(returns),
    }
    if options.json:
        print(codec.to_json(about))
        return
    layout = f"{about['num_tasks']} tasks x {about['streams']} streams x {about['episodes']} episodes"
    print(f"{file}: {layout}, {about['env_steps']:,} steps, return of an episode {returns:.4g}, SHA-256 {digest}")


def _help() -> str:
    named = "\n".join(f"          {name}: {about}" for name, about in EXPERTS.items())
    return f"""usage: jaxmeta collect EXPERT TASKS --out FILE [flags]

Stores demonstrations on training tasks, to learn from with `jaxmeta train clone TASKS --demonstrations FILE`.

  EXPERT  the folder of a run, or one of
{named}
          An expert may observe the task; the demonstrations do not contain it.
  TASKS   as in `jaxmeta train`; `jaxmeta list` shows all

`jaxmeta collect EXPERT TASKS --help` shows all flags."""
