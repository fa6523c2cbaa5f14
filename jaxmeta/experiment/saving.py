"""Saving agents that are trained in Python as run folders."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from jaxmeta.config.codec import RunError, encode, first_difference
from jaxmeta.experiment import locks, provenance, registry, runs
from jaxmeta.experiment.loading import shapes


def save_run(folder: str | Path, config: runs.RunConfig, state: Any) -> None:
    """Saves a train state as a run that the command line can evaluate, plot, render and resume.

        config = jm.RunConfig("maml", "navigation", jm.MAMLConfig(), jm.tasks.NavigationConfig())
        family, meta = config.build()
        log = jm.JsonLines("runs/first")  # optional; `jaxmeta plot` draws the learning curve from it
        state = jm.train(meta, jm.init_state(meta, jax.random.key(config.seed)), 100, callbacks=[log])
        jm.save_run("runs/first", config, state)

    Then `jaxmeta evaluate runs/first` works, and so does `jaxmeta train maml navigation --out runs/first --resume
    --updates 200`. It may also be called from a callback, for checkpoints during training; the last two are kept.

    Args:
      folder: a new folder, or that of the same run.
      config: the configuration that the meta-learner of `state` was built with. With `num_seeds` above 1 the leaves of
        `state` have a leading axis.
      state: a train state, as `jm.train` returns it.

    Raises:
      RunError: if the folder holds another run or a later state of this one, if another process is writing to it, or
        if the shapes of `state` do not match `config`.
      OSError, ValueError: if the files cannot be written.
    """
    import jax
    import numpy as np

    import jaxmeta as jm

    folder, update = Path(folder), int(np.max(jax.device_get(state.step)))
    _, meta = config.build()
    if registry.is_own(config.tasks):
        runs.check_storable(config)
    form = jm.state_form(meta, runs.seed_axis(config))
    _check_shapes(form, state)
    folder.mkdir(parents=True, exist_ok=True)
    with locks.locked(folder):
        config = _noted(folder, dataclasses.replace(config, updates=max(config.updates, update)))
        checkpointer = jm.Checkpointer(folder / runs.CHECKPOINTS)
        try:
            latest = checkpointer.latest()
            if latest is not None and latest >= update and not _is_stored(checkpointer, form, state, update):
                raise RunError(
                    f"{folder} already has a checkpoint of update {latest}, but not this state of update {update};"
                    " choose another folder"
                )
            runs.write_config(folder, config)
            checkpointer.save(update, state, about={"run": encode(config, "")})
        finally:
            checkpointer.close()


def _check_shapes(form: Any, state: Any) -> None:
    """Raises a RunError that names the first leaf of a state with an unexpected shape."""
    wanted, given = shapes(form), shapes(state)
    for name in [*wanted, *given]:
        if wanted.get(name) != given.get(name):
            one, two = (f"of shape {known[name]}" if name in known else "missing" for known in (given, wanted))
            raise RunError(f"state.{name} is {one}, but config gives {two}; pass the config that it was trained with")


def _noted(folder: Path, config: runs.RunConfig) -> runs.RunConfig:
    """Returns the configuration with device, commit and versions; raises a RunError if the folder has another run."""
    here = provenance.origin()
    if not (folder / runs.CONFIG).is_file():
        return dataclasses.replace(config, **here)
    stored = runs.read_config(folder)
    free = ("updates", "start_from", "start", *provenance.ORIGIN)
    now = dataclasses.replace(config, **{name: getattr(stored, name) for name in free})
    if differs := first_difference("", now, stored):
        name, given, there = differs
        raise RunError(f"{name} is {given}, but the run in {folder} has {there}; choose another folder")
    names = ("device", "platform", "commit")
    both = {name: provenance.continued(getattr(stored, name), here[name]) for name in names}
    return dataclasses.replace(stored, updates=max(config.updates, stored.updates), **both)


def _is_stored(checkpointer: Any, form: Any, state: Any, update: int) -> bool:
    """Returns whether the last checkpoint holds exactly this state."""
    import jax
    import numpy as np

    from jaxmeta.core.checkpoint import CheckpointError, keys_as_data

    if checkpointer.latest() != update:
        return False
    try:
        stored = keys_as_data(checkpointer.restore(form, update))
    except CheckpointError:
        return False
    same = jax.tree.map(lambda one, two: np.array_equal(one, two, equal_nan=True), stored, keys_as_data(state))
    return all(jax.tree.leaves(same))
