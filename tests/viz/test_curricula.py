"""The picture of what a curriculum chose."""

from __future__ import annotations

import numpy as np

from jaxmeta.viz import curricula


def records(count=5):
    """A log in which the scores of known tasks grow, for a family with two numbers per task."""
    names = [*curricula.SCORES, "sampler/score", "sampler/score_of_new", "sampler/score_of_replayed"]
    numbers = {f"sampler/task_{number}_{name}": 0.1 for number in range(2) for name in ("q10", "median", "q90")}
    return [
        {"update": one, "env_steps": 10.0 * one} | {name: float(one) for name in names} | numbers
        for one in range(1, count + 1)
    ]


def test_the_picture_has_scores_and_a_panel_per_number(tmp_path):
    figure = curricula.curriculum(records(), "ppo on walks")
    scores, *tasks = figure.axes
    assert len(tasks) == 2 and len(scores.lines) == 3
    np.testing.assert_allclose(scores.lines[0].get_xdata(), [10, 20, 30, 40, 50])
    np.testing.assert_allclose(scores.lines[0].get_ydata(), [1, 2, 3, 4, 5])
    evaluation = {"algo": "ppo", "tasks": "walks"}
    (file,) = curricula.draw(tmp_path, records(), evaluation)
    assert file.read_bytes()[:4] == b"\x89PNG"
    assert curricula.draw(tmp_path, [{"update": 1, "env_steps": 1.0}], evaluation) == []
