"""Run folders: the configuration and the text files.

A run folder contains `config.json` (the configuration), `metrics.jsonl` (one line per update), `checkpoints/`,
`tensorboard/`, `evaluation.json` (returns on held-out tasks), figures as PNG, and `.lock`, see `locks`. If a run ended
because its updates were not finite, `nonfinite/` has its state as a checkpoint.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jaxmeta import __version__
from jaxmeta.config.codec import RunError, decode, decode_dataclass, encode, named, to_json
from jaxmeta.experiment import registry

CONFIG = "config.json"
METRICS = "metrics.jsonl"
EVALUATION = "evaluation.json"
CHECKPOINTS = "checkpoints"
NON_FINITE = "nonfinite"
TENSORBOARD = "tensorboard"
FORMAT = 2
"""Format version of `config.json` and the checkpoints; a file without one is of version 1, from jaxmeta 0.1."""
NAMED = {"algo": "", "tasks": "", "sampler": "uniform"}
"""Fields of `config.json` that name a registered part, and what a file without them means."""
LARGEST_CONFIG = 2**20
"""Maximum size of `config.json` in bytes."""


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """The configuration of a run, stored as `config.json`; it determines family and meta-learner.

    `algo` and `tasks` are names, as on the command line:

        config = jm.RunConfig("maml", "navigation", jm.MAMLConfig(), jm.tasks.NavigationConfig())
        family, meta = config.build()
    """

    algo: str
    """Name of the algorithm, such as `maml`."""
    tasks: str
    """Name of the task family, such as `navigation`; `module:factory` for one of your own, see `registry.OwnFamily`."""
    algo_config: Any
    tasks_config: Any
    seed: int = 0
    num_seeds: int = 1
    updates: int = 0
    """Total number of updates of the finished run."""
    reveal: bool = False
    """Whether the task is part of every observation."""
    sampler: str = "uniform"
    """Name of the sampler, such as `prioritised`: which tasks an update visits."""
    sampler_config: Any = None
    """By default that of the sampler."""
    format: int = FORMAT
    """Version of the run folder's format; others are refused."""
    start_from: str | None = None
    """Folder of the run whose parameters this run starts from; None for random parameters."""
    start: dict[str, Any] | None = None
    """The state of that run at the start of this one: `update`, and `config`, its configuration."""
    demonstrations: str | None = None
    """File of demonstrations that this run learns from; None for none."""
    expert: str | None = None
    """Folder of the run that this run imitates; None for the algorithm's default."""
    library: tuple[str, ...] | None = None
    """Folders of the runs whose policies this run acts through; None for none."""
    sources: dict[str, Any] | None = None
    """What these were at the start of this run: the SHA-256 of `demonstrations`, the update of `expert`, and those of
    the runs of `library`."""
    # from `provenance.origin`; None if it was not recorded
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
          RunError: if a name is unknown, or the algorithm cannot be built for the tasks.
        """
        make_algo, _ = _load("algo", lambda: registry.find_algo(self.algo, self.tasks))
        family = self.build_family()
        parts = {}
        if self.expert is not None:
            from jaxmeta.experiment import loading

            parts["expert"] = loading.expert_or_missing(self, family)
        if self.library is not None:
            from jaxmeta.experiment import loading

            parts["library"] = loading.library(self, family)
        with named("algo", self.algo_config):
            meta = make_algo(family, self.algo_config, **parts)
        return family, self._with_sampler(family, meta)

    def _with_sampler(self, family: Any, meta: Any) -> Any:
        """Returns the meta-learner with the configured sampler; raises a RunError if that does not suit it."""
        if self.sampler == "uniform":
            return meta
        make_sampler, kind = _load("sampler", lambda: registry.find("sampler", registry.SAMPLERS, self.sampler))
        config = kind() if self.sampler_config is None else self.sampler_config
        if type(config) is not kind:
            raise RunError(f"sampler_config is a {type(config).__name__}; {self.sampler} takes a {kind.__name__}")
        from jaxmeta import outer

        with named("sampler", config):
            return outer.with_sampler(meta, make_sampler(config, family, meta))

    def build_family(self) -> Any:
        """Returns the task family, as the agent observes it; raises a RunError as `build` does."""
        make_tasks, _ = _load("tasks", lambda: registry.find_tasks(self.tasks))
        if registry.is_own(self.tasks):
            family = _build_own(self.tasks, make_tasks, self.tasks_config)
        else:
            with named("tasks", self.tasks_config):
                family = make_tasks(self.tasks_config)
        task_id = registry.observes_task_id(self.algo, self.algo_config)
        if not (self.reveal or task_id):
            return family
        from jaxmeta.tasks import reveal, with_task_id

        with named("tasks", self.tasks_config):
            family = reveal(family) if self.reveal else family
            return with_task_id(family) if task_id else family


def _load(field: str, find: Callable[[], Any]) -> tuple[Any, type]:
    """Imports a registered factory and its config class; `field` is for the error message."""
    try:
        return find().load()
    except (KeyError, TypeError) as error:
        raise RunError(f"{field}: {error.args[0]}") from error


def _build_own(name: str, make_tasks: Callable[[Any], Any], config: Any) -> Any:
    """Builds a task family of the user; raises a RunError if the factory does not return one."""
    from jaxmeta.tasks import FewShot, TaskFamily

    try:
        family = make_tasks(config)
    except ValueError as error:
        raise RunError(f"tasks is {name}: {error}") from error
    if not isinstance(family, TaskFamily):
        raise RunError(f"tasks is {name}, which returns a {type(family).__name__}; it must return a jm.TaskFamily")
    if isinstance(family.env, FewShot):
        raise RunError(
            f"tasks is {name}, a supervised family; the command line has only those of jaxmeta, so train on it in"
            " Python"
        )
    return family


def check_storable(config: RunConfig) -> None:
    """Raises a RunError if the config of the user's task family does not survive a round trip through JSON."""
    kind = type(config.tasks_config)
    try:
        same = decode(kind, json.loads(to_json(encode(config.tasks_config, "tasks"))), "tasks") == config.tasks_config
    except (TypeError, ValueError):
        same = False
    if not same:
        raise RunError(
            f"tasks is {config.tasks}, but config.json cannot hold its {kind.__name__}; its fields must be int, float,"
            " bool, str, Literal, or tuples or dataclasses of these"
        )


