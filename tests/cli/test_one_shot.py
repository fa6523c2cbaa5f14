"""A run of `mil`: its evaluations let the expert demonstrate, and it is refused where nobody can."""

from __future__ import annotations

import json

import jax
import numpy as np
import pytest

from jaxmeta import cli, outer
from jaxmeta.experiment import loading, runs
from tests.built_once import remembering
from tests.cli.test_collect import command, refused

TINY = ["--algo.num-tasks", 2, "--algo.hidden", 4, "--updates", 2, "--chunk", 2]
TASKS = ["navigation", "--tasks.horizon", 3]
built_once = pytest.fixture(scope="module", autouse=True)(remembering)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "mil"
    assert command("train", "mil", *TASKS, *TINY, "--eval-tasks", 3, "--out", folder) == 0
    return folder


def test_the_planner_acts_in_round_0_of_an_evaluation(folder, capsys):
    capsys.readouterr()
    assert command("evaluate", folder, "--num-tasks", 3, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    means = [episodes[0]["mean"] for episodes in found["returns"]]
    assert len(means) == 2 and means[0] > means[1] and found["demonstrated"]
    assert command("evaluate", folder, "--num-tasks", 3) == 0
    assert "demonstration" in capsys.readouterr().out
    at_the_end = runs.read_evaluation(folder)
    assert at_the_end is not None and np.shape(at_the_end["returns"]) == (2, 1)


def test_a_run_demonstrates_instead_of_the_planner(folder, capsys):
    expert, student = folder.with_name("expert"), folder.with_name("student")
    linear = ["--algo.student.network", "perceptron", "--algo.student.perceptron.hidden", "--algo.num-tasks", 2]
    quick = ["--updates", 2, "--chunk", 2, "--eval-tasks", 0]
    assert command("train", "clone", *TASKS, "--reveal", *linear, *quick, "--out", expert) == 0
    assert command("train", "mil", *TASKS, *TINY, "--eval-tasks", 0, "--expert", expert, "--out", student) == 0
    config = runs.read_config(student)
    assert config.expert == str(expert) and config.sources == {"expert": 2} and not config.reveal
    shown = []
    for agent in (student, folder):
        capsys.readouterr()
        assert command("evaluate", agent, "--num-tasks", 3, "--json") == 0
        shown.append(json.loads(capsys.readouterr().out)["returns"][0][0]["mean"])
    assert shown[0] < shown[1]  # after two updates the expert is worse than the planner

    # what the expert does on the same tasks, its actions sampled, as in the demonstration
    trained = loading.load(student)
    demonstrator = loading.expert(expert, trained.family)
    assert demonstrator.observe is not None
    loaded = loading.demonstrator(trained.config, trained.family, trained.meta.plan)
    task = trained.family.sample_test(jax.random.key(0))
    own = outer.demonstrator(demonstrator, trained.family.env, trained.meta.plan)
    one, other = (demonstrate(task, jax.random.key(1)).action for demonstrate in (loaded, own))
    np.testing.assert_array_equal(one, other)


def test_without_a_round_nobody_demonstrates_and_later_rounds_are_refused(folder, capsys):
    assert command("evaluate", folder, "--num-tasks", 3, "--rounds", 0) == 0
    assert "--rounds is 2, but mil adapts to the demonstration in round 0 only" in refused(
        capsys, "evaluate", folder, "--rounds", 2
    )


@pytest.mark.parametrize("data", [False, True])
def test_without_a_planner_an_expert_is_needed(data, capsys, tmp_path):
    out = tmp_path / "x"
    words = ["train", "mil", "pendulum", *TINY, "--out", out]
    if data:
        file = tmp_path / "some.npz"
        assert (
            cli.main(["collect", "behaviour", "pendulum", "--out", str(file), "--num-tasks", "1", "--streams", "2"])
            == 0
        )
        words += ["--demonstrations", file]
    assert "has no planner (try --expert runs/oracle)" in refused(capsys, *words)
    assert not out.exists()


def test_a_single_demonstration_of_each_task_is_refused(capsys, tmp_path):
    file, out = tmp_path / "one.npz", tmp_path / "x"
    assert command("collect", "planner", *TASKS, "--out", file, "--num-tasks", 2, "--streams", 1) == 0
    message = refused(capsys, "train", "mil", *TASKS, *TINY, "--demonstrations", file, "--out", out)
    assert "needs 2 (try jaxmeta collect --streams 2)" in message
