"""Demonstrations: stored experience to learn from, as arrays in one file without pickled objects.

A file is an uncompressed `.npz`, a zip archive with one `.npy` member per field of `Rollout` and the member
`manifest.json`: the spec, the name of the task family, counts, and form and SHA-256 of every array. The comment of the
archive, its last 64 bytes, is the SHA-256 of everything before it, so any changed bit shows. The checksums protect
against accidents, not against attackers; but a file holds only arrays and JSON, never code.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from jaxmeta.types import Array, Rollout, Spec

FORMAT = 1
MANIFEST = "manifest.json"
LARGEST_MANIFEST = 2**20
"""Size limit of the manifest, in bytes."""
DIGEST = 64
"""Length of a SHA-256 in hexadecimal digits."""
BLOCK = 2**20


class DemonstrationsError(ValueError):
    """A file of demonstrations is invalid, or does not fit; the message is one line that begins with its path."""


class Demonstrations(struct.PyTreeNode):
    """Stored experience on D tasks: a pytree, to be passed as `data` to `jm.train`.

    demonstrations = jm.Demonstrations.load("expert.npz", family.env.spec)
    state = jm.train(meta, state, 1000, data=demonstrations)
    """

    rollouts: Rollout
    """Leaves [D, T, E, ...]; `output` is empty, and `reset_key` holds the data of the keys, uint32 [D, E, ...]."""
    spec: Spec = struct.field(pytree_node=False)
    """The spec of the environment, as the student observes it."""
    family: str = struct.field(pytree_node=False, default="")
    """Name of the task family."""
    source: str = struct.field(pytree_node=False, default="")
    """Describes who acted."""
    key_type: str = struct.field(pytree_node=False, default="threefry2x32")
    """Implementation of the keys."""

    @property
    def num_tasks(self) -> int:
        """D."""
        return self.rollouts.reward.shape[0]

    @property
    def episodes(self) -> int:
        """Episodes per stream."""
        return self.rollouts.reward.shape[1] // self.spec.horizon

    @property
    def streams(self) -> int:
        """E."""
        return self.rollouts.reward.shape[2]

    def rollout(self, index: int | Array) -> Rollout:
        """Returns the experience on one task, leaves [T, E, ...]."""
        one = jax.tree.map(lambda leaf: jnp.asarray(leaf)[index], self.rollouts)
        return one.replace(reset_key=jax.random.wrap_key_data(one.reset_key, impl=self.key_type))

    def check(self, spec: Spec) -> None:
        """Raises a ValueError that names the first field in which the spec of the demonstrations differs."""
        here, there = _spec_form(spec), _spec_form(self.spec)
        for name, value in here.items():
            if there[name] != value:
                raise ValueError(f"demonstrations have spec.{name} {there[name]}; the tasks have {value}")

    @classmethod
    def of(cls, rollouts: Rollout, spec: Spec, family: str = "", source: str = "") -> Demonstrations:
        """Builds demonstrations, on the host, from the rollouts of a batch of tasks.

        Args:
          rollouts: leaves [D, T, E, ...]; the output of the behaviour policy is dropped.

        Raises:
          ValueError: if there are none, or they do not have whole episodes.
        """
        shape = rollouts.reward.shape
        if len(shape) != 3 or 0 in shape:
            raise ValueError(f"rollouts.reward has shape {list(shape)}; it must be [D, T, E], with at least 1 of each")
        if shape[1] % spec.horizon:
            raise ValueError(f"rollouts has {shape[1]} steps; it must be a multiple of the horizon, {spec.horizon}")
        key_type = str(jax.random.key_impl(rollouts.reset_key))
        plain = rollouts.replace(output=(), reset_key=jax.random.key_data(rollouts.reset_key))
        return cls(jax.tree.map(np.asarray, jax.device_get(plain)), spec, family, source, key_type)

    def save(self, path: str | Path) -> str:
        """Writes a file atomically; returns its SHA-256, as `load` and run folders know it.

        Raises:
          DemonstrationsError: if the file exists, or cannot be written.
        """
        path = Path(path)
        if path.exists():
            raise _exists(path)
        draft = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            digest = self._write(draft)
            os.link(draft, path)  # unlike a rename, it fails if the file has come into being in the meantime
        except FileExistsError:
            raise DemonstrationsError(
                f"{path} exists; demonstrations never replace a file, choose another name"
            ) from None
        except OSError as error:
            raise DemonstrationsError(f"{path} cannot be written: {error.strerror or error}") from error
        finally:
            draft.unlink(missing_ok=True)
        return digest

    def _write(self, file: Path) -> str:
        arrays, leaves = {}, _named(self.rollouts)
        with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
            for name, leaf in leaves.items():
                if leaf.dtype.kind not in "biuf":
                    raise DemonstrationsError(f"{file} cannot hold {name}: its dtype is {leaf.dtype}")
                content = np.ascontiguousarray(leaf)
                with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, content.reshape(leaf.shape))
                digest = hashlib.sha256(content.tobytes()).hexdigest()
                arrays[name] = {"dtype": leaf.dtype.str, "shape": list(leaf.shape), "sha256": digest}
            about = {name: getattr(self, name) for name in ("family", "source", "key_type")}
            counts = {name: getattr(self, name) for name in ("num_tasks", "episodes", "streams")}
            counts["valid_steps"] = int(np.sum(self.rollouts.valid))
            manifest = {"format": FORMAT, **about, **counts, "spec": _spec_form(self.spec), "arrays": arrays}
            archive.writestr(MANIFEST, json.dumps(manifest, sort_keys=True, indent=1))
            archive.comment = b"0" * DIGEST
        with file.open("r+b") as stream:
            digest = _digest(stream, file.stat().st_size - DIGEST)
            stream.seek(-DIGEST, os.SEEK_END)
            stream.write(digest.encode())
            stream.flush()
            os.fsync(stream.fileno())
        return digest

    @classmethod
    def load(cls, path: str | Path, spec: Spec, limit_bytes: int | None = None) -> Demonstrations:
        """Reads a file; its checksum and sizes are checked before any array is read.

        Args:
          spec: of the environment, as the student observes it.
          limit_bytes: largest total size of the arrays; by default the memory that is free on the host.

        Raises:
          DemonstrationsError: if the file is missing, empty, truncated or damaged, is of another spec, or its arrays
            are larger than the limit.
        """
        path = Path(path)
        checksum(path)
        try:
            with zipfile.ZipFile(path) as archive:
                manifest = _manifest(archive)
                _check_spec(manifest["spec"], spec)
                size = sum(np.dtype(one["dtype"]).itemsize * _size(one["shape"]) for one in manifest["arrays"].values())
                limit = free_memory() if limit_bytes is None else limit_bytes
                if size > limit:
                    raise DemonstrationsError(
                        f"it takes {size:,} bytes of memory, but {limit:,} are free; collect fewer"
                    )
                arrays = {name: _read(archive, name, form) for name, form in manifest["arrays"].items()}
            rollouts = _unnamed(arrays, spec)
            about = (manifest[name] for name in ("family", "source", "key_type"))
            return cls(rollouts, spec, *about)
        except DemonstrationsError as error:
            raise DemonstrationsError(f"{path}: {error}") from None
        except (OSError, zipfile.BadZipFile, ValueError, KeyError, TypeError) as error:
            raise DemonstrationsError(f"{path} does not hold demonstrations: {' '.join(str(error).split())}") from error


def checksum(path: str | Path) -> str:
    """Checks the SHA-256 of a file of demonstrations, and returns it.

    Raises:
      DemonstrationsError: if the file is missing, empty, truncated or damaged.
    """
    path = Path(path)
    try:
        size = path.stat().st_size
        if not path.is_file():
            raise DemonstrationsError(f"{path} is not a file")
        if not size:
            raise DemonstrationsError(f"{path} is empty")
        with path.open("rb") as stream:
            digest = _digest(stream, max(size - DIGEST, 0))
            written = stream.read()
    except OSError as error:
        raise DemonstrationsError(f"{path} cannot be read: {error.strerror}") from None
    if digest.encode() != written:
        raise DemonstrationsError(f"{path} is truncated, has changed since it was written, or holds no demonstrations")
    return digest


def _exists(path: Path) -> DemonstrationsError:
    return DemonstrationsError(f"{path} exists; demonstrations never replace a file, choose another name")


def free_memory() -> int:
    """Returns the bytes of memory that are available on the host; all of it where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _digest(stream: Any, size: int) -> str:
    """Computes the SHA-256 of the first bytes of a stream."""
    stream.seek(0)
    digest = hashlib.sha256()
    while size > 0 and (block := stream.read(min(size, BLOCK))):
        digest.update(block)
        size -= len(block)
    return digest.hexdigest()


