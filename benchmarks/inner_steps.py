"""Memory and time of a meta-gradient through many inner steps, by method of differentiation.

    python -m benchmarks.inner_steps [--json]

A perceptron with two hidden layers takes 1 to 64 gradient steps on a sine wave. Memory is the temporary memory of the
compiled program; gradients are compared with those of plain reverse mode. Implicit adaptation has a proximal term, so
it is compared with plain reverse mode through steps with the same proximal term: the remaining difference is due to
incomplete convergence.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tyro
from jax.flatten_util import ravel_pytree

from benchmarks.record import publish
from benchmarks.turns import take_turns
from jaxmeta import devices, inner, nets, outer, tasks
from jaxmeta.core.learner import Learner
from jaxmeta.experiment.provenance import provenance

HELD = "proximal"
"""Reference of implicit gradients; it is not timed."""


@dataclasses.dataclass(frozen=True)
class InnerStepsBenchmark:
    """Sizes of the measurement."""

    steps: tuple[int, ...] = (1, 4, 16, 64)
    """Inner steps."""
    widths: tuple[int, ...] = (64, 512)
    """Widths of the two hidden layers."""
    examples: int = 512
    """Examples in the support set, all used in every step, and in the query set."""
    inner_lr: float = 0.003
    """Learning rate of the inner steps."""
    truncation: int = 4
    """Inner steps that truncated meta-gradients are backpropagated through."""
    strength: float = 100.0
    """λ, the weight of the proximal term."""
    repeats: int = 5
    """Timed runs; the median is reported."""
    json: bool = False
    """Print one JSON object and nothing else."""
    out: Path | None = None
    """Also write the JSON to this file."""


def ways(width: int, steps: int, config: InnerStepsBenchmark) -> dict[str, tuple[Learner, int, int | None]]:
    """Builds the agent for every method of differentiation, with its rounds and its truncation."""
    env: Any = _family(config).env
    network = nets.perceptron(env.size, env.outputs, (width, width), "tanh")
    policy, loss = inner.predictor(network, env.split), inner.support_loss(network, env.split, env.loss)
    sgd = inner.sgd(config.inner_lr)
    plain = inner.descent(policy, loss, sgd)
    return {
        "plain": (plain, steps, None),
        "rematerialised": (inner.rematerialised(plain), steps, None),
        "mixed": (inner.descent(policy, loss, sgd, differentiate=inner.mixed_mode), steps, None),
        "truncated": (plain, steps, config.truncation),
        "implicit": (inner.implicit(policy, loss, sgd, steps, config.strength), 1, None),
        HELD: (inner.descent(policy, loss, inner.proximal_term(sgd, config.strength)), steps, None),
    }


def measure(config: InnerStepsBenchmark) -> dict[str, Any]:
    """Compiles and times every method at every size; returns the record that is printed."""
    return {
        "table": [_measure_size(width, steps, config) for width in config.widths for steps in config.steps],
        "sizes": {
            name: value for name, value in dataclasses.asdict(config).items() if name not in ("json", "out", "repeats")
        },
    } | provenance()


def _measure_size(width: int, steps: int, config: InnerStepsBenchmark) -> dict[str, Any]:
    family = _family(config)
    task = family.sample(jax.random.key(1))
    programs: dict[str, Callable[[], Any]] = {}
    row: dict[str, Any] = {"width": width, "steps": steps}
    gradients = {}
    for name, (learner, rounds, truncation) in ways(width, steps, config).items():
        params = jax.jit(learner.init)(jax.random.key(0))
        loss = outer.query_loss(learner, family.env, rounds, truncation)
        arguments = (params, task, jax.random.key(2))
        compiled = jax.jit(jax.grad(loss, has_aux=True)).lower(*arguments).compile()
        memory = compiled.memory_analysis()
        assert memory is not None, "this backend does not report the memory of programs"
        gradients[name] = np.asarray(ravel_pytree(compiled(*arguments)[0].policy)[0])
        if name == HELD:
            continue
        row[name] = {"temp_bytes": memory.temp_size_in_bytes}
        programs[name] = lambda compiled=compiled, arguments=arguments: jax.block_until_ready(compiled(*arguments))
    seconds = take_turns(programs, config.repeats)
    for name, turns in seconds.items():
        reference = gradients[HELD if name == "implicit" else "plain"]
        difference = np.linalg.norm(gradients[name] - reference)
        row[name] |= {
            "s": statistics.median(turns),
            "time_over_plain": statistics.median(np.array(turns) / np.array(seconds["plain"])),
            "memory_over_plain": row[name]["temp_bytes"] / row["plain"]["temp_bytes"],
            "gradient_error": float(difference / np.linalg.norm(reference)),
            "repeats_s": turns,
        }
    return row


def _family(config: InnerStepsBenchmark) -> tasks.TaskFamily:
    return tasks.sinusoid(tasks.SinusoidConfig(shots=config.examples, queries=config.examples))


def main(argv: list[str] | None = None) -> None:
    config = tyro.cli(InnerStepsBenchmark, args=argv, description=__doc__)
    devices.use_cpu_cores()
    record = measure(config)
    if publish(record, config.out, config.json):
        return
    print(f"{'width':>5} {'steps':>5}  {'':14} {'MB':>9} {'/ plain':>8} {'ms':>9} {'/ plain':>8} {'error':>9}")
    for row in record["table"]:
        for name, one in row.items():
            if isinstance(one, dict):
                megabytes, milliseconds = one["temp_bytes"] / 1e6, one["s"] * 1e3
                sizes = f"{megabytes:9.2f} {one['memory_over_plain']:8.3f} {milliseconds:9.2f}"
                ratio = f"{one['time_over_plain']:8.2f} {one['gradient_error']:9.1e}"
                print(f"{row['width']:5} {row['steps']:5}  {name:14} {sizes} {ratio}")


if __name__ == "__main__":
    main()
