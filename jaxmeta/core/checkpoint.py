"""Checkpoints of the whole train state. The only file that imports Orbax.

A checkpoint is a folder named by its update: the state as Orbax writes it, and a manifest with the SHA-256 of every
file. It is written under a temporary name and renamed when it is complete, so a folder with a number was complete; the
manifest shows whether it has been damaged since.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxmeta import devices
from jaxmeta.core import manifest
from jaxmeta.types import TrainState

STATE = "state"
PARTIAL, DAMAGED = ".partial", ".damaged"


class CheckpointError(RuntimeError):
    """There is no such checkpoint, or it does not fit the expected state."""


class DamagedError(CheckpointError):
    """The files of a checkpoint have changed since they were written."""


class Restored(NamedTuple):
    """The last undamaged checkpoint."""

    update: int
    state: TrainState
    skipped: dict[int, str]
    """Later, damaged checkpoints by update, with one line that describes the damage."""


class Checkpointer:
    """Saves train states in a folder, one subfolder per update, and keeps the last few and the best.

    Only one save is in progress at a time. It runs in the background once the state has been copied from the devices.

        checkpointer = jm.Checkpointer("run/checkpoints")
        checkpointer.save(100, state)
        state = checkpointer.restore(jm.state_form(meta))
    """

    def __init__(self, folder: str | Path, keep: int = 2):
        if keep < 1:
            raise ValueError(f"keep is {keep}; it must be at least 1")
        import orbax.checkpoint as ocp

        # errors are raised; Orbax would also log pages about them
        logging.getLogger("absl").setLevel(logging.CRITICAL)
        self._ocp = ocp
        self.folder = Path(folder).absolute()
        self._keep = keep
        self._orbax = ocp.AsyncCheckpointer(ocp.StandardCheckpointHandler())
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self._swept = False

    def updates(self) -> list[int]:
        """Returns the saved updates in ascending order, damaged checkpoints included."""
        return saved_updates(self.folder)

    def latest(self) -> int | None:
        """Returns the last saved update, or None if nothing is saved."""
        return max(self.updates(), default=None)

    def best(self) -> int | None:
        """Returns the update with the highest score, the last one in a tie; None if no checkpoint has a score."""
        scores = {update: self._about(update).get("score") for update in self.updates()}
        known = [(score, update) for update, score in scores.items() if score is not None]
        return max(known)[1] if known else None

    def save(
        self,
        update: int,
        state: TrainState,
        *,
        score: float | None = None,
        about: dict[str, Any] | None = None,
        wait: bool = True,
    ) -> None:
        """Writes a state, unless this update is saved already.

        Args:
          score: higher is better; the best checkpoint is kept besides the last ones.
          about: configuration and versions, any JSON value.
          wait: whether to block until the checkpoint is complete on disk. If not, the state may be donated at once, and
            errors are raised by `wait`.

        Raises:
          OSError, ValueError: if it cannot be written; earlier checkpoints are kept.
        """
        self.wait()
        if update in self.updates():
            return
        draft = self.folder / f"{update}{PARTIAL}"
        self._make(draft)
        try:
            self._orbax.save(draft / STATE, args=self._ocp.args.StandardSave(keys_as_data(state)))
        except BaseException as error:
            shutil.rmtree(draft, ignore_errors=True)
            if jax.process_count() == 1 or not isinstance(error, Exception):
                raise
            self._error = error  # raised by `wait`, in all processes
        about = {**(about or {}), "update": update, "score": score}
        self._thread = threading.Thread(target=self._finish, args=(draft, about), name="checkpoint")
        self._thread.start()
        if wait:
            self.wait()

    def wait(self) -> bool:
        """Waits for the save in progress, if any, and raises its error, once.

        Returns:
          Whether there was a save in progress.
        """
        if self._thread is None:
            return False
        self._thread.join()
        self._thread = None
        error, self._error = self._error, None
        _raise_together(error)
        return True

    @property
    def saving(self) -> bool:
        """Whether a save is in progress; with several processes until `wait`, as they finish at different times."""
        return self._thread is not None and (self._thread.is_alive() or jax.process_count() > 1)

    def restore_last(self, like: TrainState) -> Restored:
        """Restores the last undamaged checkpoint.

        Raises:
          CheckpointError: if there is none, or it does not fit `like`.
        """
        skipped = {}
        for update in reversed(self.updates()):
            try:
                return Restored(update, self.restore(like, update), skipped)
            except DamagedError as error:
                skipped[update] = str(error)
        if not skipped:
            raise CheckpointError(f"no checkpoint in {self.folder}")
        raise DamagedError("all checkpoints are damaged: " + "; ".join(skipped.values()))

    def restore(self, like: TrainState, update: int | None = None) -> TrainState:
        """Restores a state.

        Args:
          like: the expected form, as arrays or as the shapes that `state_form` returns. Its shardings decide where the
            state is placed, whatever devices it was saved from.
          update: which checkpoint; by default the last undamaged one, with a warning for every damaged one.

        Raises:
          DamagedError: if a file has changed since it was written; the message names the first.
          CheckpointError: if there is none, or it does not fit `like`; the message names the first leaf that differs.
        """
        if update is None:
            last = self.restore_last(like)
            for message in last.skipped.values():
                warnings.warn(f"{message}; restored the checkpoint of update {last.update} instead", stacklevel=2)
            return last.state
        place = self.folder / str(update)
        if update not in (there := self.updates()):
            kept = f"; there are {', '.join(map(str, there))}" if there else ""
            raise CheckpointError(f"no checkpoint of update {update} in {self.folder}{kept}")
        expected = jax.tree.map(_data_form, like)
        try:
            manifest.check(place)
            self._check(place, expected)
            saved = self._orbax.restore(place / STATE, args=self._ocp.args.StandardRestore(expected))
        except manifest.Damaged as error:
            raise DamagedError(f"checkpoint {place} is damaged: {error}") from error
        except CheckpointError:
            raise
        except Exception as error:
            raise DamagedError(f"checkpoint {place} cannot be read: {_brief(error)}") from error
        return jax.tree.map(_like_original, like, saved)

    def set_aside(self, update: int) -> None:
        """Renames a damaged checkpoint, so that it is no longer listed but can still be inspected."""
        aside = self.folder / f"{update}{DAMAGED}"

        def rename() -> None:
            shutil.rmtree(aside, ignore_errors=True)
            (self.folder / str(update)).rename(aside)

        _by_first_process(rename)

    def close(self) -> None:
        """Waits for the save in progress, ignores its errors, and releases the folder."""
        with contextlib.suppress(Exception):
            self.wait()
        with contextlib.suppress(Exception):  # it raises again what a save has raised
            self._orbax.close()

    def _make(self, draft: Path) -> None:
        """Makes the folder of a save; the first time, deletes incomplete saves of killed processes."""

        def make() -> None:
            if not self._swept:
                for entry in self.folder.glob(f"*{PARTIAL}"):
                    shutil.rmtree(entry)
            self._swept = True
            draft.mkdir(parents=True)

        _by_first_process(make)

    def _finish(self, draft: Path, about: dict[str, Any]) -> None:
        """Completes a save in the background: waits for Orbax, writes the manifest, renames the folder."""
        if self._error is not None:
            return
        try:
            self._orbax.wait_until_finished()
            if jax.process_index() == 0:
                manifest.write(draft, about)
                draft.rename(draft.with_suffix(""))
                _sync_folder(self.folder)
                self._prune()
        except BaseException as error:
            self._error = error
            shutil.rmtree(draft, ignore_errors=True)

    def _prune(self) -> None:
        """Deletes all but the last checkpoints and the best."""
        updates = self.updates()
        for update in updates[: -self._keep]:
            if update != self.best():
                # renamed first: a folder with a number must be complete
                trash = self.folder / f"{update}{PARTIAL}"
                (self.folder / str(update)).rename(trash)
                shutil.rmtree(trash, ignore_errors=True)

    def _about(self, update: int) -> dict[str, Any]:
        """Returns the `about` of a checkpoint, empty if its manifest is damaged."""
        try:
            return manifest.read(self.folder / str(update))["about"]
        except manifest.Damaged:
            return {}

    def _check(self, place: Path, expected) -> None:
        """Raises a CheckpointError that names the first leaf whose path, shape or dtype differs; reads no array."""
        metadata: Any = self._orbax.metadata(place / STATE).item_metadata
        stored, wanted = _forms(metadata.tree), _forms(expected)
        for path in [*wanted, *stored]:
            if stored.get(path) != wanted.get(path):
                raise CheckpointError(
                    f"checkpoint {place}: {path} is {stored.get(path, 'missing')};"
                    f" this configuration needs {wanted.get(path, 'no such leaf')}"
                )


def saved_updates(folder: Path) -> list[int]:
    """Returns the updates that have a checkpoint in a folder, in ascending order, without opening any."""
    return sorted(int(entry.name) for entry in folder.glob("*") if entry.name.isdecimal())


def keys_as_data(tree):
    """Replaces the PRNG keys of a tree by their raw data, which can be stored and compared as plain arrays."""
    return jax.tree.map(lambda leaf: jax.random.key_data(leaf) if _is_key(leaf) else leaf, tree)


def _by_first_process(change: Callable[[], None]) -> None:
    """Runs a change of a shared folder on process 0; all processes wait for it and raise its OSError."""
    error = None
    if jax.process_index() == 0:
        try:
            change()
        except OSError as found:
            error = found
    _raise_together(error)


def _raise_together(error: BaseException | None) -> None:
    """Raises this process's error; with several processes all wait here, and an error of one raises in all."""
    failed = devices.largest_of_processes(error is not None)
    if error is not None:
        raise error
    if failed:
        raise OSError("another process failed to write it")


def _sync_folder(folder: Path) -> None:
    """Flushes a folder's entries to disk (fsync)."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _data_form(leaf) -> jax.ShapeDtypeStruct:
    """Returns the form in which a leaf, an array or a shape, is stored."""
    data = jax.eval_shape(jax.random.key_data, leaf) if _is_key(leaf) else leaf
    return jax.ShapeDtypeStruct(data.shape, data.dtype, sharding=getattr(leaf, "sharding", None))


def _like_original(original, saved):
    if _is_key(original):
        return jax.random.wrap_key_data(saved, impl=jax.random.key_impl(jax.numpy.empty((), original.dtype)))
    return saved


def _forms(tree) -> dict[str, str]:
    """Formats dtype and shape of every leaf by its path; a dataclass has the same paths as a dict of its fields."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="."): f"{np.dtype(leaf.dtype).name}{list(leaf.shape)}"
        for path, leaf in jax.tree.leaves_with_path(tree)
    }


def _is_key(leaf) -> bool:
    return jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _brief(error: Exception) -> str:
    """Returns the first line of an error message, at most 300 characters."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
