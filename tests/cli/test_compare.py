"""`jaxmeta compare`: logs of several runs side by side."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

import jaxmeta as jm
from jaxmeta import cli
from jaxmeta.experiment import histories, runs
from jaxmeta.viz import comparison

CONFIG = jm.RunConfig("ppo", "bandit", jm.PPOConfig(num_tasks=4), jm.tasks.BanditConfig(num_arms=2, num_pulls=2))


def logged(folder, config, returns, steps=100):
    """Writes a run that was logged but has no checkpoint: a return per seed and update, [updates, seeds]."""
    folder.mkdir()
    runs.write_config(folder, config)
    lines = []
    for update, values in enumerate(returns, 1):
        line = {"update": update, "env_steps": steps * update, "seconds": 2.0 * update}
        line["return/last"] = float(np.mean(values))
        if len(values) > 1:
            line["seeds"] = {"return/last": list(values)}
        lines.append(json.dumps(line) + "\n")
    (folder / runs.METRICS).write_text("".join(lines))
    return folder


@pytest.fixture
def folders(tmp_path):
    other = dataclasses.replace(CONFIG, algo_config=jm.PPOConfig(num_tasks=8))
    return [
        logged(tmp_path / "one", CONFIG, [[1.0], [2.0], [3.0]]),
        logged(tmp_path / "two", dataclasses.replace(CONFIG, seed=1), [[1.0], [4.0]]),
        logged(tmp_path / "wide", dataclasses.replace(other, num_seeds=2), [[0.0, 2.0], [4.0, 6.0]], steps=200),
    ]


def test_runs_that_differ_in_the_seed_alone_are_one_curve(folders):
    both, wide = histories.read(folders)
    np.testing.assert_allclose(both.values, [[1, 2], [1, 4]])  # cut where the shorter one ends
    assert (both.name, wide.name) == ("one and 1 more", "wide")
    np.testing.assert_allclose(wide.position["env_steps"], [200, 400])
    reached = both.summary()
    assert reached["seeds"] == 2 and reached["held_out"] is None
    # the quantile of t with one degree of freedom is 12.706
    np.testing.assert_allclose(reached["training"]["ci95"], [3 - 12.706, 3 + 12.706], rtol=1e-4)
    assert (
        len(histories.read(folders[:1])) == 1 and histories.read(folders[:1])[0].summary()["training"]["ci95"] is None
    )


def test_the_picture_has_a_line_and_a_band_per_agent(folders):
    figure = comparison.learning(histories.read(folders), "return/last")
    steps, seconds = figure.axes
    for axes, ends in ((steps, [200, 400]), (seconds, [4, 4])):
        assert [line.get_xdata()[-1] for line in axes.lines] == ends and len(axes.collections) == 2
    assert [line.get_label() for line in steps.lines] == ["one and 1 more (2 seeds)", "wide (2 seeds)"]


def test_the_command_draws_and_prints(folders, tmp_path, capsys):
    picture = tmp_path / "both.png"
    words = ["compare", *map(str, folders), "--out", str(picture)]
    assert cli.main(words) == 0 and picture.exists() and "picture:" in capsys.readouterr().out
    assert cli.main([*words, "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert [one["training"]["mean"] for one in printed["agents"]] == [3.0, 5.0]


def test_names_are_whole_in_a_narrow_terminal(folders, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    for folder in folders:
        summary = {"mean": -12.375, "stderr": 1.0, "iqm": -12.0, "ci95": [-15.35, -11.65]}
        (folder / runs.EVALUATION).write_text(json.dumps({"returns": [[summary]], "num_seeds": 1, "step": 3}))
    assert cli.main(["compare", *map(str, folders), "--out", str(tmp_path / "both.png")]) == 0
    assert "one and 1 more" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ([], "compare needs the folders of runs first"),
        (["{one}", "--metric", "loss"], "has no 'loss'; it has return/last"),
        (["{one}/nowhere"], "nowhere"),
        (["{one}", "--out", "{one}/config.json"], "was not drawn by jaxmeta"),
    ],
)
def test_bad_input_gives_one_line_and_draws_nothing(flags, words, folders, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["compare", *(flag.format(one=folders[0]) for flag in flags)]) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1 and not list(tmp_path.glob("*.png"))
