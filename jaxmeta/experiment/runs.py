"""What is in a run folder, and how it is read back.

A run folder holds `config.json` (what was run), `metrics.jsonl` (one line per update), `checkpoints/`, `tensorboard/`,
`evaluation.json` (returns on held-out tasks) and pictures; `nonfinite/`, in the form of a checkpoint, where a run
ended because its updates were not finite. Everything but the checkpoints is JSON or PNG.
"""

from __future__ import annotations

import dataclasses
import json
import os
import warnings
import zlib
from pathlib import Path
from typing import Any, Literal

from jaxmeta.config.codec import RunError, decode_dataclass, encode, named, to_json
from jaxmeta.experiment import registry

CONFIG = "config.json"
METRICS = "metrics.jsonl"
EVALUATION = "evaluation.json"
CHECKPOINTS = "checkpoints"
NON_FINITE = "nonfinite"
TENSORBOARD = "tensorboard"
FORMAT = 2
"""What `config.json` and the checkpoints look like; 1, which had no number, was that of jaxmeta 0.1."""
LARGEST_CONFIG = 2**20
"""Bytes of the largest `config.json` that is read."""
EVALUATION_STREAM, START_STREAM = (zlib.crc32(name) for name in (b"evaluation", b"start"))


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """What `config.json` says: enough to build the run again."""

    algo: str
    tasks: str
    algo_config: Any
    tasks_config: Any
    seed: int = 0
    num_seeds: int = 1
    updates: int = 0
    """Updates that the run is meant to have in the end."""
    reveal: bool = False
    """Whether the agent is shown what the task is."""
    format: int = FORMAT
    """Of the run folder; another one is refused."""
    start_from: str | None = None
    """Folder of the run whose parameters it begins with; None where they are random."""
    start: dict[str, Any] | None = None
    """What that run was then: `update`, and `config`, its own configuration."""
    # where it was trained, as `provenance.origin` says it; None where that was not noted
    device: str | None = None
    platform: str | None = None
    processor: str | None = None
    cores: int | None = None
    versions: dict[str, str] | None = None
    commit: str | None = None
    """A run that was resumed at another commit has both, such as `abc, def`."""

    def build(self) -> tuple[Any, Any]:
        """Returns the task family and the meta-learner.

        Raises:
          RunError: if the parts do not fit together.
        """
        make_algo, _ = registry.find_algo(self.algo, self.tasks).load()
        family = self.build_family()
        with named("algo", self.algo_config):
            return family, make_algo(family, self.algo_config)

    def build_family(self) -> Any:
        """Returns the task family alone; it raises as `build` does."""
        make_tasks, _ = registry.find("task family", registry.TASKS, self.tasks).load()
        with named("tasks", self.tasks_config):
            family = make_tasks(self.tasks_config)
        if not self.reveal:
            return family
        from jaxmeta.tasks.base import reveal

        return reveal(family)


@dataclasses.dataclass(frozen=True)
class Run:
    """A run that has been read back, or has just been trained."""

    path: Path
    config: RunConfig
    family: Any
    meta: Any
    state: Any
    """The train state of a checkpoint; with several seeds its leaves have a leading axis."""
    skipped: dict[int, str] = dataclasses.field(default_factory=dict)
    """Later checkpoints that are damaged, and how."""

    @property
    def learner(self) -> Any:
        """The agent."""
        return self.meta.learner

    @property
    def params(self) -> Any:
        """The meta-parameters; with several seeds on a leading axis."""
        return self.state.params

    @property
    def first_params(self) -> Any:
        """The meta-parameters of the first seed, without an axis of seeds."""
        import jax

        return self.params if seed_axis(self.config) is None else jax.tree.map(lambda leaf: leaf[0], self.params)

    @property
    def step(self) -> int:
        """Updates done."""
        import numpy as np

        return int(np.max(self.state.step))


