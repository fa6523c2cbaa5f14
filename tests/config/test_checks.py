"""Fields of configs: of the declared type, in range, and free to be traced."""

from __future__ import annotations

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxmeta as jm
from jaxmeta import outer, tasks
from jaxmeta.config import checks
from jaxmeta.experiment import registry
from tests import tiny


@dataclasses.dataclass(frozen=True)
class Config:
    """A field of every type."""

    rate: float = 0.1
    bound: float | None = None
    count: int = 1
    flag: bool = False
    widths: tuple[int, ...] = (8,)
    kind: Literal["a", "b"] = "a"
    choice: Literal["a"] | None = None
    nested: outer.ReptileConfig = outer.ReptileConfig()

    def __post_init__(self):
        checks.finite(self)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rate": "0.1"}, "rate is '0.1'; it must be a number"),
        ({"rate": None}, "rate is None; it must be a number"),
        ({"rate": True}, "rate is True; it must be a number"),
        ({"rate": jnp.ones(2)}, "rate is .*; it must be a number"),
        ({"bound": "none"}, "bound is 'none'; it must be a number or None"),
        ({"count": 2.0}, "count is 2.0; it must be an integer"),
        ({"count": True}, "count is True; it must be an integer"),
        ({"flag": "yes"}, "flag is 'yes'; it must be True or False"),
        ({"widths": 64}, r"widths is 64; it must be a tuple of integers \(try \(64,\)\)"),
        ({"widths": (8, 8.0)}, r"widths is \(8, 8.0\); it must be a tuple of integers"),
        ({"kind": 1}, "kind is 1; it must be one of a, b"),
        ({"choice": 1}, "choice is 1; it must be one of a or None"),
        ({"nested": 0.1}, "nested is 0.1; it must be a ReptileConfig"),
    ],
)
def test_a_field_of_another_type_is_one_line(changes, message):
    with pytest.raises(TypeError, match=message) as found:
        Config(**changes)
    assert "\n" not in str(found.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"rate": 1, "bound": np.float32(0.5), "count": np.int64(3), "flag": np.bool_(True)},
        {"widths": (), "choice": "a"},
        {"widths": [8, 8], "rate": jnp.float32(0.1)},
    ],
)
def test_a_field_may_be_of_any_type_that_stands_for_the_declared_one(changes):
    Config(**changes)


@pytest.mark.parametrize("value", [float("nan"), np.float32("inf"), jnp.inf])
def test_a_number_is_finite(value):
    with pytest.raises(ValueError, match="rate is (nan|inf); it must be finite"):
        Config(rate=value)


CONFIGS = {
    entry.config: entry.load()[1]
    for entries in (registry.ALGOS, registry.SUPERVISED_ALGOS, registry.TASKS)
    for entry in entries.values()
}


@pytest.mark.parametrize("name", CONFIGS)
def test_every_config_checks_the_types_of_its_fields(name):
    config = CONFIGS[name]
    for field in dataclasses.fields(config):
        with pytest.raises((TypeError, ValueError), match=rf"{field.name} is .*; it must be"):
            config(**{field.name: object()})


def test_a_family_names_the_field_that_is_wrong():
    with pytest.raises(TypeError, match="tasks.horizon is 10.0; it must be an integer"):
        tasks.NavigationConfig(horizon=10.0)  # pyright: ignore[reportArgumentType]


def test_a_recipe_is_vmapped_over_a_step_size():
    family = tiny.family()
    build = lambda rate: jm.maml(family, dataclasses.replace(tiny.VARIANTS["maml-vpg"][1], inner_lr=rate))  # noqa: E731
    state = build(0.1).init(jax.random.key(0))

    def updated(rate):
        return build(rate).update(state)[1]["return/last"]

    rates = jnp.array([0.0, 0.5])
    together = jax.jit(jax.vmap(updated))(rates)
    alone = jnp.stack([jax.jit(updated)(rate) for rate in rates])
    assert together[0] != together[1]
    np.testing.assert_allclose(together, alone, rtol=1e-4)