def _manifest(archive: zipfile.ZipFile) -> dict[str, Any]:
    if archive.getinfo(MANIFEST).file_size > LARGEST_MANIFEST:
        raise DemonstrationsError(f"{MANIFEST} has more than {LARGEST_MANIFEST} bytes")
    manifest = json.loads(archive.read(MANIFEST))
    if manifest["format"] != FORMAT:
        raise DemonstrationsError(f"it has format {manifest['format']}; this version reads format {FORMAT}")
    return manifest


def _read(archive: zipfile.ZipFile, name: str, form: dict[str, Any]) -> np.ndarray:
    """Reads an array, whose form and checksum the manifest gives."""
    info = archive.getinfo(f"{name}.npy")
    if info.compress_type != zipfile.ZIP_STORED:
        raise DemonstrationsError(f"{name} is compressed")
    with archive.open(info) as member:
        array = np.lib.format.read_array(io.BytesIO(member.read()))
    if array.dtype.str != form["dtype"] or list(array.shape) != form["shape"]:
        raise DemonstrationsError(f"{name} is {array.dtype}{list(array.shape)}; the manifest says otherwise")
    if hashlib.sha256(array.tobytes()).hexdigest() != form["sha256"]:
        raise DemonstrationsError(f"{name} has changed since it was written: its SHA-256 differs")
    return array


