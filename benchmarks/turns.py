"""Times programs in turns, so that other load on the machine affects them equally."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Mapping

import jax


def take_turns(
    programs: Mapping[str, Callable[[], object]], repeats: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, list[float]]:
    """Times programs that block until they are done; returns the seconds of every turn."""
    seconds: dict[str, list[float]] = {name: [] for name in programs}
    for turn in range(repeats + 1):
        for name, program in programs.items():
            begun = clock()
            program()
            if turn:  # the first turn warms up
                seconds[name].append(clock() - begun)
    return seconds


def peak_memory() -> int:
    """Returns the device's peak memory in bytes if it reports it, else that of the process."""
    stats = jax.devices()[0].memory_stats() or {}
    return stats.get("peak_bytes_in_use") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
