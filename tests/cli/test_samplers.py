"""`--sampler`: its flags, the run folder, and what is refused."""

from __future__ import annotations

import json
import typing

import pytest

import jaxmeta as jm
from jaxmeta import cli, outer
from jaxmeta.cli import listing, parsing, train
from jaxmeta.config import codec
from jaxmeta.experiment import registry, runs
from tests import tiny

SMALL = ["ppo", "navigation", "--algo.num-tasks", "4", "--tasks.horizon", "4"]


def parsed(*flags, out="runs/never"):
    return train.new_run([*SMALL, "--out", str(out), *flags])


def test_the_choices_are_the_registered_samplers():
    hint = typing.get_type_hints(train.Options)["sampler_name"]
    assert typing.get_args(hint) == tuple(registry.SAMPLERS)


def test_flags_set_the_sampler_and_its_config():
    _, config = parsed("--sampler", "prioritised", "--sampler.size", "16", "--sampler.robust", "--sampler.score=max-mc")
    assert config.sampler == "prioritised"
    assert config.sampler_config == outer.PrioritisedConfig(size=16, robust=True, score="max-mc")
    _, config = parsed("--sampler.size", "16", "--sampler", "learnability")
    assert config.sampler_config == outer.LearnabilityConfig(size=16)
    _, config = parsed()
    assert (config.sampler, config.sampler_config) == ("uniform", None)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--sampler", "prioritized"], "--sampler is 'prioritized'; it must be one of 'uniform', 'prioritised'"),
        (["--sampler.size", "3"], "no flag '--sampler.size'"),
        (["--sampler", "prioritised", "--sampler.size", "0"], "sampler.size is 0; it must be at least 1"),
        (["--sampler", "learnability", "--sampler.probe-streams", "1"], "sampler.probe_streams is 1; learnability"),
    ],
)
def test_bad_flags_are_one_line(flags, message):
    with pytest.raises(parsing.UsageError, match=message.replace("[", r"\[")):
        parsed(*flags)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sampler_config": outer.PrioritisedConfig(size=1)}, "sampler.size is 1; the buffer must hold the 2 tasks"),
        ({"sampler": "learnability", "sampler_config": outer.ProgressConfig()}, "learnability takes a Learnability"),
        ({"sampler": "plr"}, "no sampler 'plr'"),
    ],
)
def test_an_unsuitable_sampler_is_refused(changes, message):
    fields = {"sampler": "prioritised"} | changes
    config = jm.RunConfig("ppo", "navigation", tiny.ALGOS["ppo"], jm.tasks.NavigationConfig(horizon=4), **fields)
    with pytest.raises(codec.RunError, match=message):
        config.build()


def test_learnability_needs_success_or_termination():
    pulls = jm.tasks.BanditConfig(num_arms=2, num_pulls=2)
    with pytest.raises(codec.RunError, match="sampler is 'learnability', but these tasks report neither success nor"):
        jm.RunConfig("ppo", "bandit", tiny.ALGOS["ppo"], pulls, sampler="learnability").build()


def test_a_run_folder_keeps_its_sampler_and_one_without_is_uniform(tmp_path):
    _, config = parsed("--sampler", "learnability", "--sampler.size", "7")
    runs.write_config(tmp_path, config)
    assert runs.read_config(tmp_path) == config
    data = json.loads((tmp_path / runs.CONFIG).read_text())
    for name in ("sampler", "sampler_config"):
        del data[name]
    (tmp_path / runs.CONFIG).write_text(json.dumps(data))
    stored = runs.read_config(tmp_path)
    assert (stored.sampler, stored.sampler_config) == ("uniform", None)


def test_a_resumed_run_keeps_its_sampler(tmp_path):
    _, config = parsed("--sampler", "prioritised", "--sampler.size", "16")
    runs.write_config(tmp_path, config)
    options, again = train._resumed(SMALL, tmp_path)
    assert again == config and options.sampler == config.sampler_config
    for flags, message in (
        (["--sampler", "progress"], "--sampler is progress, but the run in .* has prioritised"),
        (["--sampler", "prioritised", "--sampler.size", "8"], "--sampler.size is 8, but the run in .* has 16"),
    ):
        with pytest.raises(parsing.UsageError, match=message):
            train._resumed([*SMALL, *flags], tmp_path)


def test_samplers_are_listed_and_their_flags_shown(capsys):
    assert cli.main(["list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["samplers"] == list(registry.SAMPLERS)
    for name, entry in registry.SAMPLERS.items():
        assert len(listing.describe(name, entry)) > 20
    assert cli.main(["train", "ppo", "navigation", "--sampler", "prioritised", "--help"]) == 0
    text = capsys.readouterr().out
    assert "--sampler.temperature" in text and "--sampler {" in text


@pytest.mark.slow
def test_a_curriculum_is_trained_resumed_and_drawn(tmp_path, capsys):
    folder = tmp_path / "run"
    flags = ["--sampler", "prioritised", "--sampler.size", "8", "--checkpoint-every", "2", "--eval-tasks", "2"]
    assert cli.main(["train", *SMALL, "--out", str(folder), *flags, "--updates", "2"]) == 0
    assert cli.main(["train", *SMALL, "--out", str(folder), "--resume", "--updates", "4", "--eval-tasks", "2"]) == 0
    output = capsys.readouterr().out
    assert "sampler    prioritised: PLR" in output and (folder / "curriculum.png").stat().st_size > 1000
    records = runs.read_metrics(folder)
    assert [record["update"] for record in records] == [1, 2, 3, 4]
    assert records[-1]["sampler/replayed"] == 0.5 and records[-1]["sampler/filled"] == 1.0
