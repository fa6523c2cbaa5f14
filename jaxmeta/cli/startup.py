"""How commands start JAX, and read what they work on."""

from __future__ import annotations

import contextlib
import gc
import os
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jaxmeta as jm
from jaxmeta.cli.parsing import UsageError
from jaxmeta.experiment import loading, registry, runs


class DeviceError(RuntimeError):
    """JAX finds no device; the message is one line."""


@contextlib.contextmanager
def importing() -> Iterator[None]:
    """Makes the first import of JAX, and an early exit after it, faster by a quarter.

    The garbage collector would search all that an import makes, time and again, and once more at the end; none of it is
    garbage.
    """
    if "jax" in sys.modules:
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def start_jax(cache: bool, devices: int | None = None) -> None:
    """Makes the CPU's cores devices and turns the compilation cache on, before any computation."""
    jm.use_cpu_cores(devices)
    import jax

    if not cache:
        jax.config.update("jax_compilation_cache_dir", None)  # the environment may name one
        return
    if getattr(jax.config, "jax_compilation_cache_dir", None):
        return
    folder = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "jaxmeta"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        # cached programs are executed unchecked, so nobody else may write there
        folder.chmod(0o700)
    except OSError:
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))


def find_devices() -> list[Any]:
    """Returns all devices; with several processes, call it after they have connected.

    Raises:
      UsageError: if JAX_PLATFORMS names a platform that JAX cannot start here.
      DeviceError: if JAX finds no device on its own.
    """
    import jax

    try:
        return jax.devices()
    except Exception as error:  # a RuntimeError for most platforms, an AssertionError for CUDA
        lines = str(error).strip().splitlines() or ["it has no device or no plugin here"]
        brief = lines[0].partition(" (set JAX_PLATFORMS")[0]
        if platforms := getattr(jax.config, "jax_platforms", None):
            raise UsageError(
                f"JAX_PLATFORMS is {platforms!r}, which JAX cannot start here: {brief} (try JAX_PLATFORMS=cpu, or unset"
                " it)"
            ) from error
        raise DeviceError(f"JAX finds no device: {brief} (try JAX_PLATFORMS=cpu)") from error


def read_config(folder: Path, cache: bool) -> runs.RunConfig:
    """Reads the configuration of a run. It starts JAX only if the task family is the user's own.

    Importing the module of such a family may run JAX, which must be configured first.
    """
    if registry.is_own(str(runs.read_json(folder).get("tasks"))):
        start_jax(cache)
        find_devices()
    return runs.read_config(folder)


def load(folder: Path, config: runs.RunConfig, cache: bool, build: Any = None) -> loading.Run:
    """Reads the last undamaged checkpoint of a run; later, damaged ones are named on standard error.

    Args:
      build: the family and the meta-learner, if they are already built.
    """
    start_jax(cache)
    find_devices()
    loading.require_checkpoint(folder)
    with warnings.catch_warnings(action="ignore"):
        run = loading.load_built(folder, config, *(build or config.build()))
    for message in run.skipped.values():
        print(f"jaxmeta: {message}; going back to update {run.step}", file=sys.stderr)
    return run