def with_start(config: RunConfig) -> RunConfig:
    """Records the current update and configuration of `config.start_from` in `start`."""
    if config.start_from is None:
        return config
    folder = Path(config.start_from).resolve()
    start = {"update": last_checkpoint(folder), "config": encode(read_config(folder), "")}
    return dataclasses.replace(config, start_from=str(folder), start=start)


def with_sources(config: RunConfig) -> RunConfig:
    """Records the checksum of demonstrations, and the current update of every other run, in `sources`.

    Raises:
      RunError: if the file is damaged, or a folder holds no run with a checkpoint.
    """
    changes: dict[str, Any] = {}
    sources: dict[str, Any] = {}
    if config.demonstrations is not None:
        from jaxmeta.core import demonstrations

        file = Path(config.demonstrations).resolve()
        try:
            sources["demonstrations"] = demonstrations.checksum(file)
        except demonstrations.DemonstrationsError as error:
            raise RunError(f"demonstrations: {error}") from None
        changes["demonstrations"] = str(file)
    if config.expert is not None:
        changes["expert"], sources["expert"] = _now("expert", config.expert)
    if config.library is not None:
        found = [_now("library", folder) for folder in config.library]
        changes["library"] = tuple(folder for folder, _ in found)
        sources["library"] = [update for _, update in found]
    return dataclasses.replace(config, **changes, sources=sources) if changes else config


def _now(name: str, path: str) -> tuple[str, int]:
    """Returns the folder of another run, absolute, and its current update; `name` is the field, for messages."""
    folder = Path(path).resolve()
    try:
        read_config(folder)
    except RunError as error:
        raise RunError(f"{name}: {error}") from None
    if (update := last_checkpoint(folder)) is None:
        raise RunError(f"{name} is {folder}, which has no checkpoint yet; train that run first")
    return str(folder), update


def seed_axis(config: RunConfig) -> int | None:
    """Returns the argument `num_seeds` of `jm.train`: None for a single seed, whose leaves have no seed axis."""
    return config.num_seeds if config.num_seeds > 1 else None


def last_checkpoint(folder: Path) -> int | None:
    """Returns the update of the last checkpoint, without opening it."""
    steps = [int(entry.name) for entry in (folder / CHECKPOINTS).glob("*") if entry.name.isdecimal()]
    return max(steps, default=None)


