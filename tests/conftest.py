"""Two host devices, so that sharding is exercised everywhere, and a compilation cache for the next run."""

from __future__ import annotations

import gc
import os
import pathlib

import jax
import pytest

from jaxmeta import devices
from jaxmeta.core import evaluate, train

# tests compare numbers, not speed: compiling dominates, so compile little
jax.config.update("jax_disable_most_optimizations", True)
devices.use_cpu_cores(2)
# without the emitters of loops that later versions no longer have, programs compile in less than half of the time
OLD_JAX_FLAGS = "--xla_cpu_use_fusion_emitters=false" if jax.__version_info__ < (0, 11) else ""
with pytest.MonkeyPatch.context() as environment:
    environment.setenv("XLA_FLAGS", f"{os.environ.get('XLA_FLAGS', '')} {OLD_JAX_FLAGS}".strip())
    jax.devices()  # reads the flags; the processes that tests start compile as users do

# tracing makes so many objects that looking for unreachable ones takes a tenth of the suite
gc.freeze()
gc.set_threshold(100_000, 20, 20)

if jax.default_backend() != "cpu":
    # networks by themselves leave it to the user
    jax.config.update("jax_default_matmul_precision", "float32")

_cache = pathlib.Path(__file__).parent.parent / ".cache" / "jax"
_cache.mkdir(parents=True, exist_ok=True, mode=0o700)
jax.config.update("jax_compilation_cache_dir", str(_cache))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)

MEMORY = 1.5 * 2**30
"""Bytes of a process above which the compiled programs of a module are dropped when it ends."""


def pytest_runtest_teardown(item, nextitem):
    """Drops compiled programs between modules: those of the whole suite would take several gigabytes."""
    if nextitem is not None and nextitem.module is item.module:
        return
    resident = int(pathlib.Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    if resident > MEMORY:
        evaluate._program.cache_clear()
        train._remembered_chunk.cache_clear()
        train._init_program.cache_clear()
        jax.clear_caches()
        gc.collect()
