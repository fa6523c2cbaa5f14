"""The RL² baseline of XLand-MiniGrid, from a checkout: its script of meta-training, on all cores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.peers.protocol import Session, arguments

session = Session("jax", "xminigrid")

from benchmarks import xland
from jaxmeta import devices


def main(checkout: str, **sizes: Any) -> None:
    devices.use_cpu_cores()
    config = xland.XLandBenchmark(suite=Path(checkout), **sizes)
    run, steps = xland.suite_training(xland.rulesets(config), config)

    def work() -> float:
        run()
        return steps()

    session.serve(work)


if __name__ == "__main__":
    main(**arguments())
