"""`jaxmeta reproduce`, with a tiny table in place of a published one: what it runs, keeps, writes, and refuses."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
import types
from pathlib import Path

import jax
import matplotlib.pyplot as plt
import numpy as np
import pytest

import jaxmeta as jm
from jaxmeta import cli, reproduce
from jaxmeta.cli import train, training
from jaxmeta.experiment import assessment, logging, provenance, registry, runs
from jaxmeta.references import tabular
from jaxmeta.reproduce import base, files, measure, statistics
from jaxmeta.reproduce.base import Computed, Evaluation, Reference, Required, Row, Table, Trained
from jaxmeta.viz import tables
from tests.built_once import remembering

FIELDS = ["name", "ours", "stderr", "published", "optimum", "num_trials", "seeds", "wall_s", "required", "met", "ci95"]
FIELDS += ["command", "updates", "seed", *provenance.ORIGIN, "quick"]
TRIALS = 16


def two_states(num_episodes=2):
    return jm.tasks.TabularConfig(num_states=2, num_actions=2, num_episodes=num_episodes, horizon=1)


def tiny(updates, **changes):
    """The same for all numbers of updates, so that it is compiled once."""
    ppo = dataclasses.replace(jm.RL2Config.ppo, epochs=1, minibatches=1, anneal_over=2)
    return jm.RL2Config(**{"num_tasks": 4, "hidden": 4, "ppo": ppo} | changes)


def table(updates=2, least=0.0, algo_config=tiny, platform=None, second=1):
    few = (Evaluation(num_tasks=TRIALS),)
    longer = Evaluation("longer", TRIALS, tasks=lambda config: dataclasses.replace(config, horizon=3))
    required = Required(least=least, up_to_optimum=True, platform=platform)
    rows = (
        Row(statistics.trial_return, "total", published=1.5, optimum=lambda: 9.0, required=required),
        Row(statistics.episode_return(second), "second"),
        Row(statistics.episode_length(0), "length of longer", evaluation="longer"),
    )
    chance = Row(statistics.trial_return, published=1.25, required=Required(least=99.0, platform="gpu"))
    rule = Reference(
        "2x2/random", "tabular.random", {"num_actions": 2}, "tabular", two_states, rows=(chance,), evaluations=few
    )
    agent = Trained(
        "2x2/rl2",
        "rl2",
        "tabular",
        algo_config,
        tasks_config=two_states,
        updates=updates,
        rows=rows,
        evaluations=(*few, longer),
    )
    return Table("tiny", title="Two states", source="published nowhere", runs=(rule, agent))


built_once = pytest.fixture(scope="module", autouse=True)(remembering)
RANDOM = functools.cache(tabular.random)


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """A folder to work in, with a table named tiny."""
    (tmp_path / "benchmarks" / "results").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(reproduce.TABLES, "tiny", "")
    # the evaluation and the pictures of `jaxmeta train` take longer than the training here
    monkeypatch.setattr(training.Training, "_report", lambda self: None)
    # one rule of behaviour, so that its evaluation is compiled once for all tests
    monkeypatch.setattr(tabular, "random", RANDOM)
    use(monkeypatch, table())
    return tmp_path


def use(monkeypatch, one):
    monkeypatch.setattr(reproduce, "load", lambda name: one)


def call(*arguments):
    return cli.main(["reproduce", "tiny", "--out", "out", "--results", "results", *arguments])


def read(file="out/table.json"):
    with open(file) as opened:
        return json.load(opened)


def names(file="out/table.json"):
    return [row["name"] for row in read(file)["rows"]]


def stamps(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


ALL = ["2x2/random", "2x2/rl2 total", "2x2/rl2 second", "2x2/rl2 length of longer"]


def test_a_table_is_trained_evaluated_and_written_and_then_reused(place, capsys, monkeypatch):
    assert call("--json") == 0
    printed = json.loads(capsys.readouterr().out)
    assert list(printed) == ["name", "rows"] and printed["name"] == "tiny"
    assert [list(row) for row in printed["rows"]] == [FIELDS] * 4
    chance, total, second, longer = printed["rows"]
    assert [row["name"] for row in printed["rows"]] == ALL
    assert (chance["published"], chance["required"], chance["met"], chance["updates"]) == (1.25, None, None, None)
    assert (total["published"], total["optimum"], total["num_trials"], total["seeds"]) == (1.5, 9.0, TRIALS, 1)
    most = 9.0 + 3 * total["stderr"] + 9.0 * base.ROUNDING
    assert total["required"] == {"mean": [0.0, pytest.approx(most)]} and total["met"]
    assert (total["updates"], total["seed"], total["quick"]) == (2, 0, False)
    assert "cpu" in total["device"] and total["versions"]["jax"] and total["wall_s"] > 0
    assert (total["platform"], total["cores"]) == ("cpu", os.cpu_count()) and total["processor"]
    assert read() == printed == read("results/reproduce-tiny.json")
    for picture in ("out/table.png", "results/reproduce-tiny.png"):
        assert (place / picture).read_bytes().startswith(b"\x89PNG")

    # what is said to have been run is what was run, and agrees with the command that evaluates
    train, again = (command.split() for command in total["command"])
    assert runs.read_config("out/2x2/rl2") == jm.load("out/2x2/rl2").config
    assert train[:4] == ["jaxmeta", "train", "rl2", "tabular"] and again[:3] == ["jaxmeta", "reproduce", "tiny"]
    assert cli.main(["evaluate", "out/2x2/rl2", "--num-tasks", str(TRIALS), "--json"]) == 0
    evaluated = json.loads(capsys.readouterr().out)
    assert evaluated["trial_return"]["mean"] == total["ours"] and evaluated["step"] == 2
    assert evaluated["returns"][0][1]["mean"] == second["ours"]
    assert (longer["ours"], longer["stderr"]) == (3.0, 0.0)  # on tasks that differ from those of training

    def fail(*arguments, **named):
        raise AssertionError("a finished row was run again")

    before = stamps(place / "out" / "2x2")
    with monkeypatch.context() as patch:
        patch.setattr(jm, "train", fail)
        patch.setattr(jm, "evaluate", fail)
        assert call("--json") == 0
    assert json.loads(capsys.readouterr().out) == printed
    assert stamps(place / "out" / "2x2") == before

    assert call("--rows", "2x2/rl2", "--again") == 0
    told = capsys.readouterr().out
    assert "2x2/rl2 total" in told and "2x2/random" not in told and "written: out/table.png" in told
    assert (place / "out/2x2/rl2.old-1/rows.json").is_file() and not (place / "out/2x2/random.old-1").exists()
    assert names() == ALL
    assert read()["rows"][1]["ours"] == total["ours"]  # the same seed


def test_an_interrupted_run_is_resumed_and_equals_an_uninterrupted_one(place, capsys, monkeypatch):
    def stop(self, update, state, metrics, write=logging.JsonLines.__call__):
        write(self, update, state, metrics)
        os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(logging.JsonLines, "__call__", stop)
        assert call("--rows", "2x2") == 143
    assert names() == ["2x2/random"]  # what was finished is kept
    assert [record["update"] for record in runs.read_metrics("out/2x2/rl2")] == [1]
    assert call() == 0
    assert [record["update"] for record in runs.read_metrics("out/2x2/rl2")] == [1, 2]
    resumed = read()["rows"][1]
    assert cli.main(["reproduce", "tiny", "--out", "whole", "--rows", "2x2/rl2"]) == 0
    assert resumed["ours"] == read("whole/table.json")["rows"][0]["ours"]


def test_runs_moved_aside_are_not_counted_as_done(place, capsys, monkeypatch):
    assert call() == 0
    with monkeypatch.context() as patch:
        patch.setattr(files, "write_measurement", interrupt)
        assert call("--again") == 130
    assert {entry.name for entry in (place / "out/2x2").iterdir()} == {"random", "random.old-1", "rl2.old-1"}
    capsys.readouterr()
    assert call() == 0  # the same command, without --again
    assert "already done" not in capsys.readouterr().err


def test_a_run_starts_from_another_run_of_the_table(place, capsys, monkeypatch):
    rule, agent = table().runs
    # nothing but a start: it has no rows
    short = dataclasses.replace(agent, rows=())
    longer = dataclasses.replace(agent, name="2x3/rl2", tasks_config=lambda: two_states(3), start=short.name)
    one = Table("tiny", title="", source="", runs=(rule, short, longer))
    assert one.choose(None) == (rule, longer) and one.choose("2x2") == (rule,) and one.choose(short.name) == (short,)
    use(monkeypatch, one)
    assert call("--rows", "2x3", "--json") == 0
    row, *_ = json.loads(capsys.readouterr().out)["rows"]
    assert set(names()) == {f"2x3/rl2 {name}" for name in ("total", "second", "length of longer")}
    assert " --start-from out/2x2/rl2 " in row["command"][1] and "--out out/2x2/rl2 " in row["command"][0]
    # the time is that of both
    seconds = [runs.read_metrics(f"out/{name}")[-1]["seconds"] for name in (short.name, longer.name)]
    assert row["wall_s"] == pytest.approx(sum(seconds), abs=1e-3) and min(seconds) > 0
    learned = [jm.load(f"out/{name}").params for name in (short.name, longer.name)]
    steps = jax.tree.map(lambda before, after: np.abs(before - after).max(), *learned)
    assert 0 < max(jax.tree.leaves(steps)) < 3 * runs.read_config("out/2x3/rl2").algo_config.ppo.learning_rate

    # done is done
    before = stamps(place / "out" / "2x2")
    assert call("--rows", "2x3") == 0 and stamps(place / "out" / "2x2") == before
    assert "already done" in capsys.readouterr().err
    # of both it is said where they were trained
    start = runs.read_config("out/2x3/rl2").start
    edit_config("2x3/rl2", start=start | {"config": start["config"] | {"commit": "abc"}})
    assert call("--rows", "2x3", "--json") == 0
    assert json.loads(capsys.readouterr().out)["rows"][0]["commit"] == f"abc, {row['commit']}"

    # and so on, where that one began with another one in turn
    last = dataclasses.replace(longer, name="2x4/rl2", start=longer.name)
    use(monkeypatch, dataclasses.replace(one, runs=(rule, short, longer, last)))
    assert call("--rows", "2x4", "--json") == 0
    goes_on = json.loads(capsys.readouterr().out)["rows"][0]
    *trained, _ = goes_on["command"]
    assert [command.partition(" --out ")[2].split()[0] for command in trained] == [
        f"out/{name}" for name in (short.name, longer.name, last.name)
    ]
    assert goes_on["wall_s"] > row["wall_s"] and goes_on["commit"] == f"abc, {row['commit']}"
    changed = dataclasses.replace(short, algo_config=lambda updates: tiny(updates, discount=0.5))
    use(monkeypatch, dataclasses.replace(one, runs=(rule, changed, longer, last)))
    for name in ("out/2x2", "out/2x3"):
        os.rename(name, f"{name}-aside")
    assert call("--rows", "2x4") == 2
    assert "2x4/rl2 starts from another 2x3/rl2 than the run in out/2x4/rl2 did" in capsys.readouterr().err
    for name in ("out/2x2", "out/2x3"):
        os.rename(f"{name}-aside", name)

    # a run that began with another one than that which there is now does not count, nor does one that began at random
    another = "2x3/rl2 starts from another 2x2/rl2 than the run in out/2x3/rl2 did"
    use(monkeypatch, dataclasses.replace(one, runs=(rule, changed, longer)))
    assert call("--rows", "2x3") == 2 and another in capsys.readouterr().err
    assert call("--rows", "2x3", "--again") == 2
    told = capsys.readouterr().err
    assert "algo.discount is 0.5, but the run in out/2x2/rl2 has 0.99" in told
    assert "or run --rows 2x2/rl2 --again first" in told
    assert call("--rows", "2x2/rl2", "--again") == 0 and call("--rows", "2x3") == 2
    assert another in capsys.readouterr().err
    use(monkeypatch, dataclasses.replace(one, runs=(rule, changed, dataclasses.replace(longer, start=""))))
    assert call("--rows", "2x3") == 2
    assert "2x3/rl2 starts from random parameters, but the run in out/2x3/rl2 does not" in capsys.readouterr().err


def interrupt(*arguments):
    raise KeyboardInterrupt


@pytest.mark.parametrize("again", [(), ("--again",)])
def test_a_run_of_another_process_is_left_alone(again, place, capsys):
    (place / "out/2x2/random").mkdir(parents=True)
    with files.locked(place / "out/2x2/rl2"):
        assert call(*again) == 2
        assert "jaxmeta: out/2x2/rl2 is being run by another process\n" in capsys.readouterr().err
        assert list((place / "out/2x2/rl2").iterdir()) == [] and not list(place.glob("out/2x2/*.old-*"))


def test_a_run_is_locked_until_its_measurement_is_written(monkeypatch):
    def busy(folder):
        with pytest.raises(runs.RunError, match="by another process"), files.locked(folder, wait=False):
            pass

    def train(self, write=training.Training.run):
        busy(self.folder)
        return write(self)

    def measure(folder, measurement, write=files.write_measurement):
        busy(folder)
        write(folder, measurement)

    monkeypatch.setattr(training.Training, "run", train)
    monkeypatch.setattr(files, "write_measurement", measure)
    assert call("--rows", "2x2/rl2") == 0
    with files.locked(Path("out/2x2/rl2"), wait=False):
        pass


def edit_config(name="2x2/rl2", **changes):
    """Changes what a trained run says of itself, None for nothing at all, and forgets what was measured of it."""
    file = Path(f"out/{name}/config.json")
    data = {name: value for name, value in (read(file) | changes).items() if value is not None}
    file.write_text(json.dumps(data))
    file.with_name("rows.json").unlink()


def test_a_record_says_where_the_run_was_trained_not_where_it_is_evaluated(monkeypatch):
    use(monkeypatch, table(platform="gpu"))
    origin = {"commit": "abc-dirty", "processor": "abacus", "cores": 3, "versions": {"jax": "0"}, "platform": "cpu"}
    monkeypatch.setattr(provenance, "origin", lambda: origin | {"device": "1 x cpu"})
    assert call() == 0
    chance, total = read()["rows"][:2]
    assert {name: total[name] for name in origin} == {name: chance[name] for name in origin} == origin
    assert (total["required"], total["met"]) == (None, None)

    monkeypatch.setattr(provenance, "origin", lambda: origin | {"device": "1 x cpu", "commit": "def"})
    edit_config(platform="gpu", device="1 x H200")
    assert call("--rows", "2x2/rl2") == 0
    total = read()["rows"][1]
    assert (total["commit"], total["platform"], total["device"]) == ("abc-dirty", "gpu", "1 x H200")
    assert total["met"] is True  # what is required of a GPU is required of what was trained on one


def test_missing_origin_of_older_runs_is_null(capsys, monkeypatch):
    assert call("--rows", "2x2/rl2") == 0
    use(monkeypatch, table(platform="gpu"))
    edit_config(commit=None, platform=None, processor=None, cores=None)
    assert call("--rows", "2x2/rl2") == 0
    total = read()["rows"][0]
    assert [total[name] for name in ("commit", "platform", "processor", "cores", "met")] == [None] * 5
    assert "cpu" in total["device"] and total["versions"]["jax"]
    assert "commit: unknown" in capsys.readouterr().out


def test_another_configuration_is_refused_and_nothing_overwritten(place, capsys, monkeypatch):
    assert call("--rows", "2x2/rl2") == 0
    before, _ = stamps(place), capsys.readouterr()
    for change, words in (
        (
            {"algo_config": lambda updates: tiny(updates, hidden=5)},
            "algo.hidden is 5, but the run in out/2x2/rl2 has 4;",
        ),
        ({"updates": 3, "algo_config": lambda updates: tiny(2)}, "updates is 3, but the run in out/2x2/rl2 has 2;"),
    ):
        use(monkeypatch, table(**change))
        assert call() == 2
        told = capsys.readouterr()
        assert told.out == "" and told.err.count("\n") == 1
        assert words in told.err and "another --out, or add --again" in told.err
    use(monkeypatch, table())
    assert call("--seed", "1") == 2
    assert "seed is 1, but" in capsys.readouterr().err
    assert stamps(place) == before


def test_a_row_is_evaluated_anew_but_not_trained_anew_if_its_evaluation_changes(place, monkeypatch):
    assert call("--rows", "2x2/rl2") == 0
    trained = (place / "out/2x2/rl2/metrics.jsonl").stat().st_mtime_ns
    monkeypatch.setattr("tests.test_reproduce.TRIALS", 8)
    use(monkeypatch, table())
    assert call("--rows", "2x2/rl2") == 0
    assert [row["num_trials"] for row in read()["rows"]] == [8, 8, 8]
    use(monkeypatch, table(second=0))  # another statistic under the same name
    before = read()["rows"][1]["ours"]
    assert call("--rows", "2x2/rl2") == 0
    assert read()["rows"][1]["ours"] != before
    assert (place / "out/2x2/rl2/metrics.jsonl").stat().st_mtime_ns == trained


def test_rounding_does_not_put_an_optimal_agent_above_the_optimum():
    row = {"optimum": 155 / 14, "stderr": 0.0, "ci95": None, "platform": "cpu"}
    for ours, met in ((float(np.float32(155 / 14)), True), (155 / 14 + 1e-4, False)):
        assert Required(up_to_optimum=True).judge(row | {"ours": ours}, {})["met"] is met


def test_a_missed_requirement_is_exit_code_1(capsys, monkeypatch):
    assert call("--rows", "2x2/rl2") == 0
    use(monkeypatch, table(least=5.0))  # judged anew, though nothing is run
    assert call() == 1
    assert read()["rows"][1]["met"] is False
    assert call("--rows", "2x2/random") == 0  # only what was chosen counts


def test_quick_is_small_and_kept_apart(place, capsys, monkeypatch):
    monkeypatch.setattr(base, "QUICK_TRIALS", 8)
    use(monkeypatch, table(updates=600, least=5.0))
    assert cli.main(["reproduce", "tiny", "--quick", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert {row["num_trials"] for row in rows} == {8} and {row["updates"] for row in rows} == {None, 3}
    assert all(row["quick"] for row in rows) and rows[1]["met"] is False
    assert names("runs/reproduce/tiny-quick/table.json") == ALL
    assert list((place / "benchmarks/results").iterdir()) == []
    # neither do the two mix in one folder
    assert cli.main(["reproduce", "tiny", "--out", "runs/reproduce/tiny-quick", "--again"]) == 2
    assert "choose another --out" in capsys.readouterr().err


def test_seeds_are_counted_and_statistics_are_over_them(capsys):
    assert call("--rows", "2x2/rl2", "--num-seeds", "2", "--json") == 0
    row = json.loads(capsys.readouterr().out)["rows"][0]
    assert (row["seeds"], row["num_trials"]) == (2, 2 * TRIALS)
    assert "--num-seeds 2" in row["command"][0] and "--num-seeds 2" in row["command"][1]


def test_results_get_a_copy_only_of_the_usual_folder_or_where_told(place):
    rows = ("reproduce", "tiny", "--rows", "2x2/random")
    assert cli.main([*rows, "--out", "elsewhere"]) == 0
    assert list((place / "benchmarks/results").iterdir()) == []
    assert cli.main(list(rows)) == 0
    assert names("benchmarks/results/reproduce-tiny.json") == ["2x2/random"]


@pytest.mark.parametrize("stands", [{"seed": 1, "seeds": 1}, {"seed": 0, "seeds": 3}])
def test_results_of_another_seed_or_of_more_seeds_are_not_replaced_unless_told(stands, place, capsys):
    (place / "results").mkdir()
    file = place / "results/reproduce-tiny.json"
    files.publish(table(), file, [finished("2x2/rl2 second", 7.0, **stands)])
    before = stamps(place)
    assert call() == 2
    told = capsys.readouterr()
    assert told.out == "" and told.err.count("\n") == 1 and "add --again to replace it" in told.err
    assert f"2x2/rl2 second with --seed {stands['seed']} --num-seeds {stands['seeds']}, not" in told.err
    assert stamps(place) == before
    assert call("--rows", "2x2/random") == 0
    assert read(file)["rows"][1]["ours"] == 7.0
    assert call("--again") == 0
    assert read(file)["rows"][2]["ours"] != 7.0


BAD_INPUT = {
    "reproduce": "needs the name of a table, one of bandit",
    "reproduce bandti": "did you mean 'bandit'?",
    "reproduce tiny --rows 2x2/rl": "no row '2x2/rl' in tiny; did you mean '2x2/rl2'? the groups are 2x2, each",
    "reproduce tiny --rows 2x2,3x3": "no row '3x3'",
    "reproduce tiny --rows=": "no row ''",
    "reproduce tiny --seed -1": "--seed is -1",
    "reproduce tiny --num-seeds 0": "--num-seeds is 0",
    "reproduce tiny --quick --results here": "leave one out",
    "reproduce tiny --out taken": "out taken is a file",
    "reproduce tiny --results taken": "--results taken is a file",
    "reproduce tiny --out foreign": "foreign/2x2/rl2 is not empty and is not a run folder",
    "reproduce tiny --out damaged": "cannot be read as a table",
    "reproduce tiny --agian": "did you mean '--again'?",
}


@pytest.mark.parametrize("line", BAD_INPUT)
def test_bad_input_gives_one_line_and_writes_nothing(line, place, capsys):
    (place / "taken").write_text("mine")
    (place / "foreign/2x2/rl2").mkdir(parents=True)
    (place / "foreign/2x2/rl2/thesis.tex").write_text("mine")
    (place / "damaged").mkdir()
    (place / "damaged/table.json").write_text('{"rows": [{"na')
    before = stamps(place)
    assert cli.main(line.split()) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.startswith("jaxmeta: ") and printed.err.count("\n") == 1
    assert BAD_INPUT[line] in printed.err
    assert stamps(place) == before


def finished(name, ours=1.0, **fields):
    known = {"published": 1.5, "optimum": None, "ci95": [ours - 0.1, ours + 0.1], "quick": False, "seed": 0, "seeds": 1}
    return {"name": name, "ours": ours} | known | fields


def test_rows_of_earlier_calls_stay_and_newer_ones_replace_them(place):
    file = place / "table.json"
    files.publish(table(), file, [finished("2x2/rl2 total", 1.0), finished("gone/rl2")])
    files.publish(table(), file, [finished("2x2/rl2 total", 2.0), finished("2x2/random")])
    assert [(row["name"], row["ours"]) for row in read(file)["rows"]] == [
        ("2x2/random", 1.0),
        ("2x2/rl2 total", 2.0),
        ("gone/rl2", 1.0),
    ]


RECORDS = Path(__file__).parents[1] / "benchmarks" / "results"


@pytest.mark.parametrize("name", ["bandit", "half-cheetah-dir", "navigation"])
def test_older_records_are_read_and_merged_as_they_are(name, place):
    file = place / f"reproduce-{name}.json"
    newer = ("platform", "processor", "cores")
    before = [{part: row[part] for part in row if part not in newer} for row in read(RECORDS / file.name)["rows"]]
    file.write_text(json.dumps({"name": name, "rows": before}))
    merged = {row["name"]: row for row in files.publish(LOAD(name), file, [finished("new/row")])}
    assert list(merged.values()) == read(file)["rows"] and len(merged) == len(before) + 1
    for row in before:
        judged = {part: merged[row["name"]][part] for part in ("required", "met")}  # anew
        assert merged[row["name"]] == dict.fromkeys(provenance.ORIGIN) | row | judged


def test_a_bound_may_be_another_row_and_is_judged_once_both_are_there(place):
    one, file = LOAD("maze"), place / "table.json"
    ours, theirs = (f"maze/{agent} small episode 2" for agent in ("snail", "rl2"))
    (alone,) = files.publish(one, file, [finished(ours, 20.0)])
    assert (alone["required"], alone["met"]) == (None, None)
    for length, met in ((20.0, True), (19.0, False)):
        files.publish(one, file, [finished(theirs, length)])
        judged = {row["name"]: row for row in read(file)["rows"]}
        assert (judged[ours]["required"], judged[ours]["met"]) == ({"mean": [None, length]}, met)
        assert judged[theirs]["met"] is None
    files.publish(one, file, [finished(theirs, 20.0) | {"ours": None}])
    assert read(file)["rows"][1]["met"] is None


def test_a_diverged_row_is_ignored_as_a_bound():
    required, row = Required(no_more_than=("a", "b")), {"ours": 1.0, "stderr": 0.1, "optimum": None, "platform": "cpu"}
    for others, bounds, met in (
        ({"a": 2.0, "b": None}, {"mean": [None, 2.0]}, True),
        ({"a": 0.5, "b": None}, {"mean": [None, 0.5]}, False),
        ({"a": None, "b": None}, None, None),
        ({"a": 2.0}, None, None),
    ):
        judged = required.judge(row, {name: {"ours": ours} for name, ours in others.items()})
        assert judged == {"required": bounds, "met": met}


@pytest.mark.parametrize(("adapted", "met"), [(-51.0, False), (-49.0, True)])
def test_halfway_requirement_is_midway_to_the_oracle(adapted, met, place):
    one, file = LOAD("pearl-brax"), place / "table.json"
    names = [f"half-cheetah-vel/{agent}" for agent in ("pearl episode 3", "pearl episode 1", "oracle")]
    rows = [finished(name, ours) for name, ours in zip(names, (adapted, -80.0, -20.0), strict=True)]
    assert [row["met"] for row in files.publish(one, file, rows[:2])] == [None, None]
    judged = {row["name"]: row for row in files.publish(one, file, rows)}[names[0]]
    assert (judged["required"], judged["met"]) == ({"mean": [-50.0, None]}, met)


@pytest.mark.parametrize(("ratio", "met"), [(1.0, False), (0.95, False), (0.89, True)])
def test_large_mazes_ask_for_an_interval_below_one(ratio, met, place):
    row = finished("maze/rl2 large ratio", ratio)  # its interval is 0.1 to both sides
    assert files.publish(LOAD("maze"), place / "table.json", [row])[0]["met"] is met


def test_rows_written_at_the_same_time_both_survive(place, monkeypatch):
    def slow(*arguments, draw=tables.published):
        time.sleep(0.2)  # the other writer has read the table by now, unless it is kept out
        return draw(*arguments)

    monkeypatch.setattr(tables, "published", slow)
    file = place / "table.json"
    writers = [
        threading.Thread(target=files.publish, args=(table(), file, [finished(name)]))
        for name in ("2x2/random", "2x2/rl2 total")
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert names(file) == ["2x2/random", "2x2/rl2 total"]


def test_trials_are_shared_equally_among_all_tasks():
    family = jm.tasks.grid_navigation(jm.tasks.GridConfig(horizon=2, num_episodes=1))
    seen = types.SimpleNamespace()

    def note(learner, params, env, tasks, key, plan, deterministic, demonstrate):
        seen.goals = np.asarray(tasks.goal)

    goals = jm.tasks.all_goals()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jm, "evaluate", note)
        assessment.trials(None, (), family, None, assessment.repeated(goals, 50), 0)
    _, counts = np.unique(seen.goals, axis=0, return_counts=True)
    assert counts.tolist() == [3] * 21


@pytest.mark.parametrize(
    ("name", "agents"),
    [
        ("varibad-gridnavi", {"gridnavi/varibad", "gridnavi/rl2", "gridnavi/ppo"}),
        ("pearl-point", {"point-robot/rl2", "sparse-point-robot/rl2"}),
        ("pearl-brax", {"half-cheetah-vel/rl2"}),
    ],
)
def test_baselines_of_pearl_and_varibad_are_deterministic_too(name, agents, monkeypatch):
    runs_of = {one.name: one for one in LOAD(name).runs if isinstance(one, Trained)}
    chosen = {run for run, one in runs_of.items() if all(evaluation.deterministic for evaluation in one.evaluations)}
    # PEARL and SAC are built to
    assert chosen == agents and {runs_of[run].algo for run in runs_of.keys() - chosen} <= {"pearl", "sac"}
    seen = []
    monkeypatch.setattr(jm, "evaluate", lambda *given, demonstrate: seen.append(given[-1]))
    one = next(iter(runs_of.values()))
    for deterministic in (False, True):
        evaluation = Evaluation(num_tasks=2, deterministic=deterministic)
        measure.evaluate(None, (), jm.Plan(), one.config(), evaluation, 0)
        assert evaluation.describe(one.tasks_config()).get("deterministic", False) is deterministic
    assert seen == [False, True]


def test_error_over_every_task_is_that_within_tasks():
    learner, config = jm.references.bandits.random(5), LOAD("gridnavi").runs[0].config()
    (evaluation,) = LOAD("gridnavi").runs[0].evaluations
    count, repeats = len(jm.tasks.all_goals().goal), 30
    few = dataclasses.replace(evaluation, num_tasks=count * repeats)
    family = config.build_family()
    plan, params = jm.Plan(episodes=family.episodes), learner.init(jax.random.key(0))
    reports = measure.evaluate(learner, params, plan, config, few, 0)
    point = measure.summarize(Row(statistics.trial_return), reports)

    every = assessment.repeated(jm.tasks.all_goals(), count * repeats)
    whole = assessment.trials(learner, params, family, plan, every, 0)
    total = np.asarray(whole.returns, np.float64).sum((1, 2, 3)).reshape(repeats, count)
    assert point["num_trials"] == total.size and point["mean"] == pytest.approx(total.mean())
    direct = np.sqrt((total.var(0, ddof=1) / repeats).mean() / count)
    assert point["stderr"] == pytest.approx(direct)
    assert point["ci95"] == pytest.approx([total.mean() - 1.96 * direct, total.mean() + 1.96 * direct])
    assert direct < 0.95 * total.std(ddof=1) / np.sqrt(total.size)  # goals differ in what they pay

    # with several seeds what is random is the seed, which meets every task
    seeds, several = (
        jax.vmap(learner.init)(jax.random.split(jax.random.key(0))),
        dataclasses.replace(config, num_seeds=2),
    )
    assert len(measure.evaluate(learner, seeds, plan, several, few, 0)) == 1


def test_ratio_of_lengths_and_its_error():
    random = np.random.default_rng(0)
    first = random.uniform(10, 20, 4000)
    lengths = np.stack([first, 0.7 * first + random.normal(size=4000)], -1)[:, None, None, :]
    point = statistics.length_ratio(1)(types.SimpleNamespace(lengths=lengths))
    assert point["mean"] == pytest.approx(0.7, abs=0.005)
    # of the ratio's parts only the noise of unit variance differs from task to task
    assert point["stderr"] == pytest.approx(1 / np.sqrt(4000) / 15, rel=0.05)
    assert statistics.episode_length(0)(types.SimpleNamespace(lengths=lengths))["mean"] == pytest.approx(first.mean())
    # a single seed is no sample of seeds
    assert statistics.length_ratio(1)(types.SimpleNamespace(lengths=lengths[None])) == point


def test_ratio_of_lengths_over_several_seeds():
    random = np.random.default_rng(0)
    skill = random.uniform(0.5, 0.9, 40)  # of each seed
    first = random.uniform(10, 20, (40, 100))
    lengths = np.stack([first, skill[:, None] * first], -1)[:, :, None, None, :]
    point = statistics.length_ratio(1)(types.SimpleNamespace(lengths=lengths))
    assert point["mean"] == pytest.approx((skill[:, None] * first).sum() / first.sum())
    # the jackknife leaves out one seed after the other
    left_out = [lengths[np.arange(40) != seed].sum((0, 1, 2, 3)) for seed in range(40)]
    ratios = np.array([second / first for first, second in left_out])
    jackknife = np.sqrt(39 / 40 * ((ratios - ratios.mean()) ** 2).sum())
    assert point["stderr"] == pytest.approx(jackknife, rel=0.02)
    assert point["ci95"] == pytest.approx([point["mean"] + side * 1.96 * point["stderr"] for side in (-1, 1)])


def test_success_is_an_end_before_the_horizon():
    lengths = np.array([[3, 10], [10, 10], [9, 10], [10, 1]])[:, None, None, :]
    shares = [statistics.success(episode, 10)(types.SimpleNamespace(lengths=lengths))["mean"] for episode in (0, 1)]
    assert shares == [0.5, 0.25]


LOAD = reproduce.load
DECLARED = [name for name in reproduce.TABLES if name != "tiny"]


@pytest.mark.parametrize("name", DECLARED)
def test_declared_table_is_well_formed(name, monkeypatch):
    one = LOAD(name)
    assert one.name == name and one.title and one.source
    row_names = one.row_names()
    assert len(set(row_names)) == len(row_names) and len({run.name for run in one.runs}) == len(one.runs)
    assert one.choose(None) == tuple(run for run in one.runs if run.rows) and one.choose(None, quick=True)
    for each in one.runs:
        assert "/" in each.name and [chosen.name for chosen in one.choose(each.name)] == [each.name]
        if isinstance(each, Computed):
            assert callable(each.compute) and each.count > 0
            continue
        kinds = {evaluation.name for evaluation in each.trials}
        assert {row.evaluation for row in each.rows} == kinds
        for evaluation in each.trials:
            # the tasks that differ can be built
            config = each.config(evaluation=evaluation)
            env, trained_on = config.build_family().env, each.config().build_family().env
            if each.tasks in registry.SUPERVISED_TASKS:
                # the query may be larger: what an agent learns from is the same, and 1,000 tasks are what is published
                assert (env.shots, env.size, env.outputs) == (trained_on.shots, trained_on.size, trained_on.outputs)
                assert evaluation.num_tasks >= 1_000
                continue
            assert env.spec.observation == trained_on.spec.observation
            costly = isinstance(each, Trained) and (name == "navigation" or "half-cheetah" in each.tasks)
            episodes = evaluation.num_tasks * (evaluation.streams or 1) * (evaluation.episodes or 1)
            assert episodes >= 20_000 or costly
        if isinstance(each, Trained):
            # the command that is printed trains the same
            options, config = train.new_run(each.command(Path("out", each.name))[1:])
            assert options.chunk == each.chunk and options.checkpoint_every == each.checkpoint_every
            assert dataclasses.replace(config, start_from=None) == dataclasses.replace(each.config(), start_from=None)
            assert each.config().updates == each.updates and each.quick().config().updates <= base.QUICK_UPDATES
        else:
            learner = jm.references
            for part in each.learner.split("."):
                learner = getattr(learner, part)
            if each.learner != "bandits.gittins":
                assert learner(**each.arguments).act


def test_tasks_that_differ_are_described_by_the_flags_that_older_rows_have():
    (agent,) = LOAD("sinusoid").choose("10-shot/maml")
    (evaluation,) = agent.evaluations
    assert evaluation.describe(agent.tasks_config())["tasks"] == "--tasks.queries 100"
    assert Evaluation().describe(agent.tasks_config())["tasks"] == ""


def test_tables_are_known_and_rows_refused_without_jax():
    program = """
