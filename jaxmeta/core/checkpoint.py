"""Checkpoints of the whole train state. The only file that knows Orbax."""

from __future__ import annotations

import logging
from pathlib import Path

import jax
import numpy as np

from jaxmeta.types import TrainState


class CheckpointError(RuntimeError):
    """A checkpoint cannot be read as what was asked for."""


class Checkpointer:
    """Saves train states under a folder, one subfolder per update, and keeps the last few."""

    def __init__(self, folder: str | Path, keep: int = 2):
        import orbax.checkpoint as ocp

        logging.getLogger("absl").setLevel(logging.ERROR)
        self._ocp = ocp
        self.folder = Path(folder).absolute()
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, enable_async_checkpointing=False)
        self._manager = ocp.CheckpointManager(self.folder, options=options)

    def latest(self) -> int | None:
        """Returns the last saved update, or None if nothing is saved."""
        return self._manager.latest_step()

    def save(self, update: int, state: TrainState) -> None:
        """Writes a state; when this returns, it is complete on disk."""
        if update != self.latest():
            self._manager.save(update, args=self._ocp.args.StandardSave(_to_arrays(state)))
            self._manager.wait_until_finished()

    def restore(self, like: TrainState, update: int | None = None) -> TrainState:
        """Reads a state.

        Args:
          like: a state of the same structure and shapes; its values do not matter.
          update: which; by default the last.

        Raises:
          CheckpointError: if there is none, or it does not fit `like`; the message names the first leaf that differs.
        """
        update = self.latest() if update is None else update
        if update is None:
            raise CheckpointError(f"no checkpoint in {self.folder}")
        expected = _to_arrays(like)
        try:
            saved = self._manager.restore(update, args=self._ocp.args.StandardRestore(expected))
        except Exception as error:
            raise CheckpointError(f"checkpoint {self.folder / str(update)} does not fit: {_brief(error)}") from error
        for (path, want), have in zip(jax.tree.leaves_with_path(expected), jax.tree.leaves(saved), strict=True):
            if np.shape(want) != np.shape(have) or want.dtype != have.dtype:
                raise CheckpointError(
                    f"checkpoint {self.folder / str(update)}: {jax.tree_util.keystr(path)} is {have.dtype}"
                    f"{list(np.shape(have))}; this configuration needs {want.dtype}{list(np.shape(want))}"
                )
        return jax.tree.map(_like_original, like, saved)

    def close(self) -> None:
        """Releases the folder."""
        self._manager.close()


def _to_arrays(state):
    """Replaces PRNG keys by their raw data: what is stored is plain arrays."""
    return jax.tree.map(lambda leaf: jax.random.key_data(leaf) if _is_key(leaf) else leaf, state)


def _like_original(original, saved):
    if _is_key(original):
        return jax.random.wrap_key_data(saved, impl=jax.random.key_impl(original))
    return saved


def _is_key(leaf) -> bool:
    return jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _brief(error: Exception) -> str:
    """Takes the first line of an error that may be pages long."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
