"""Trained agents that come with jaxmeta: small runs of `jaxmeta reproduce`, to try and to start from.

    run = jm.zoo.load("rl2-bandit-10x10")
    agent = run.agent()
    print(jm.zoo.record("rl2-bandit-10x10")["points"])

The files are part of the package and read-only. `copy` puts a run into a folder of yours, where the command line works
on it: `jaxmeta evaluate`, `render`, `train --start-from`. What only training needs, the state of the optimiser and
replay buffers, is empty, so that the files are small.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from jaxmeta.config import checks, codec
from jaxmeta.core import manifest
from jaxmeta.core.checkpoint import Checkpointer
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
    """Adds the run of a row of `jaxmeta reproduce` to the agents: its configuration, last params and numbers.

    Args:
      run: a run folder with a single seed.
      command: the `jaxmeta reproduce` that made it.

    Returns:
      The folder of the agent, which must not exist.
    """
    run, folder = Path(run), AGENTS / name
    config = runs.read_config(run)
    if config.num_seeds > 1:
        raise ValueError(f"{run} has {config.num_seeds} seeds; pack a run with one")
    made = json.loads((run / "rows.json").read_text())
    kept = ("points", "wall_s", "device", "versions", "commit")
    trained = loading.load(run)
    folder.mkdir()
    for file in (runs.CONFIG, runs.EVALUATION):
        shutil.copy(run / file, folder / file)
    _save(folder / runs.CHECKPOINTS, trained)
    text = json.dumps({"command": command, "seed": config.seed, **{key: made[key] for key in kept}}, indent=2)
    (folder / RECORD).write_text(text + "\n")
    return folder


def _save(folder: Path, trained: loading.Run) -> None:
    """Saves the state of a run without the values that only training needs, and without the name of a folder."""
    import jax
    import jax.numpy as jnp

    def empty(leaf: Any) -> Any:
        return leaf if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else jnp.zeros_like(leaf)

    state = trained.state
    checkpointer = Checkpointer(folder)
    state = state.replace(**jax.tree.map(empty, {"opt_state": state.opt_state, "source": state.source}))
    checkpointer.save(trained.step, state)
    checkpointer.close()
    place = folder / str(trained.step)
    (place / "state" / "commit_success.txt").write_text("Checkpoint commit was successful\n")
    manifest.write(place, {"run": codec.encode(trained.config, ""), "update": trained.step, "score": None})


def _folder(name: str) -> Path:
    if name not in names():
        raise ValueError(f"name is {name!r}, which does not exist; {checks.near_miss(name, names())}")
    return AGENTS / name