def load(path: str | Path, update: int | Literal["best"] | None = None) -> Run:
    """Reads a run folder: its configuration and a checkpoint of it.

    It runs nothing that the folder brings along: the configuration is JSON that names registered parts, the state is
    arrays, and their sizes are compared before any is read.

    Args:
      update: which checkpoint, a number or "best"; by default the last good one. Of those that are damaged a warning
        tells.

    Raises:
      RunError: if there is no run, its files are damaged, or none is the best as none has a score.
    """
    import jaxmeta as jm
    from jaxmeta.core.checkpoint import CheckpointError

    config = read_config(path)
    folder = Path(path)
    if last_checkpoint(folder) is None:
        raise RunError(f"{folder} has no checkpoint yet; nothing can be evaluated")
    family, meta = config.build()
    checkpointer, form = jm.Checkpointer(folder / CHECKPOINTS), jm.state_form(meta, seed_axis(config))
    skipped: dict[int, str] = {}
    try:
        if update == "best":
            update = checkpointer.best()
            if update is None:
                raise RunError(
                    f"no checkpoint in {checkpointer.folder} has a score, so none is the best; name an update"
                )
        if update is None:
            _, state, skipped = checkpointer.restore_last(form)
        else:
            state = checkpointer.restore(form, update)
    except CheckpointError as error:
        raise RunError(str(error)) from error
    finally:
        checkpointer.close()
    for message in skipped.values():
        warnings.warn(f"{message}; an earlier one was read", stacklevel=2)
    return Run(folder, config, family, meta, state, skipped)


def fresh_state(config: RunConfig, meta, execution: Any = None) -> Any:
    """Makes the train state that the run starts from.

    Raises:
      RunError: if it is to begin with a run that cannot be read, or whose parameters are of other shapes.
    """
    import jax
    import jax.numpy as jnp

    import jaxmeta as jm

    execution = execution or jm.Execution()
    state = jm.init_state(meta, jax.random.key(config.seed), seed_axis(config), execution)
    if config.start_from is None:
        return state
    # with the key of its seed alone it would meet the tasks again that the other run learned on
    keys = jax.vmap(lambda key: jax.random.fold_in(key, START_STREAM))(jnp.atleast_1d(state.key))
    key = jax.device_put(keys.reshape(state.key.shape), state.key.sharding)
    return state.replace(params=_start_params(config, meta, execution), key=key)


def _start_params(config: RunConfig, meta, execution: Any) -> Any:
    """Reads the parameters that a run begins with, onto the devices that it is trained on."""
    import jaxmeta as jm
    from jaxmeta.core.checkpoint import CheckpointError

    form, folder = start_form(config, meta, execution), Path(config.start_from or "")
    checkpointer = jm.Checkpointer(folder / CHECKPOINTS)
    update = (config.start or {}).get("update", last_checkpoint(folder))
    try:
        return checkpointer.restore(form, update).params
    except CheckpointError as error:
        raise RunError(f"start_from is {config.start_from}: {error}") from error
    finally:
        checkpointer.close()


def start_form(config: RunConfig, meta, execution: Any = None) -> Any:
    """Returns what `jm.state_form` says of the run that this one begins with, on the devices of this one.

    Raises:
      RunError: if it cannot be read, or its parameters are not of the same names and shapes.
    """
    import jax

    import jaxmeta as jm

    assert config.start_from is not None
    _, other = read_config(config.start_from).build()
    forms = [
        jm.state_form(
            one._replace(info=dataclasses.replace(one.info, spread=meta.info.spread)),
            seed_axis(config),
            execution or jm.Execution(),
        )
        for one in (meta, other)
    ]
    here, there = (
        {
            jax.tree_util.keystr(path, simple=True, separator="/"): leaf.shape
            for path, leaf in jax.tree_util.tree_leaves_with_path(form.params)
        }
        for form in forms
    )
    for name in [*here, *there]:
        if here.get(name) != there.get(name):
            one, two = (f"of shape {shapes[name]}" if name in shapes else "missing" for shapes in (there, here))
            raise RunError(
                f"start_from is {config.start_from}: of its parameters {name} is {one}, but here it is {two}; take a"
                " run with the same network, and observations and actions of the same size"
            )
    return forms[1]


