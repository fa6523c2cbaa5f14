"""Ranges of parameters, and what is said where a library is missing."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from jaxmeta.config import extras
from jaxmeta.tasks.adapters import ranges


def test_values_lie_in_their_ranges_and_differ():
    given = ranges.parse(("length=0.25:1.5", "gravity=-3:-1"), ("gravity", "length", "mass"))
    drawn = jax.vmap(lambda key: ranges.sample(given, key))(jax.random.split(jax.random.key(0), 1000))
    assert set(drawn) == {"length", "gravity"}
    for one in given:
        values = np.asarray(drawn[one.name])
        assert one.low <= values.min() < one.low + 0.05 * (one.high - one.low)
        assert one.high >= values.max() > one.high - 0.05 * (one.high - one.low)
    assert abs(np.corrcoef(drawn["length"], drawn["gravity"])[0, 1]) < 0.1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("length", "a range is NAME=LOW:HIGH"),
        ("length=1", "a range is NAME=LOW:HIGH"),
        ("lenght=0:1", "did you mean 'length'?"),
        ("length=2:1", "LOW must not exceed HIGH"),
        ("length=nan:1", "LOW must not exceed HIGH"),
    ],
)
def test_invalid_ranges_are_refused(text, message):
    with pytest.raises(ValueError, match="tasks.vary has .*" + message):
        ranges.parse((text,), ("length", "mass"))


def test_a_parameter_has_one_range():
    with pytest.raises(ValueError, match="'mass' twice"):
        ranges.parse(("mass=0:1", "mass=1:2"), ("mass",))


def test_a_missing_library_names_the_command_that_installs_it():
    with pytest.raises(extras.MissingExtraError, match=r'pip install "jaxmeta\[gymnax\]" installs it'):
        extras.load("no_such_library", "gymnax")
