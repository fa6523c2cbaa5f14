"""MAML on sine waves in plain JAX, as a short program would do it: on one device."""

from __future__ import annotations

from benchmarks.peers.protocol import Session, arguments

session = Session("jax", "optax")

from benchmarks.few_shot import plain
from benchmarks.turns import stateful


def main(num_tasks: int, updates_per_call: int, **_: float) -> None:
    run = stateful(*plain(num_tasks, updates_per_call))

    def work() -> float:
        run()
        return num_tasks * updates_per_call

    session.serve(work)


if __name__ == "__main__":
    main(**arguments())
