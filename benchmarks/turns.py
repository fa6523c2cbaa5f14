"""Times programs in turns, so that other load on the machine affects them equally."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeVar

import jax

T = TypeVar("T")
State = TypeVar("State")


def alternate(programs: Mapping[str, Callable[[], T]], repeats: int) -> dict[str, list[T]]:
    """Calls programs in turns; returns what each returned, without the first turn, which warms up."""
    results: dict[str, list[T]] = {name: [] for name in programs}
    for turn in range(repeats + 1):
        for name, program in programs.items():
            result = program()
            if turn:
                results[name].append(result)
    return results


def take_turns(
    programs: Mapping[str, Callable[[], object]], repeats: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, list[float]]:
    """Times programs that block until they are done; returns the seconds of every turn."""

    def timed(program: Callable[[], object]) -> float:
        begun = clock()
        program()
        return clock() - begun

    return alternate({name: partial(timed, program) for name, program in programs.items()}, repeats)


def stateful(program: Callable[[State], tuple[State, Any]], state: State) -> Callable[[], None]:
    """Wraps a program so that every call continues from the last state, which meta-updates donate, and blocks."""
    holder = [state]

    def run() -> None:
        holder[0], _ = jax.block_until_ready(program(holder[0]))

    return run


def peak_memory() -> int:
    """Returns the device's peak memory in bytes if it reports it, else that of the process."""
    stats = jax.devices()[0].memory_stats() or {}
    return stats.get("peak_bytes_in_use") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
