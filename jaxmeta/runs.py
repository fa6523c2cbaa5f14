"""What is in a run folder, and how it is read back.

A run folder holds `config.json` (what was run), `metrics.jsonl` (one line per update), `checkpoints/`, `tensorboard/`,
`evaluation.json` (returns on held-out tasks) and pictures. Everything but the checkpoints is JSON or PNG.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from jaxmeta import registry

CONFIG = "config.json"
METRICS = "metrics.jsonl"
EVALUATION = "evaluation.json"
CHECKPOINTS = "checkpoints"
TENSORBOARD = "tensorboard"


class RunError(ValueError):
    """A run folder, or a configuration, is not what it should be; the message is one line for the user."""


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
    versions: dict[str, str] = dataclasses.field(default_factory=dict)
    device: str = ""

    def build(self) -> tuple[Any, Any]:
        """Returns the task family and the meta-learner.

        Raises:
          RunError: if the parts do not fit together.
        """
        make_algo, _ = registry.find("algorithm", registry.ALGOS, self.algo).load()
        make_tasks, _ = registry.find("task family", registry.TASKS, self.tasks).load()
        with named("tasks", self.tasks_config):
            family = make_tasks(self.tasks_config)
        with named("algo", self.algo_config):
            return family, make_algo(family, self.algo_config)


@dataclasses.dataclass(frozen=True)
class Run:
    """A run that has been read back, or has just been trained."""

    path: Path
    config: RunConfig
    family: Any
    meta: Any
    state: Any
    """The train state of the last checkpoint; with several seeds its leaves have a leading axis."""

    @property
    def params(self) -> Any:
        """The meta-parameters; with several seeds on a leading axis."""
        return self.state.params

    @property
    def step(self) -> int:
        """Updates done."""
        import numpy as np

        return int(np.max(self.state.step))


def load(path: str | Path) -> Run:
    """Reads a run folder: its configuration and its last checkpoint.

    Raises:
      RunError: if there is no run, or its files are damaged.
    """
    import jaxmeta as jm
    from jaxmeta.core.checkpoint import CheckpointError

    config = read_config(path)
    folder = Path(path)
    if last_checkpoint(folder) is None:
        raise RunError(f"{folder} has no checkpoint yet; nothing can be evaluated")
    family, meta = config.build()
    checkpointer = jm.Checkpointer(folder / CHECKPOINTS)
    try:
        state = checkpointer.restore(fresh_state(config, meta))
    except CheckpointError as error:
        raise RunError(str(error)) from error
    finally:
        checkpointer.close()
    return Run(folder, config, family, meta, state)


def fresh_state(config: RunConfig, meta) -> Any:
    """Makes the train state that the run starts from."""
    import jax

    import jaxmeta as jm

    return jm.init_state(meta, jax.random.key(config.seed), seed_axis(config))


def seed_axis(config: RunConfig) -> int | None:
    """Returns the number of seeds as `jm.train` takes it: a single seed has no axis."""
    return config.num_seeds if config.num_seeds > 1 else None


def last_checkpoint(folder: Path) -> int | None:
    """Returns the update of the last checkpoint, without opening it."""
    steps = [int(entry.name) for entry in (folder / CHECKPOINTS).glob("*") if entry.name.isdecimal()]
    return max(steps, default=None)


def assess(
    run: Run, num_tasks: int = 40, seed: int = 0, rounds: int | None = None, deterministic: bool = False
) -> dict[str, Any]:
    """Evaluates a run on held-out tasks.

    Args:
      num_tasks: tasks, drawn from the family's held-out law; per seed where the run has several.
      seed: decides the tasks and all else that is random.
      rounds: adaptation rounds; by default as in meta-training.
      deterministic: whether to act by the mode of the policy.

    Returns:
      A JSON object. Statistics are over tasks, or over tasks x seeds where the run has several seeds:
      `returns[round][episode]`, `trial_return` and `gain`, each `{"mean", "stderr", "iqm", "ci95"}`.
    """
    import jax

    import jaxmeta as jm

    plan = run.meta.plan if rounds is None else dataclasses.replace(run.meta.plan, rounds=rounds)
    # not the stream of keys that meta-training with the same seed draws its tasks from
    key = jax.random.fold_in(jax.random.key(seed), 1)

    def one_seed(params, key):
        task_key, trial_key = jax.random.split(key)
        tasks = jax.vmap(run.family.sample_test)(jax.random.split(task_key, num_tasks))
        return jm.evaluate(run.meta.learner, params, run.family.env, tasks, trial_key, plan, deterministic)

    num_seeds, params = seed_axis(run.config), run.params
    if num_seeds is None:
        report = one_seed(params, key)
    else:
        # every seed gets tasks of its own: trials on shared tasks would count as independent, and are not
        by_seed = jax.vmap(one_seed)(params, jax.random.split(key, num_seeds))
        report = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), by_seed)
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
    }


def read_config(path: str | Path) -> RunConfig:
    """Reads `config.json`.

    Raises:
      RunError: if it is not there, or a field is unknown, missing or of the wrong type; the message names it.
    """
    file = Path(path) / CONFIG
    if not file.is_file():
        raise RunError(f"{path} holds no run: there is no {CONFIG} in it")
    try:
        data = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise RunError(f"{file} cannot be read: {error}") from error
    if not isinstance(data, dict):
        raise RunError(f"{file} does not hold a JSON object")
    configs = {}
    for kind, field, entries in (("algorithm", "algo", registry.ALGOS), ("task family", "tasks", registry.TASKS)):
        try:
            _, configs[f"{field}_config"] = registry.find(kind, entries, data.get(field, "")).load()
        except (KeyError, TypeError) as error:
            raise RunError(f"{file}: {field}: {error.args[0]}") from error
    return _decode_dataclass(RunConfig, data, f"{file}: ", configs)


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


def write_atomically(file: Path, text: str) -> None:
    """Writes a text file so that a reader, or a crash, sees the old or the new one whole."""
    draft = file.with_name(f".{file.name}.{os.getpid()}")
    draft.write_text(text)
    os.replace(draft, file)


def to_json(value: Any, indent: int | None = None) -> str:
    """Writes valid JSON: a number that is not finite becomes null."""

    def clean(value):
        if isinstance(value, dict):
            return {key: clean(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [clean(item) for item in value]
        return None if isinstance(value, float) and not math.isfinite(value) else value

    return json.dumps(clean(value), indent=indent, allow_nan=False)


@contextlib.contextmanager
def named(prefix: str, config: Any) -> Iterator[None]:
    """Turns a ValueError inside into a RunError whose message begins with the full name of the field at fault."""
    try:
        yield
    except RunError:
        raise
    except ValueError as error:
        # what is at fault may be a field of a nested config
        paths = [path for path in _paths(config) if path.split(".")[-1] == str(error).split(" ")[0]]
        outer = min(paths, key=len, default="").rpartition(".")[0]
        raise RunError(qualify(f"{prefix}.{outer}".rstrip("."), str(error))) from error


def qualify(prefix: str, message: str) -> str:
    """Puts `algo.` or `tasks.` before a message that does not begin with either."""
    return message if message.startswith(("algo.", "tasks.")) else f"{prefix}.{message}"


def _paths(config: Any, prefix: str = "") -> Iterator[str]:
    """Lists the dotted names of a config's fields, nested ones included."""
    for field in dataclasses.fields(config) if dataclasses.is_dataclass(config) else ():
        yield prefix + field.name
        yield from _paths(getattr(config, field.name), f"{prefix}{field.name}.")


