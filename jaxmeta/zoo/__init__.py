"""Trained agents that come with jaxmeta: small runs of `jaxmeta reproduce`, to try and to start from.

    run = jm.zoo.load("rl2-bandit-10x10")
    agent = run.agent()
    print(jm.zoo.record("rl2-bandit-10x10")["points"])

The files are part of the package and read-only. `copy` puts a run into a folder of yours, where the command line works
on it: `jaxmeta evaluate`, `render`, `train --start-from`.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from jaxmeta.config import checks
from jaxmeta.experiment import loading, runs

AGENTS = Path(__file__).parent / "agents"
RECORD = "record.json"


def names() -> list[str]:
    """Lists the agents."""
    return sorted(folder.name for folder in AGENTS.iterdir() if (folder / RECORD).is_file())


def load(name: str) -> loading.Run:
    """Loads an agent as `jm.load` loads a run; the checksums of its files are checked."""
    return loading.load(_folder(name))


def record(name: str) -> dict[str, Any]:
    """Returns how an agent was made and what it reached.

    Returns:
      `command`, the `jaxmeta reproduce` that trained and evaluated it; `points`, by row its mean, standard error, 95 %
      interval and number of trials on held-out tasks; `seed`, `commit`, `device`, `versions` and `wall_s`, the seconds
      that it took.
    """
    return json.loads((_folder(name) / RECORD).read_text())


def copy(name: str, folder: str | Path) -> Path:
    """Copies an agent as a run folder, and returns the folder, which must not exist."""
    return Path(shutil.copytree(_folder(name), folder))


def pack(run: str | Path, name: str, command: str) -> Path:
    """Adds the run of a row of `jaxmeta reproduce` to the agents: its configuration, last checkpoint and numbers.

    Args:
      run: a run folder with a single seed.
      command: the `jaxmeta reproduce` that made it.

    Returns:
      The folder of the agent, which must not exist.
    """
    run, folder = Path(run), AGENTS / name
    config, update = runs.read_config(run), runs.last_checkpoint(run)
    if config.num_seeds > 1:
        raise ValueError(f"{run} has {config.num_seeds} seeds; pack a run with one")
    made = json.loads((run / "rows.json").read_text())
    kept = ("points", "wall_s", "device", "versions", "commit")
    folder.mkdir()
    for file in (runs.CONFIG, runs.EVALUATION):
        shutil.copy(run / file, folder / file)
    shutil.copytree(run / runs.CHECKPOINTS / str(update), folder / runs.CHECKPOINTS / str(update))
    text = json.dumps({"command": command, "seed": config.seed, **{key: made[key] for key in kept}}, indent=2)
    (folder / RECORD).write_text(text + "\n")
    return folder


def _folder(name: str) -> Path:
    if name not in names():
        raise ValueError(f"name is {name!r}, which does not exist; {checks.near_miss(name, names())}")
    return AGENTS / name
