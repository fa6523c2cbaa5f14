"""`jaxmeta collect`, and training from what it writes or from another run."""

from __future__ import annotations

import json

import jax
import numpy as np
import pytest

import jaxmeta as jm
from jaxmeta import cli
from jaxmeta.core.demonstrations import checksum
from jaxmeta.experiment import loading, runs

TASKS = ["bandit", "--tasks.num-arms", "3", "--tasks.num-pulls", "4"]
STUDENT = ["--algo.student.network", "perceptron", "--algo.student.perceptron.hidden", "4", "--algo.num-tasks", "2"]
FEW = ["--updates", "2", "--chunk", "2", "--eval-tasks", "0"]


def command(*words) -> int:
    return cli.main([str(word) for word in words])


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """Demonstrations of the planner on 5 bandits."""
    path = tmp_path_factory.mktemp("data") / "best.npz"
    assert command("collect", "planner", *TASKS, "--out", path, "--num-tasks", 5, "--streams", 2) == 0
    return path


@pytest.fixture(scope="module")
def cloned(file):
    folder = file.with_name("clone")
    assert command("train", "clone", *TASKS, *STUDENT, *FEW, "--demonstrations", file, "--out", folder) == 0
    return folder


def refused(capsys, *words) -> str:
    capsys.readouterr()
    assert command(*words) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    return line


def test_demonstrations_are_those_of_the_expert(file):
    family = jm.tasks.bandit(jm.tasks.BanditConfig(num_arms=3, num_pulls=4))
    found = jm.Demonstrations.load(file, family.env.spec)
    assert (found.num_tasks, found.streams, found.episodes, found.family) == (5, 2, 4, "bandit")
    action = np.asarray(found.rollouts.action)
    assert (action == action[:, :1, :1]).all()  # the best arm of each bandit, at every pull


def test_the_report_is_json_and_a_file_is_not_replaced(file, capsys):
    out = file.with_name("teacher.npz")
    assert command("collect", "teacher", *TASKS, "--out", out, "--num-tasks", 3, "--episodes", 2, "--json") == 0
    about = json.loads(capsys.readouterr().out)
    assert (about["num_tasks"], about["episodes"], about["env_steps"]) == (3, 2, 6)
    assert about["sha256"] == checksum(out)
    assert "exists; demonstrations never replace a file" in refused(
        capsys, "collect", "teacher", *TASKS, "--out", out, "--num-tasks", 3
    )


def test_a_run_records_its_demonstrations_and_resumes_with_the_same(file, cloned, capsys):
    config = runs.read_config(cloned)
    assert config.demonstrations == str(file) and len(config.sources["demonstrations"]) == 64
    records = runs.read_metrics(cloned)
    assert records[-1]["nll"] > 0 and "return/last" not in records[-1]
    content = file.read_bytes()
    try:
        file.write_bytes(content[:-1])
        resumed = ["train", "clone", "bandit", "--out", cloned, "--resume", "--updates", 3]
        assert "is truncated" in refused(capsys, *resumed)
        file.unlink()
        assert loading.load(cloned).step == 2  # the student does not need them any more
    finally:
        file.write_bytes(content)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["collect", "planer", "bandit", "--out", "x.npz"], "no expert 'planer'; did you mean 'planner'?"),
        (["collect", "planner", "bandit"], "--out is missing"),
        (["collect", "planner", "sinusoid", "--out", "x.npz"], "supervised tasks, on which nobody acts"),
        (["collect", "planner", "bandit", "--out", "no/x.npz"], "the folder no does not exist"),
        (["collect", "planner", "cart-pole", "--out", "x.npz"], "no planner for CartPole"),
        (["collect", "teacher", "navigation", "--out", "x.npz"], "no classical learning algorithm"),
        (
            ["train", "rl2", "bandit", "--out", "x", "--demonstrations", "x.npz"],
            "rl2 does not use it; clone",
        ),
        (["train", "clone", "bandit", "--out", "x", "--demonstrations", "x.npz"], "x.npz cannot be read"),
        (["train", "dagger", "bandit", "--out", "x", "--expert", "y"], "y is not a run folder"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(words, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert message in refused(capsys, *words)
    assert not list(tmp_path.iterdir())


def test_demonstrations_of_other_tasks_are_refused(file, capsys, tmp_path):
    words = ["train", "clone", "bandit", "--tasks.num-arms", 4, *STUDENT, *FEW, "--out", tmp_path / "x"]
    assert "spec.action is" in refused(capsys, *words, "--demonstrations", file)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_run_with_a_revealed_task_is_an_expert_for_a_student_without(file, tmp_path, capsys):
    oracle, folder = tmp_path / "oracle", tmp_path / "dagger"
    ppo = ["--algo.num-tasks", 4, "--algo.streams", 1, "--algo.hidden", 4]
    assert command("train", "ppo", *TASKS, *ppo, *FEW, "--reveal", "--out", oracle) == 0
    student = [*STUDENT, "--algo.episodes", 4, "--algo.imitation.steps", 2]
    assert command("train", "dagger", *TASKS, *student, *FEW, "--expert", oracle, "--out", folder) == 0
    config = runs.read_config(folder)
    assert config.expert == str(oracle) and config.sources == {"expert": 2} and not config.reveal
    assert loading.load(folder).family.env.spec.observation == (1,)
    oracle.rename(tmp_path / "elsewhere")
    assert loading.load(folder).step == 2
    assert "is not a run folder" in refused(
        capsys, "train", "dagger", "bandit", "--out", folder, "--resume", "--updates", 3
    )
    out = tmp_path / "run.npz"
    assert command("collect", tmp_path / "elsewhere", *TASKS, "--out", out, "--num-tasks", 2) == 0
    assert jax.tree.leaves(jm.Demonstrations.load(out, loading.load(folder).family.env.spec))