def read_config(path: str | Path) -> RunConfig:
    """Reads `config.json`. If the task family is the user's own, its module is imported.

    Raises:
      RunError: if the file is missing, or a field is unknown, missing or of the wrong type; the message names the
        field, and the version of jaxmeta that wrote the file.
    """
    file, data = Path(path) / CONFIG, read_json(path)
    try:
        names = {field: data.get(field, usual) for field, usual in NAMED.items()}
        if not all(isinstance(name, str) for name in names.values()):
            wrong = next(field for field, name in names.items() if not isinstance(name, str))
            raise RunError(f"{wrong} is {json.dumps(names[wrong])}; it must be a string")
        _, algo = _load("algo", lambda: registry.find_algo(names["algo"], names["tasks"]))
        _, tasks = _load("tasks", lambda: registry.find_tasks(names["tasks"]))
        kinds: dict[str, Any] = {"algo_config": algo, "tasks_config": tasks}
        if data.get("sampler_config") is not None:
            _, kinds["sampler_config"] = _load(
                "sampler", lambda: registry.find("sampler", registry.SAMPLERS, names["sampler"])
            )
        return decode_dataclass(RunConfig, data, "", kinds)
    except RunError as error:
        raise RunError(f"{file}: {error} ({_written_by(data)})") from error


def read_json(path: str | Path) -> dict[str, Any]:
    """Reads `config.json` as plain JSON.

    Raises:
      RunError: if the file is missing, is not a JSON object, or has another format version.
    """
    file = Path(path) / CONFIG
    if not file.is_file():
        raise RunError(f"{path} is not a run folder: it has no {CONFIG}")
    if file.stat().st_size > LARGEST_CONFIG:
        raise RunError(f"{file} has {file.stat().st_size} bytes; a configuration has at most {LARGEST_CONFIG}")
    try:
        data = json.loads(file.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(f"{file} cannot be read: {error}") from error
    if not isinstance(data, dict):
        raise RunError(f"{file} does not hold a JSON object")
    if (found := data.get("format", 1)) != FORMAT:
        written = "" if found == 1 else f" ({_written_by(data)})"
        version = "0.1" if found == 1 else _writer(data)
        remedy = "use the version that wrote it" if version is None else f"use jaxmeta {version}"
        raise RunError(f"{file} has format {found}{written}; this version reads format {FORMAT}: {remedy}")
    return data


def _writer(data: dict[str, Any]) -> str | None:
    """Returns the version of jaxmeta that wrote a configuration; None if that was not recorded."""
    versions = data.get("versions")
    version = versions.get("jaxmeta") if isinstance(versions, dict) else None
    return version if isinstance(version, str) else None


def _written_by(data: dict[str, Any]) -> str:
    version = _writer(data)
    wrote = "it does not say which version wrote it" if version is None else f"written by jaxmeta {version}"
    return f"{wrote}; this is {__version__}"


def write_config(path: Path, config: RunConfig) -> None:
    """Writes `config.json` atomically."""
    write_atomically(path / CONFIG, to_json(encode(config, ""), indent=2) + "\n")


def read_metrics(path: str | Path) -> list[dict[str, Any]]:
    """Reads `metrics.jsonl`; skips a line that is incomplete after a crash."""
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
    """Removes the lines of `metrics.jsonl` after an update; returns the last remaining one, {} if there is none."""
    kept = [record for record in read_metrics(path) if record["update"] <= update]
    if (path / METRICS).exists():
        write_atomically(path / METRICS, "".join(to_json(record) + "\n" for record in kept))
    return kept[-1] if kept else {}


def read_evaluation(path: Path) -> dict[str, Any] | None:
    """Reads `evaluation.json`; None if there is none, or it is not of the last checkpoint."""
    try:
        evaluation = json.loads((path / EVALUATION).read_text())
        return evaluation if evaluation["step"] == last_checkpoint(path) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write_atomically(file: Path, content: str | bytes) -> None:
    """Writes a file so that readers, even after a crash, see either the old or the new content."""
    draft = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        draft.write_bytes(content.encode() if isinstance(content, str) else content)
        os.replace(draft, file)
    except OSError:
        draft.unlink(missing_ok=True)  # such as on a full disk
        raise
