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

        # what goes wrong is raised; Orbax would print pages about it too
        logging.getLogger("absl").setLevel(logging.CRITICAL)
        self._ocp = ocp
        self.folder = Path(folder).absolute()
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, enable_async_checkpointing=False)
        self._manager = ocp.CheckpointManager(
            self.folder, item_handlers=ocp.StandardCheckpointHandler(), options=options
        )

    def latest(self) -> int | None:
        """Returns the last saved update, or None if nothing is saved."""
        return self._manager.latest_step()

    def save(self, update: int, state: TrainState) -> None:
        """Writes a state; when this returns, it is complete on disk."""
        if update != self.latest():
            self._manager.save(update, args=self._ocp.args.StandardSave(keys_as_data(state)))
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
        expected = keys_as_data(like)
        try:
            self._check(update, expected)
            saved = self._manager.restore(update, args=self._ocp.args.StandardRestore(expected))
        except CheckpointError:
            raise
        except Exception as error:
            raise CheckpointError(f"checkpoint {self.folder / str(update)} cannot be read: {_brief(error)}") from error
        return jax.tree.map(_like_original, like, saved)

    def _check(self, update: int, expected) -> None:
        """Raises a CheckpointError that names the first leaf whose place, shape or dtype differs."""
        stored, wanted = (_forms(tree) for tree in (self._manager.item_metadata(update), expected))
        for path in [*wanted, *stored]:
            if stored.get(path) != wanted.get(path):
                raise CheckpointError(
                    f"checkpoint {self.folder / str(update)}: {path} is {stored.get(path, 'not there')};"
                    f" this configuration needs {wanted.get(path, 'no such leaf')}"
                )

    def close(self) -> None:
        """Releases the folder."""
        self._manager.close()


def keys_as_data(tree):
    """Replaces the PRNG keys of a tree by their raw data: what can be stored, or compared, is plain arrays."""
    return jax.tree.map(lambda leaf: jax.random.key_data(leaf) if _is_key(leaf) else leaf, tree)


def _like_original(original, saved):
    if _is_key(original):
        return jax.random.wrap_key_data(saved, impl=jax.random.key_impl(original))
    return saved


def _forms(tree) -> dict[str, str]:
    """Describes every leaf of a tree by its path, the same for a record as for a dict with the names of its fields."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="."): f"{np.dtype(leaf.dtype).name}{list(leaf.shape)}"
        for path, leaf in jax.tree.leaves_with_path(tree)
    }


def _is_key(leaf) -> bool:
    return jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _brief(error: Exception) -> str:
    """Takes the first line of an error that may be pages long."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
