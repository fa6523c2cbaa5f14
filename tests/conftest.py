"""Two host devices, so that sharding is exercised everywhere, and a compilation cache for the next run."""

from __future__ import annotations

import pathlib

import jax

from jaxmeta.core import parallel

parallel.use_cpu_cores(2)
_cache = pathlib.Path(__file__).parent.parent / ".cache" / "jax"
_cache.mkdir(parents=True, exist_ok=True, mode=0o700)
# tests compare numbers, not speed: compiling dominates, so compile little
jax.config.update("jax_disable_most_optimizations", True)
jax.config.update("jax_compilation_cache_dir", str(_cache))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
