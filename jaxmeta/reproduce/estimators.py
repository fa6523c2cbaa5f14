"""Bias and variance of the meta-gradient's estimators on a small MDP: exact, by enumeration of all trials."""

from __future__ import annotations

from collections.abc import Iterator
from math import comb
from typing import Any

from jaxmeta.reproduce.base import Computed, Required, Row, Table
from jaxmeta.reproduce.statistics import named

NAMES = ("first-order", "log-prob", "ratio", "dice", "loaded-dice", "e-maml")
STREAMS = (1, 2, 4, 8)
STEP_SIZE = 2.0
POLICIES = 5
"""Number of tabular policies, with standard normal logits."""
OUTCOMES = 8
"""Possible trajectories of a stream: three steps of two actions."""
UNBIASED = {"e-maml": Required(most=1e-4)}
"""Zero up to the rounding of some ten thousand terms."""


def measure(name: str, num_streams: int) -> dict[str, float]:
    """Computes bias and standard deviation of an estimator, averaged over policies.

    Both are relative to the norm of the exact meta-gradient.
    """
    import jax

    from jaxmeta import outer
    from jaxmeta.references import meta_gradient

    all_streams, by = meta_gradient.small_mdp(), outer.META_GRADIENTS[name]

    @jax.jit
    def one(theta):
        return meta_gradient.quality(theta, STEP_SIZE, all_streams, by, num_streams)

    policies = jax.random.normal(jax.random.key(0), (POLICIES, 2, 2))
    each = [one(theta) for theta in policies]
    return {part: float(sum(getattr(quality, part) for quality in each)) / POLICIES for part in ("bias", "deviation")}


def draw(rows: list[dict[str, Any]], title: str, source: str) -> Any:
    """Draws deviation against bias, with one line per estimator over the numbers of streams."""
    from jaxmeta.viz import tables

    def value(num_streams: int, name: str, part: str) -> float | None:
        return next((row["ours"] for row in rows if row["name"] == f"{_run(num_streams, name)} {part}"), None)

    curves = {}
    for name in NAMES:
        there = [count for count in STREAMS if value(count, name, "bias") is not None]
        parts = [[value(count, name, part) for count in there] for part in ("bias", "deviation")]
        curves[name] = (there, *parts)
    return tables.bias_and_deviation(curves, title, source)


def _run(num_streams: int, name: str) -> str:
    return f"{num_streams}-stream{'s' if num_streams > 1 else ''}/{name}"


def _runs() -> Iterator[Computed]:
    for num_streams in STREAMS:
        for name in NAMES:
            rows = (
                Row(named("bias"), "bias", optimum=0.0, required=UNBIASED.get(name)),
                Row(named("deviation"), "deviation"),
            )
            arguments = {"name": name, "num_streams": num_streams}
            count = POLICIES * OUTCOMES * comb(OUTCOMES + num_streams - 1, num_streams)
            yield Computed(_run(num_streams, name), measure, arguments, count, rows=rows)


TABLE = Table(
    "estimators",
    title="Meta-gradients on a small MDP: bias and deviation, relative to the norm of the exact gradient",
    source="exact, by enumeration: two states, two actions, three steps, one adaptation; mean over five policies",
    runs=tuple(_runs()),
    quick=("1-stream",),
    draw=draw,
)