def with_start(config: RunConfig) -> RunConfig:
    """Notes which run a new one begins with, as that is now."""
    if config.start_from is None:
        return config
    folder = Path(config.start_from).resolve()
    start = {"update": last_checkpoint(folder), "config": encode(read_config(folder), "")}
    return dataclasses.replace(config, start_from=str(folder), start=start)


def seed_axis(config: RunConfig) -> int | None:
    """Returns the number of seeds as `jm.train` takes it: a single seed has no axis."""
    return config.num_seeds if config.num_seeds > 1 else None


def last_checkpoint(folder: Path) -> int | None:
    """Returns the update of the last checkpoint, without opening it."""
    steps = [int(entry.name) for entry in (folder / CHECKPOINTS).glob("*") if entry.name.isdecimal()]
    return max(steps, default=None)


def assess(
    run: Run,
    num_tasks: int = 40,
    seed: int = 0,
    rounds: int | None = None,
    deterministic: bool = False,
    streams: int | None = None,
) -> dict[str, Any]:
    """Evaluates a run on held-out tasks.

    Args:
      num_tasks: tasks, drawn from the family's held-out law; per seed where the run has several.
      seed: decides the tasks and all else that is random.
      rounds: adaptation rounds; by default as in meta-training.
      deterministic: whether to act by the mode of the policy.
      streams: parallel streams per task and round; by default as in meta-training.

    Returns:
      A JSON object. Statistics are over tasks; where the run has several seeds, over seeds and tasks within them:
      `returns[round][episode]`, `trial_return` and `gain`, each `{"mean", "stderr", "iqm", "ci95"}`. Where the tasks
      define success, `success[round][episode]` is the same for the share of solved episodes.
    """
    plan = changed_plan(run.meta.plan, rounds, streams)
    report = trials(
        run.meta.learner, run.params, run.family, plan, num_tasks, seed, seed_axis(run.config), deterministic
    )
    return {
        "algo": run.config.algo,
        "tasks": run.config.tasks,
        "step": run.step,
        "num_tasks": num_tasks,
        "num_seeds": run.config.num_seeds,
        "seed": seed,
        "deterministic": deterministic,
        "plan": dataclasses.asdict(plan),
        "returns": report.by_round_and_episode(),
        "trial_return": report.trial_return(),
        "gain": report.gain(),
        **({} if report.successes is None else {"success": report.success()}),
    }


def changed_plan(plan: Any, rounds: int | None, streams: int | None) -> Any:
    """Returns a plan with other rounds and streams; None leaves them."""
    changes = {name: value for name, value in (("rounds", rounds), ("streams", streams)) if value is not None}
    return dataclasses.replace(plan, **changes)