import sys
from jaxmeta import cli, reproduce
assert all(reproduce.load(name).runs for name in reproduce.TABLES)
assert cli.main(["reproduce", "bandit", "--rows", "10x6"]) == 2
sys.exit("jax" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "did you mean '10x5'" in done.stderr


def test_published_and_required_numbers():
    rows = {(name, run.row_name(row)): row for name in DECLARED for run in LOAD(name).runs for row in run.rows}
    assert rows["bandit", "10x5/gittins"].published == 6.6 and rows["bandit", "100x50/snail"].published == 85.1
    assert rows["bandit", "500x5/optimistic-thompson"].published == 406.7
    assert rows["tabular", "n10/snail"].published == 159.1 and rows["tabular", "n25/opsrl"].published == 425.2
    assert rows["maze", "maze/snail large episode 2"].published == 105.9
    assert rows["navigation", "navigation/maml step 1"].published == -11.7
    assert rows["bandit", "10x5/rl2"].optimum() == pytest.approx(6.660, abs=5e-4)
    assert rows["bandit", "10x50/rl2"].optimum() == pytest.approx(6.714, abs=5e-4)
    assert rows["bandit", "100x5/rl2"].optimum is None
    assert rows["gridnavi", "gridnavi/rl2 total"].optimum() == pytest.approx(37.214, abs=5e-4)
    assert rows["gridnavi", "gridnavi/rl2 episode 1"].optimum() == pytest.approx(4.0, abs=5e-4)
    assert rows["tabular", "n10/rl2"].optimum() == pytest.approx(218.0, abs=0.6)
    assert rows["bandit", "100x10/snail"].required == Required(least=82.5)
    assert rows["maze", "maze/rl2 small ratio"].required == Required(most=0.85)
    for size in ("5", "10", "50"):
        assert rows["bandit", f"10x{size}/snail"].required == Required(up_to_optimum=True)
    assert rows["bandit", "500x5/snail"].published == 408.1
    assert rows["gridnavi", "gridnavi/rl2 total"].required == Required(least=33.0, most=37.22)
    belief = {name: rows["varibad-gridnavi", f"gridnavi/varibad {name}"] for name in ("total", "episode 2")}
    assert belief["total"].required == Required(least=35.5, most=37.22)
    assert belief["episode 2"].required == Required(least=10.5, up_to_optimum=True)
    assert belief["episode 2"].optimum() == pytest.approx(11.071, abs=5e-4)
    assert rows["varibad-gridnavi", "gridnavi/goal-oracle total"].optimum() == pytest.approx(44.286, abs=5e-4)
    point = {name: rows["pearl-point", f"{name}"].required for _, name in rows if "robot/pearl" in name}
    assert point["point-robot/pearl episode 3"].least == pytest.approx(-5.9915)
    assert point["sparse-point-robot/pearl episode 20"] == Required(least=9.0)
    assert point["sparse-point-robot/pearl episode 1"] == Required(most=4.0)
    assert rows["maze", "maze/random large episode 2"].published == 420.8
    assert rows["maze", "maze/rl2 large success 2"].published == 0.967


def test_optimum_of_a_maze_is_no_more_than_the_horizon(monkeypatch):
    maze = importlib.import_module("jaxmeta.reproduce.maze")
    monkeypatch.setattr(Evaluation, "num_tasks", 4)
    monkeypatch.setitem(maze.SIZES, "large", (9, 2))
    assert maze._shortest_way.__wrapped__("large") <= 2.0


def test_picture_of_a_table_has_a_panel_per_group():
    rows = [finished(f"{group}/{agent}", ours=group) for group in range(8) for agent in "abcdefghij"]
    rows[3] |= {"ours": None, "stderr": None, "ci95": [None, None], "published": None}
    rows[10]["optimum"] = 3.0
    figure = tables.published(rows, "title", "source")
    assert [axes.get_title(loc="left") for axes in figure.axes] == [str(group) for group in range(8)]
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == list("abcdefghij")
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["published", "ours, 95 % interval", "optimum"]
    assert tables.published(rows[:1], "title", "source").axes[0].get_title(loc="left") == "0"


def test_computed_numbers_are_rows_without_an_error(place, monkeypatch):
    def compute(base):
        return {"double": 2.0 * base}

    row = Row(statistics.named("double"), "double", optimum=0.0, required=Required(most=5.0))
    drawn = []
    draw = lambda rows, title, source: drawn.append(rows) or tables.published(rows, title, source)  # noqa: E731
    runs = (Computed("1-base/compute", compute, {"base": 2}, 7, rows=(row,)),)
    use(monkeypatch, Table("tiny", title="Twice", source="", runs=runs, draw=draw))
    assert call() == 0
    (written,) = read()["rows"]
    assert (written["ours"], written["stderr"], written["met"], written["num_trials"]) == (4.0, None, True, 7)
    assert drawn[0][0]["name"] == "1-base/compute double"
    other = dataclasses.replace(runs[0], arguments={"base": 3})  # what was computed from something else is not kept
    use(monkeypatch, Table("tiny", title="Twice", source="", runs=(other,), draw=draw))
    assert call() == 1 and read()["rows"][0]["met"] is False


def test_pictures_are_drawn_once_something_was_measured_or_where_they_are_missing(place, monkeypatch):
    drawn = []

    def pictures(folders):
        drawn.append(folders)
        return {"circle": plt.figure()}

    rows = (Row(statistics.named("one"), "one"),)
    run = Computed("1-base/compute", lambda base: {"one": base}, {"base": 1.0}, 1, rows=rows)
    use(monkeypatch, Table("tiny", title="One", source="", runs=(run,), pictures=pictures))
    files = [place / "out/table-circle.png", place / "results/reproduce-tiny-circle.png"]
    assert call() == 0 and len(drawn) == 1 and all(file.is_file() for file in files)
    assert call() == 0 and len(drawn) == 1
    files[1].unlink()
    assert call() == 0 and len(drawn) == 2 and files[1].is_file()


def test_numbers_computed_of_a_trained_run_are_over_its_seeds(place, monkeypatch):
    asked = []

    def compute(folder, factor):
        asked.append(folder)
        params = jm.load(folder).params
        return {
            "size": [
                factor * float(sum(np.abs(leaf[seed]).sum() for leaf in jax.tree.leaves(params))) for seed in (0, 1)
            ]
        }

    rows = (
        Row(statistics.named("size"), "size"),
        Row(statistics.worst_seed("size", largest=True), "size (worst seed)", required=Required(most=0.0)),
    )
    agent = dataclasses.replace(table().runs[1], name="2x2/agent", rows=())
    runs = (agent, Computed("2x2/size", compute, {"factor": 3}, 7, rows=rows, of="2x2/agent"))
    use(monkeypatch, Table("tiny", title="Sizes", source="", runs=runs))
    assert call("--num-seeds", "2") == 1  # the agent is trained first, and the requirement is not met
    mean, worst = read()["rows"]
    assert mean["seeds"] == 2 and mean["stderr"] > 0 and len(mean["command"]) == 2
    assert worst["ours"] > mean["ours"] and worst["stderr"] is None and worst["met"] is False
    assert call("--num-seeds", "2") == 1 and len(asked) == 1  # the second time the stored numbers are read


def test_the_lowest_seed_is_that_of_the_last_round():
    returns = np.zeros((2, 3, 2, 4, 1))  # seeds, tasks, rounds, streams, episodes
    returns[0, :, 0], returns[0, :, 1], returns[1, :, 1] = -9.0, 2.0, np.arange(3)[:, None, None]
    lowest = importlib.import_module(reproduce.TABLES["options"]).lowest_seed
    assert lowest(types.SimpleNamespace(returns=returns))["mean"] == 1.0
    assert lowest(types.SimpleNamespace(returns=returns[0]))["mean"] == 2.0


def test_a_computation_that_trains_gets_the_seeds_of_the_call(place, monkeypatch):
    asked = []

    def compute(factor, seed, num_seeds, quick):
        asked.append((seed, num_seeds, quick))
        return {"size": [float(factor * (seed + index)) for index in range(num_seeds)]}

    rows = (Row(statistics.named("size"), "mean"), Row(statistics.worst_seed("size", largest=False), "worst seed"))
    runs = (Computed("2x2/size", compute, {"factor": 3}, 7, rows=rows, trains=True),)
    use(monkeypatch, Table("tiny", title="Sizes", source="", runs=runs))
    assert call("--num-seeds", "3", "--seed", "1") == 0
    assert [(row["ours"], row["seeds"]) for row in read()["rows"]] == [(6.0, 3), (3.0, 3)]
    assert call("--num-seeds", "3", "--seed", "1") == 0 and asked == [(1, 3, False)]


def test_seeds_that_a_computation_has_of_its_own_are_counted(place, monkeypatch):
    runs = (
        Computed(
            "2x2/size", lambda seeds: {"size": [1.0] * seeds}, {"seeds": 3}, 7, rows=(Row(statistics.named("size")),)
        ),
    )
    use(monkeypatch, Table("tiny", title="Sizes", source="", runs=runs))
    assert call() == 0 and [row["seeds"] for row in read()["rows"]] == [3]


def test_picture_of_estimators_has_a_line_for_each():
    one = LOAD("estimators")
    rows = [finished(name, 0.5) for name in one.row_names()]
    bias, _ = one.draw(rows, one.title, one.source).axes
    assert [line.get_xdata().tolist() for line in bias.get_lines()] == [[1, 2, 4, 8]] * 6
