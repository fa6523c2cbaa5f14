"""Runs that are trained in Python and used from the command line."""

from __future__ import annotations

import dataclasses
import json

import chex
import jax
import pytest

import jaxmeta as jm
from jaxmeta import cli
from jaxmeta.core.checkpoint import keys_as_data
from jaxmeta.experiment import locks, runs
from tests import tiny
from tests.built_once import remembering

CONFIG = jm.RunConfig("ppo", "bandit", tiny.ALGOS["ppo"], jm.tasks.BanditConfig(num_arms=2, num_pulls=2), seed=3)

built_once = pytest.fixture(scope="module", autouse=True)(remembering)


def train(config, updates, folder=None, state=None):
    _, meta = config.build()
    num_seeds = config.num_seeds if config.num_seeds > 1 else None
    if state is None:
        state = jm.init_state(meta, jax.random.key(config.seed), num_seeds)
    callbacks = [jm.JsonLines(folder)] if folder else []
    return jm.train(meta, state, updates, num_seeds=num_seeds, callbacks=callbacks)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "python"
    state = train(CONFIG, 2, folder)
    jm.save_run(folder, CONFIG, state)
    return folder, state


def test_a_saved_run_is_loaded_evaluated_and_plotted(saved, capsys):
    folder, state = saved
    chex.assert_trees_all_equal(keys_as_data(jm.load(folder).state), keys_as_data(state))
    assert cli.main(["evaluate", str(folder), "--num-tasks", "3", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["algo"], result["tasks"], result["step"]) == ("ppo", "bandit", 2)
    assert cli.main(["plot", str(folder)]) == 0
    assert (folder / "learning.png").is_file()
    config = runs.read_config(folder)
    assert (config.updates, config.seed, config.versions["jaxmeta"]) == (2, 3, jm.__version__)


def test_a_saved_run_is_resumed_as_if_the_command_line_had_begun_it(saved, tmp_path):
    flags = ["--tasks.num-arms", "2", "--tasks.num-pulls", "2", "--algo.num-tasks", "4", "--algo.streams", "2"]
    flags += ["--algo.hidden", "8", "--algo.ppo.epochs", "2", "--algo.ppo.minibatches", "2", "--seed", "3"]
    flags += ["--algo.ppo.value-weight", "0.5", "--algo.ppo.entropy-weight", "0.01"]
    whole = ["train", "ppo", "bandit", "--out", str(tmp_path / "whole"), "--updates", "3", "--eval-tasks", "0"]
    assert cli.main([*whole, *flags]) == 0
    resumed = tmp_path / "resumed"
    jm.save_run(resumed, CONFIG, saved[1])
    resume = ["train", "ppo", "bandit", "--out", str(resumed), "--resume", "--updates", "3", "--eval-tasks", "0"]
    assert cli.main(resume) == 0
    one, two = (keys_as_data(jm.load(folder).state) for folder in (tmp_path / "whole", resumed))
    chex.assert_trees_all_close(*map(jax.device_get, (one, two)), rtol=1e-5, atol=1e-6)


def test_a_run_can_be_saved_as_it_goes_on_and_with_several_seeds(tmp_path):
    config = dataclasses.replace(CONFIG, num_seeds=2)
    state = train(config, 1)
    jm.save_run(tmp_path, config, state)
    jm.save_run(tmp_path, config, state)  # the same again is nothing new
    later = train(config, 2, state=state)
    jm.save_run(tmp_path, config, later)
    run = jm.load(tmp_path)
    assert (run.step, run.config.updates) == (2, 2)
    assert jm.load(tmp_path, 1).step == 1
    chex.assert_trees_all_equal(run.params, later.params)


def test_saving_refuses_another_runs_config_or_state(saved, tmp_path):
    folder, state = saved
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.name != locks.LOCK}
    with pytest.raises(runs.RunError, match=r"^seed is 4, but the run in .* has 3; choose another folder"):
        jm.save_run(folder, dataclasses.replace(CONFIG, seed=4), state)
    with pytest.raises(runs.RunError, match="tasks_config.num_pulls is 3, but the run in"):
        jm.save_run(folder, dataclasses.replace(CONFIG, tasks_config=jm.tasks.BanditConfig(2, 3)), state)
    with pytest.raises(runs.RunError, match="already has a checkpoint of update 2, but not this state of"):
        jm.save_run(folder, CONFIG, train(CONFIG, 1))
    with pytest.raises(runs.RunError, match=r"state.params.* of shape .*, but config gives"):
        wide = dataclasses.replace(CONFIG.algo_config, hidden=(9,))
        jm.save_run(tmp_path / "new", dataclasses.replace(CONFIG, algo_config=wide), state)
    with pytest.raises(runs.RunError, match="algo: no algorithm 'pppo'; did you mean 'ppo'"):
        jm.save_run(tmp_path / "new", dataclasses.replace(CONFIG, algo="pppo"), state)
    with locks.locked(folder), pytest.raises(runs.RunError, match="is being written by another process"):
        jm.save_run(folder, CONFIG, state)
    after = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.name != locks.LOCK}
    assert after == before and not (tmp_path / "new").exists()