def trials(
    learner: Any,
    params: Any,
    family: Any,
    plan: Any,
    num_tasks: int,
    seed: int,
    num_seeds: int | None = None,
    deterministic: bool = False,
    every_task: Any = None,
) -> Any:
    """Runs trials of a learner, trained or not, on held-out tasks.

    Args:
      num_tasks: tasks, a trial on each; per seed where there are several.
      seed: decides the tasks and all else that is random.
      num_seeds: leading axis of `params`; None if there is none.
      every_task: all tasks there are, stacked [M, ...]: instead of a draw, each stands in the batch equally often, for
        `num_tasks` trials or a few more. By default the tasks are drawn from the family's held-out law.

    Returns:
      A `jm.Report`.
    """
    import jax
    import jax.numpy as jnp

    import jaxmeta as jm

    # not a small number: folding in i gives the i-th key of a split, which meta-training with this seed uses
    key = jax.random.fold_in(jax.random.key(seed), EVALUATION_STREAM)

    def one_seed(params, key):
        task_key, trial_key = jax.random.split(key)
        if every_task is None:
            tasks = jax.vmap(family.sample_test)(jax.random.split(task_key, num_tasks))
        else:
            repeats = -(-num_tasks // jax.tree.leaves(every_task)[0].shape[0])
            tasks = jax.tree.map(lambda leaf: jnp.concatenate([leaf] * repeats), every_task)
        return jm.evaluate(learner, params, family.env, tasks, trial_key, plan, deterministic)

    if num_seeds is None:
        return one_seed(params, key)
    # every seed gets tasks of its own: the more tasks, the less the result depends on them
    return jax.vmap(one_seed)(params, jax.random.split(key, num_seeds))


def read_config(path: str | Path) -> RunConfig:
    """Reads `config.json`.

    Raises:
      RunError: if it is not there, or a field is unknown, missing or of the wrong type; the message names it.
    """
    file = Path(path) / CONFIG
    if not file.is_file():
        raise RunError(f"{path} holds no run: there is no {CONFIG} in it")
    if file.stat().st_size > LARGEST_CONFIG:
        raise RunError(f"{file} has {file.stat().st_size} bytes; a configuration has at most {LARGEST_CONFIG}")
    try:
        data = json.loads(file.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(f"{file} cannot be read: {error}") from error
    if not isinstance(data, dict):
        raise RunError(f"{file} does not hold a JSON object")
    if (found := data.get("format", 1)) != FORMAT:
        remedy = "use jaxmeta 0.1" if found == 1 else "use the version that wrote it"
        raise RunError(f"{file} has format {found}; this version reads format {FORMAT}: {remedy}")
    configs = {}
    names = {field: data.get(field, "") for field in ("algo", "tasks")}
    for field, find in (
        ("algo", lambda: registry.find_algo(names["algo"], names["tasks"])),
        ("tasks", lambda: registry.find("task family", registry.TASKS, names["tasks"])),
    ):
        try:
            _, configs[f"{field}_config"] = find().load()
        except (KeyError, TypeError) as error:
            raise RunError(f"{file}: {field}: {error.args[0]}") from error
    return decode_dataclass(RunConfig, data, f"{file}: ", configs)


def write_config(path: Path, config: RunConfig) -> None:
    """Writes `config.json` in one piece."""
    write_atomically(path / CONFIG, to_json(encode(config, ""), indent=2) + "\n")


def read_metrics(path: str | Path) -> list[dict[str, Any]]:
    """Reads `metrics.jsonl`; a line that a crash cut short is skipped."""
    try:
        lines = (Path(path) / METRICS).read_text().splitlines()
    except FileNotFoundError:
        return []
    records = []
    for line in lines:
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict) and isinstance(record.get("update"), int):
            records.append(record)
    return records


def truncate_metrics(path: Path, update: int) -> dict[str, Any]:
    """Drops the lines of `metrics.jsonl` after an update and returns the last that stays, {} if none does."""
    kept = [record for record in read_metrics(path) if record["update"] <= update]
    if (path / METRICS).exists():
        write_atomically(path / METRICS, "".join(to_json(record) + "\n" for record in kept))
    return kept[-1] if kept else {}


def read_evaluation(path: Path) -> dict[str, Any] | None:
    """Reads `evaluation.json`, unless it is of another checkpoint than the last."""
    try:
        evaluation = json.loads((path / EVALUATION).read_text())
        return evaluation if evaluation["step"] == last_checkpoint(path) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write_atomically(file: Path, content: str | bytes) -> None:
    """Writes a file so that a reader, or a crash, sees the old or the new one whole."""
    draft = file.with_name(f".{file.name}.{os.getpid()}")
    draft.write_bytes(content.encode() if isinstance(content, str) else content)
    os.replace(draft, file)
