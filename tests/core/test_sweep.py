"""Settings that are trained side by side: equal to training each by itself."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest

import jaxmeta as jm
from jaxmeta.viz import sweeps
from tests import tiny

FAMILY, CONFIG, KEY = tiny.family(), tiny.ALGOS["ppo"], jax.random.key(0)
RATES, DISCOUNTS = [1e-3, 1e-1], [0.5, 0.9]


@pytest.fixture(scope="module")
def found():
    seen = []

    def progress(done, rows):
        seen.append((done, rows["return/last"]))

    values = {"ppo.learning_rate": RATES, "discount": DISCOUNTS}
    result = jm.sweep(jm.ppo, FAMILY, CONFIG, values, KEY, 12, 2, progress)
    assert [done for done, _ in seen] == list(range(1, 13)) and seen[0][1].shape == (4, 2, 1)
    return result


def test_a_setting_equals_a_run_of_its_own(found):
    np.testing.assert_allclose(found.values["ppo.learning_rate"], [1e-3, 1e-3, 1e-1, 1e-1])
    np.testing.assert_allclose(found.values["discount"], [0.5, 0.9, 0.5, 0.9])
    meta = jm.ppo(FAMILY, found.setting(1))
    assert found.setting(1).ppo.learning_rate == 1e-3 and found.setting(1).discount == 0.9
    run = jm.train(meta, jm.init_state(meta, KEY, num_seeds=2), 12, chunk=12, num_seeds=2)
    for own, swept in zip(jax.tree.leaves(run.params), jax.tree.leaves(found.params), strict=True):
        np.testing.assert_allclose(swept[1], own, rtol=1e-3, atol=1e-4)
    assert not np.allclose(*(jax.tree.leaves(found.params)[0][index] for index in (0, 1)), atol=1e-4)


def test_the_best_setting_has_the_highest_mean_over_seeds(found):
    final = np.array([[1.0, 2.0], [4.0, 0.0], [2.0, 3.0], [np.nan, 9.0]])
    stored = dataclasses.replace(found, metrics={"return/last": np.repeat(final[..., None], 3, -1)})
    np.testing.assert_array_equal(stored.final(), final)
    assert stored.best() == 2
    with pytest.raises(ValueError, match="metric is 'return/lst'; did you mean 'return/last'"):
        stored.final("return/lst")


def test_the_picture_has_a_line_per_combination_of_the_other_fields(found):
    figure = sweeps.intervals(found)
    (axes,) = figure.axes
    assert axes.get_xscale() == "log" and axes.get_xlabel() == "ppo.learning_rate"
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["discount 0.5", "discount 0.9"]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "name at least one field"),
        ({"discount": []}, "with at least one value"),
        ({"discont": [0.9]}, "there is no field 'discont'; did you mean 'discount'"),
        ({"num_tasks": [4.0]}, "num_tasks is 4; only fields of real numbers"),
        ({"discount": [0.9, 1.5]}, "discount is 1.5"),
    ],
)
def test_what_cannot_be_swept_is_refused_before_anything_is_traced(values, message):
    def recipe(family, config):
        raise AssertionError("traced")

    with pytest.raises(ValueError, match=message):
        jm.sweep(recipe, FAMILY, CONFIG, values, KEY, 1)


def test_a_field_that_decides_the_program_is_named():
    def recipe(family, config):
        return jm.ppo(family, config) if config.discount > 0.5 else None

    with pytest.raises(ValueError, match="discount decides what the program is"):
        jm.sweep(recipe, FAMILY, CONFIG, {"ppo.clip": [0.1], "discount": [0.9]}, KEY, 1)
