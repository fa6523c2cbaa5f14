"""`--library`: the runs through whose policies an agent acts."""

from __future__ import annotations

import numpy as np
import pytest

from jaxmeta.experiment import alarms, loading, runs
from tests.cli.test_collect import command, refused

TASKS = ["four-rooms", "--tasks.horizon", 4, "--tasks.goals", 3, 9]
FEW = ["--updates", 2, "--chunk", 2, "--eval-tasks", 0]
PPO = ["--algo.hidden", 4, "--algo.ppo.minibatches", 1, "--algo.ppo.epochs", 1]
LEAD = ["--algo.num-tasks", 2, "--algo.streams", 2, "--algo.rounds", 1, "--algo.duration", 2, "--algo.lead.steps", 1]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["lead-policy", *TASKS], "--library is missing; lead-policy acts through known policies (try --library"),
        (["lead-policy", *TASKS, "--library"], "--library is missing"),
        (["lead-policy", *TASKS, "--library", "y", "z"], "y is not a run folder"),
        (["ppo", *TASKS, "--library", "y"], "--library is y, but ppo does not use it; lead-policy does"),
        (["option-critic", *TASKS, "--algo.num-options", 1], "algo.num_options is 1; there must be at least 2"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(words, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert message in refused(capsys, "train", *words, "--out", "x")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_lead_policy_acts_through_a_run_of_ppo_and_the_tasks_of_a_multi_task_run(tmp_path, capsys):
    one, several, other, folder = (tmp_path / name for name in ("one", "several", "other", "lead"))
    assert command("train", "ppo", *TASKS, *PPO, *FEW, "--algo.num-tasks", 2, "--out", one) == 0
    few = ["--algo.visits", 1, "--algo.streams", 2]
    assert command("train", "multi-task", *TASKS, *PPO, *FEW, *few, "--out", several) == 0
    words = ["train", "lead-policy", *TASKS, *LEAD, "--updates", 2, "--chunk", 2, "--eval-tasks", 2]
    assert command(*words, "--library", one, several, "--out", folder) == 0
    config = runs.read_config(folder)
    assert config.library == (str(one), str(several)) and config.sources == {"library": [2, 2]}
    assert "use/option_3" in runs.read_metrics(folder)[-1]  # one policy of ppo, two of multi-task, and the new one
    assert loading.load(folder).step == 2
    more = ["train", "lead-policy", "four-rooms", "--out", folder, "--resume", "--updates", 3, "--eval-tasks", 0]
    assert "a resumed run cannot change it" in refused(capsys, *more, "--library", one)
    assert command(*more) == 0 and loading.load(folder).step == 3

    bandit = ["bandit", "--tasks.num-arms", 3, "--tasks.num-pulls", 4]
    assert command("train", "ppo", *bandit, *PPO, *FEW, "--algo.num-tasks", 2, "--out", other) == 0
    out = tmp_path / "x"
    assert "use runs on tasks of the same kind" in refused(
        capsys, "train", "lead-policy", *TASKS, *LEAD, *FEW, "--library", other, "--out", out
    )
    assert not out.exists()
    several.rename(tmp_path / "elsewhere")
    assert "library: " in refused(capsys, "evaluate", folder) and "several is not a run folder" in refused(
        capsys, "evaluate", folder
    )


class Stream:
    """Collects what is written."""

    def __init__(self):
        self.text = ""

    def write(self, text):
        self.text += text

    def flush(self):
        pass


def test_collapsed_options_are_named_once():
    stream = Stream()
    alarm = alarms.Alarms(stream)
    chunk = lambda length, share: {  # noqa: E731
        "use/length": np.array([length, length]), "use/option_0": np.array([share, share]),
        "use/option_1": np.array([1.0, 1.0]) - share, "return/last": np.array([0.0, 0.0]),
    }  # fmt: skip
    alarm(2, None, chunk(3.0, 0.6))
    assert not stream.text
    alarm(4, None, chunk(1.2, 0.6))
    assert "options last for 1.20 steps at update 4" in stream.text and "one option" not in stream.text
    alarm(6, None, chunk(1.1, 0.01))
    assert "use/option_1 is 0.99 at update 6: one option does all" in stream.text
    alarm(8, None, chunk(1.1, 0.99))
    assert stream.text.count("warning") == 2
