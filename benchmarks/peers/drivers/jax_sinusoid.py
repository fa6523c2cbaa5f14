"""MAML on sine waves in plain JAX, as a short program would do it: on one device."""

from __future__ import annotations

from benchmarks.peers.protocol import Session, arguments

session = Session("jax", "optax")

import jax

from benchmarks.few_shot import plain


def main(num_tasks: int, updates_per_call: int, **_: float) -> None:
    program, state = plain(num_tasks, updates_per_call)
    holder = [state]

    def work() -> float:
        holder[0], _ = jax.block_until_ready(program(holder[0]))
        return num_tasks * updates_per_call

    session.serve(work)


if __name__ == "__main__":
    main(**arguments())
