"""Warnings during training: metrics that show a known failure of hierarchies."""

from __future__ import annotations

import sys
from typing import Any, TextIO

import numpy as np

from jaxmeta.experiment import survival

SHORTEST = 1.5
"""Mean length of options in steps below which they are no longer extended in time."""
LARGEST_SHARE = 0.95
"""Share of steps above which one option does all."""


class Alarms:
    """A callback that prints one line the first time that options shrink to single steps, or that one does all.

    It reads `use/length` and `use/option_{i}`, averaged over the updates of a chunk; with several seeds it warns if
    these are so for any of them. Other algorithms have no such metrics.
    """

    def __init__(self, stream: TextIO | None = None):
        self._stream = stream or sys.stderr
        self._told: set[str] = set()

    def __call__(self, update: int, state: Any, metrics: dict[str, np.ndarray]) -> None:
        use = {name: np.asarray(value).mean(0) for name, value in metrics.items() if name.startswith("use/")}
        length = use.pop("use/length", None)
        if length is not None and (shortest := float(np.nanmin(length))) < SHORTEST:
            remedy = "they are single actions now (try a higher --algo.deliberation-cost or a longer --algo.duration)"
            self._tell("use/length", f"options last for {shortest:.2f} steps at update {update}: {remedy}")
        for name, share in use.items():
            if (most := float(np.nanmax(share))) > LARGEST_SHARE:
                self._tell("use", f"{name} is {most:.2f} at update {update}: one option does all (try fewer options)")

    def _tell(self, about: str, message: str) -> None:
        if about not in self._told:
            survival.say(f"jaxmeta: warning: {message}", self._stream)
        self._told.add(about)