def encode(value: Any, where: str) -> Any:
    """Turns a config into what JSON can hold: dataclasses become objects, tuples become lists.

    Raises:
      RunError: if a number is not finite; `where` says which.
    """
    if dataclasses.is_dataclass(value):
        prefix = f"{where}." if where else ""
        return {f.name: encode(getattr(value, f.name), prefix + f.name) for f in dataclasses.fields(value)}
    if isinstance(value, list | tuple):
        return [encode(item, where) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        raise RunError(f"{where} is {value}; it must be finite")
    return value


def decode(kind: Any, value: Any, where: str) -> Any:
    """Turns JSON back into a value of a type: a frozen dataclass, tuple, Literal, union or plain value.

    Raises:
      RunError: if it is of another type; `where` says which field.
    """
    origin, options = typing.get_origin(kind), typing.get_args(kind)
    if dataclasses.is_dataclass(kind):
        return _decode_dataclass(kind, value, f"{where}.")
    if kind is Any:
        return value
    if origin is Literal and value in options:
        return value
    if origin in (types.UnionType, typing.Union):
        return _decode_union(kind, options, value, where)
    if origin is tuple and isinstance(value, list):
        inner = [options[0]] * len(value) if options[-1] is Ellipsis else options
        if len(inner) == len(value):
            return tuple(decode(one, item, where) for one, item in zip(inner, value, strict=True))
    if origin is dict and isinstance(value, dict):
        return {key: decode(options[1], item, f"{where}.{key}") for key, item in value.items()}
    # JSON does not tell 1 from 1.0, and to Python True is an int
    if kind is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if kind in (int, str, bool, type(None)) and type(value) is kind:
        return value
    raise RunError(f"{where} is {json.dumps(value)}; it must be {_describe(kind)}")


def _decode_union(kind: Any, options: tuple, value: Any, where: str) -> Any:
    for option in options:
        try:
            return decode(option, value, where)
        except RunError:
            continue
    raise RunError(f"{where} is {json.dumps(value)}; it must be {_describe(kind)}")


def _decode_dataclass(cls: Any, data: Any, prefix: str, kinds: dict[str, Any] | None = None) -> Any:
    """Builds a dataclass; a field that is not in the data keeps its default. `kinds` overrides declared types."""
    if not isinstance(data, dict):
        raise RunError(f"{prefix.rstrip('.: ')} is {json.dumps(data)}; it must be an object")
    kinds = typing.get_type_hints(cls) | (kinds or {})
    fields = {field.name: field for field in dataclasses.fields(cls)}
    for name in data:
        if name not in fields:
            raise RunError(f"{prefix}{name} is not known; the fields are {', '.join(fields)}")
    for name, field in fields.items():
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if required and name not in data:
            raise RunError(f"{prefix}{name} is missing")
    values = {name: decode(kinds[name], value, prefix + name) for name, value in data.items()}
    try:
        return cls(**values)
    except RunError:
        raise
    except ValueError as error:
        raise RunError(f"{prefix}{error}") from error


def _describe(kind: Any) -> str:
    names = {int: "an integer", float: "a number", str: "a text", bool: "true or false", type(None): "null"}
    origin, options = typing.get_origin(kind), typing.get_args(kind)
    if origin is Literal:
        return "one of " + ", ".join(json.dumps(option) for option in options)
    if origin in (types.UnionType, typing.Union):
        return " or ".join(_describe(option) for option in options)
    if origin is tuple:
        return "a list" if options[-1] is Ellipsis else f"a list of {len(options)}"
    return names.get(kind, getattr(kind, "__name__", str(kind)))
