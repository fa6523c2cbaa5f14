"""How fast meta-updates could be at most: if they consisted of their matrix products alone.

    python -m benchmarks.products [--json]

The products of an update are counted, and divided by the rate at which JAX multiplies matrices of 300 columns here, in
float32 and on all cores. A library that computes the same products at that rate cannot be faster. The works are those
of `benchmarks.peers`; `benchmarks.off_policy` does the same for PEARL.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from pathlib import Path
from typing import Any

import jax
import tyro

import jaxmeta as jm
from benchmarks import few_shot, off_policy
from benchmarks.peers.rows import ROWS
from benchmarks.record import publish
from benchmarks.turns import take_turns
from jaxmeta import devices
from jaxmeta.experiment.provenance import provenance


@dataclasses.dataclass(frozen=True)
class ProductsBenchmark:
    """Output of the measurement."""

    devices: int | None = None
    """CPU devices; by default one per core."""
    repeats: int = 5
    """Timed turns of the products; the median is reported."""
    json: bool = False
    """Print one JSON object and nothing else."""
    out: Path | None = None
    """Also write the JSON to this file."""


def product_flop(program: Any) -> int:
    """Counts the operations of the matrix products in a program, a jaxpr: two per product of numbers.

    A scan counts as often as it is repeated, a conditional as its most expensive branch, and a loop of unknown length,
    such as a line search, once.
    """
    total = 0
    for step in program.eqns:
        if step.primitive.name == "dot_general":
            (contracted, _), _ = step.params["dimension_numbers"]
            inner = math.prod(step.invars[0].aval.shape[axis] for axis in contracted)
            total += 2 * inner * math.prod(step.outvars[0].aval.shape)
        parts = [product_flop(one) for one in devices.inner_programs(step)]
        repeats = step.params["length"] if step.primitive.name == "scan" else 1
        total += repeats * (max(parts, default=0) if step.primitive.name == "cond" else sum(parts))
    return total


def works() -> dict[str, tuple[jm.MetaLearner, int]]:
    """Returns the works by name: the meta-learner, and units per update as `benchmarks.peers` counts them."""
    sizes = ROWS["maml-navigation"].sizes
    navigation = jm.tasks.navigation(jm.tasks.NavigationConfig(horizon=sizes["horizon"]))
    config = jm.MAMLConfig(num_tasks=sizes["num_tasks"], streams=sizes["streams"], hidden=tuple(sizes["hidden"]))
    steps = 2 * sizes["num_tasks"] * sizes["streams"] * sizes["horizon"]
    waves = {f"sinusoid-{count}": (few_shot.second_order(count), count) for count in (25, 1024)}
    return waves | {"maml-navigation": (jm.maml(navigation, config), steps)}


def measure(config: ProductsBenchmark) -> dict[str, Any]:
    """Measures the rate of products and counts those of the works; returns the record that is printed."""
    products = off_policy.OffPolicyBenchmark(gradient_steps=2)
    mesh = jm.Execution().mesh(products.meta_batch)
    seconds = take_turns({"products": off_policy.bare_products(products, mesh)}, config.repeats)["products"]
    rate = off_policy.products_flop(products) / statistics.median(seconds)
    rows = {}
    for name, (meta, units) in works().items():
        state = jax.eval_shape(meta.init, jax.random.key(0))
        flop = product_flop(jax.make_jaxpr(meta.update)(state).jaxpr)
        unit = ROWS[name].unit
        rows[name] = {"flop_per_update": flop, "unit": unit, "units": units, "most_per_s": units * rate / flop}
    return {"flop_per_s": rate, "repeats_s": seconds, "num_devices": mesh.size, "rows": rows} | provenance()


def main(argv: list[str] | None = None) -> None:
    config = tyro.cli(ProductsBenchmark, args=argv, description=__doc__)
    devices.use_cpu_cores(config.devices)
    record = measure(config)
    if publish(record, config.out, config.json):
        return
    print(f"matrix products: {record['flop_per_s'] / 1e9:.0f} GFLOP/s on {record['num_devices']} devices")
    for name, row in record["rows"].items():
        most, flop = f"{row['most_per_s']:,.0f} {row['unit']} per second", row["flop_per_update"] / 1e9
        print(f"{name}: {flop:.3f} GFLOP in the products of an update, so at most {most}")


if __name__ == "__main__":
    main()