def _size(shape: list[int]) -> int:
    return int(np.prod(shape, dtype=np.int64))


def _spec_form(spec: Spec) -> dict[str, Any]:
    """Describes a spec as JSON."""
    leaves = jax.tree_util.tree_leaves_with_path(spec.observation_form())
    forms = {jax.tree_util.keystr(path): f"{leaf.dtype.name}{list(leaf.shape)}" for path, leaf in leaves}
    action = {"kind": type(spec.action).__name__, **dataclasses.asdict(spec.action)}
    action = {name: list(value) if isinstance(value, tuple) else value for name, value in action.items()}
    rest = {name: getattr(spec, name) for name in ("horizon", "terminates", "success", "action_mask")}
    return {"observation": forms.get("", forms), "action": action, **rest}


def _check_spec(stored: dict[str, Any], spec: Spec) -> None:
    for name, value in _spec_form(spec).items():
        if stored[name] != value:
            raise DemonstrationsError(f"spec.{name} is {stored[name]}, but the tasks have {value}")


def _leaves(rollouts: Rollout) -> Iterator[tuple[str, Any]]:
    for path, leaf in jax.tree_util.tree_leaves_with_path(rollouts):
        yield jax.tree_util.keystr(path, simple=True, separator="."), leaf


def _named(rollouts: Rollout) -> dict[str, np.ndarray]:
    """Lists the arrays by name, such as `inputs.obs`."""
    return {name: np.asarray(leaf) for name, leaf in _leaves(rollouts)}


def _unnamed(arrays: dict[str, np.ndarray], spec: Spec) -> Rollout:
    """Puts arrays back in their places."""
    form: dict[str, Any] = dict.fromkeys((field.name for field in dataclasses.fields(Rollout)), 0)
    form |= {"inputs": spec.example_input(), "next_obs": spec.example_obs(), "output": ()}
    like = Rollout(**form)
    names = [name for name, _ in _leaves(like)]
    if sorted(names) != sorted(arrays):
        differ = sorted(set(names) ^ set(arrays))
        raise DemonstrationsError(f"it must have the arrays of a Rollout; it differs in {', '.join(differ)}")
    return jax.tree.unflatten(jax.tree.structure(like), [arrays[name] for name in names])
