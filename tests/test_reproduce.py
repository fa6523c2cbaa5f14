"""`jaxmeta reproduce`, with a tiny table in place of a published one: what it runs, keeps, writes, and refuses."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
import types

import numpy as np
import pytest

import jaxmeta as jm
from jaxmeta import cli, logging, plot, reproduce, runs
from jaxmeta.reproduce import base, files, statistics
from jaxmeta.reproduce.base import Evaluation, Reference, Required, Row, Table, Trained

FIELDS = ["name", "ours", "stderr", "published", "optimum", "num_trials", "seeds", "wall_s", "required", "met", "ci95"]
FIELDS += ["command", "updates", "seed", "device", "versions", "commit", "quick"]
TASKS = "--tasks.num-states 2 --tasks.num-actions 2 --tasks.num-episodes 2 --tasks.horizon 1"
TINY = f"{TASKS} --algo.num-tasks 4 --algo.hidden 4 --algo.ppo.epochs 1"
TINY += " --algo.ppo.minibatches 1 --algo.ppo.anneal-over {updates} --eval-tasks 0"
TRIALS = 16


def table(updates=2, least=0.0, flags=TINY):
    few = (Evaluation(num_tasks=TRIALS),)
    longer = Evaluation("longer", TRIALS, tasks="--tasks.horizon 3")
    required = Required(least=least, up_to_optimum=True)
    rows = (
        Row(statistics.trial_return, "total", published=1.5, optimum=lambda: 9.0, required=required),
        Row(statistics.episode_return(1), "second"),
        Row(statistics.episode_length(0), "length of longer", evaluation="longer"),
    )
    chance = Row(statistics.trial_return, published=1.25, required=Required(least=99.0, platform="gpu"))
    rule = Reference(
        "2x2/random", "tabular.random", {"num_actions": 2}, "tabular", TASKS, rows=(chance,), evaluations=few
    )
    agent = Trained("2x2/rl2", "rl2", "tabular", flags, updates, rows=rows, evaluations=(*few, longer))
    return Table("tiny", title="Two states", source="published nowhere", runs=(rule, agent))


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """A folder to work in, with a table named tiny."""
    (tmp_path / "benchmarks" / "results").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(reproduce.TABLES, "tiny", "")
    use(monkeypatch, table())
    return tmp_path


def use(monkeypatch, one):
    monkeypatch.setattr(reproduce, "load", lambda name: one)


def call(*arguments):
    return cli.main(["reproduce", "tiny", "--out", "out", *arguments])


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
    assert total["required"] == {"mean": [0.0, pytest.approx(9.0 + 3 * total["stderr"])]} and total["met"]
    assert (total["updates"], total["seed"], total["quick"]) == (2, 0, False)
    assert "cpu" in total["device"] and total["versions"]["jax"] and total["wall_s"] > 0
    assert read() == printed == read("benchmarks/results/reproduce-tiny.json")
    for picture in ("out/table.png", "benchmarks/results/reproduce-tiny.png"):
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


def test_another_configuration_is_refused_and_nothing_overwritten(place, capsys, monkeypatch):
    assert call("--rows", "2x2/rl2") == 0
    before, _ = stamps(place), capsys.readouterr()
    for change, words in (
        ({"flags": TINY.replace("hidden 4", "hidden 5")}, "algo.hidden is 5, but the run in out/2x2/rl2 has 4;"),
        ({"updates": 3, "flags": TINY.replace("{updates}", "2")}, "updates is 3, but the run in out/2x2/rl2 has 2;"),
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
    assert (place / "out/2x2/rl2/metrics.jsonl").stat().st_mtime_ns == trained


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


BAD_INPUT = {
    "reproduce": "needs the name of a table, one of bandit",
    "reproduce bandti": "did you mean 'bandit'?",
    "reproduce tiny --rows 2x2/rl": "no row '2x2/rl' in tiny; did you mean '2x2/rl2'? there are 2x2, whole or each",
    "reproduce tiny --rows 2x2,3x3": "no row '3x3'",
    "reproduce tiny --rows=": "no row ''",
    "reproduce tiny --seed -1": "--seed is -1",
    "reproduce tiny --num-seeds 0": "--num-seeds is 0",
    "reproduce tiny --quick --results here": "leave one out",
    "reproduce tiny --out taken": "out taken is a file",
    "reproduce tiny --results taken": "--results taken is a file",
    "reproduce tiny --out foreign": "foreign/2x2/rl2 is not empty and holds no run",
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
    known = {"published": 1.5, "optimum": None, "ci95": [ours - 0.1, ours + 0.1], "quick": False}
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


def test_rows_written_at_the_same_time_both_survive(place, monkeypatch):
    def slow(*arguments, draw=plot.published):
        time.sleep(0.2)  # the other writer has read the table by now, unless it is kept out
        return draw(*arguments)

    monkeypatch.setattr(plot, "published", slow)
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


def test_every_task_shares_the_trials_equally():
    family = jm.tasks.grid_navigation(jm.tasks.GridConfig(horizon=2, num_episodes=1))
    seen = types.SimpleNamespace()

    def note(learner, params, env, tasks, key, plan, deterministic):
        seen.goals = np.asarray(tasks.goal)

    goals = jm.tasks.all_goals()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jm, "evaluate", note)
        runs.trials(None, (), family, None, 50, 0, every_task=goals)
    _, counts = np.unique(seen.goals, axis=0, return_counts=True)
    assert counts.tolist() == [3] * 21


def test_ratio_of_lengths_and_its_error():
    random = np.random.default_rng(0)
    first = random.uniform(10, 20, 4000)
    lengths = np.stack([first, 0.7 * first + random.normal(size=4000)], -1)[:, None, None, :]
    point = statistics.length_ratio(1)(types.SimpleNamespace(lengths=lengths))
    assert point["mean"] == pytest.approx(0.7, abs=0.005)
    # of the ratio's parts only the noise of unit variance differs from task to task
    assert point["stderr"] == pytest.approx(1 / np.sqrt(4000) / 15, rel=0.05)
    assert statistics.episode_length(0)(types.SimpleNamespace(lengths=lengths))["mean"] == pytest.approx(first.mean())


LOAD = reproduce.load
DECLARED = [name for name in reproduce.TABLES if name != "tiny"]


@pytest.mark.parametrize("name", DECLARED)
def test_declared_table_is_well_formed(name, monkeypatch):
    one = LOAD(name)
    assert one.name == name and one.title and one.source
    row_names = one.row_names()
    assert len(set(row_names)) == len(row_names) and len({run.name for run in one.runs}) == len(one.runs)
    assert len(one.choose(None)) == len(one.runs) and one.choose(None, quick=True)
    for run in one.runs:
        assert "/" in run.name and [chosen.name for chosen in one.choose(run.name)] == [run.name]
        kinds = {evaluation.name for evaluation in run.evaluations}
        assert {row.evaluation for row in run.rows} == kinds
        for evaluation in run.evaluations:
            # its flags are known, and the tasks that differ can be built
            config = run.config(tasks=evaluation.tasks)
            spec = config.build_family().env.spec
            assert spec.observation == run.config().build_family().env.spec.observation
            assert evaluation.num_tasks >= 20_000 or (isinstance(run, Trained) and run.algo == "maml")
        if isinstance(run, Trained):
            assert run.config().updates == run.updates and run.quick().config().updates <= base.QUICK_UPDATES
        else:
            learner = jm.references
            for part in run.learner.split("."):
                learner = getattr(learner, part)
            if run.learner != "bandits.gittins":
                assert learner(**run.arguments).act


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


def test_picture_of_a_table_has_a_panel_per_group():
    rows = [finished(f"{group}/{agent}", ours=group) for group in range(8) for agent in "abcdefghij"]
    rows[3] |= {"ours": None, "stderr": None, "ci95": [None, None], "published": None}
    rows[10]["optimum"] = 3.0
    figure = plot.published(rows, "title", "source")
    assert [axes.get_title(loc="left") for axes in figure.axes] == [str(group) for group in range(8)]
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == list("abcdefghij")
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["published", "ours, 95 % interval", "optimum"]
    assert plot.published(rows[:1], "title", "source").axes[0].get_title(loc="left") == "0"
