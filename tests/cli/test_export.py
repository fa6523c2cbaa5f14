"""`jaxmeta export`, and `Run.agent`."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest

import jaxmeta as jm
from jaxmeta import cli, deploy
from tests import tiny

CONFIG = jm.RunConfig("rl2", "bandit", tiny.ALGOS["rl2"], jm.tasks.BanditConfig(num_arms=2, num_pulls=3))


def saved(folder, config):
    _, meta = config.build()
    jm.save_run(folder, config, jm.init_state(meta, jax.random.key(0)))
    return folder


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("bandit"), CONFIG)


def test_a_run_is_exported_for_all_platforms_and_acts_as_before(run_folder, tmp_path, capsys):
    out = tmp_path / "agent"
    assert cli.main(["export", str(run_folder), "--out", str(out), "--deterministic"]) == 0
    assert capsys.readouterr().out == f"{out}\n" and "cpu, cuda, tpu" in (out / "README.md").read_text()
    actions = []
    for agent in (deploy.load(out), jm.load(run_folder).agent(deterministic=True)):
        agent.reset(task_begins=True)
        obs = np.zeros(agent.form.observation[0][0])
        actions.append([int(agent.act(obs)), *(int(agent.act(obs, reward)) for reward in (1.0, 0.0, 1.0))])
    assert actions[0] == actions[1]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--out", "{run}"], "is not empty"),
        ([], "export needs --out DIR"),
        (["--out", "{new}", "--platforms", "cpu", "gpu"], "--platforms is gpu; choose of cpu, cuda, rocm, tpu"),
    ],
)
def test_bad_input_gives_one_line_and_writes_nothing(flags, words, run_folder, tmp_path, capsys):
    flags = [flag.format(run=run_folder, new=tmp_path / "agent") for flag in flags]
    assert cli.main(["export", str(run_folder), *flags]) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1 and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (dataclasses.replace(CONFIG, algo="maml", tasks="sinusoid", tasks_config=None, algo_config=None), "sinusoid"),
        (dataclasses.replace(CONFIG, algo="mil", tasks="point-robot", tasks_config=None, algo_config=None), "mil"),
    ],
)
def test_agents_that_take_no_steps_by_themselves_are_refused(config, words):
    from jaxmeta.experiment import loading

    with pytest.raises(ValueError, match=words):
        loading.require_deployable(config)
