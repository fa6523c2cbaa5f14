"""Shared parts of the trained agents of tables."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

from jaxmeta.reproduce.base import Row, Trained


class Recipe(NamedTuple):
    """Updates, config and start of a trained agent, for tables with many of them."""

    updates: int
    algo_config: Callable[[int], Any]
    """As in `Trained`."""
    start: str = ""
    """As in `Trained`."""

    def agent(self, name: str, tasks: str, tasks_config: Callable[[], Any], rows: tuple[Row, ...]) -> Trained:
        """Returns the run GROUP/ALGO on tasks, or GROUP/ALGO-VARIANT."""
        return Trained(
            name,
            name.rpartition("/")[-1].split("-")[0],
            tasks,
            self.algo_config,
            tasks_config=tasks_config,
            updates=self.updates,
            chunk=10,
            rows=rows,
            start=self.start,
        )


def quick_replay(config: Any) -> Any:
    """Shrinks the config of an off-policy algorithm for `--quick`; its first update visits every task."""
    sac = dataclasses.replace(config.sac, gradient_steps=5)
    return dataclasses.replace(config, num_train_tasks=8, tasks_per_update=8, sac=sac)
