"""`python -m benchmarks.throughput` at its smallest: what it measures and writes. No test asserts a speed."""

from __future__ import annotations

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import cells, faults, few_shot, inner_steps, multi_task_sac, scaling, sequence, surgery, throughput
from benchmarks.products import product_flop
from benchmarks.turns import take_turns

CHECKABLE = {"device", "processor", "cores", "versions", "commit", "time", "peak_memory_bytes", "repeats_s", "tasks"}
SMALL = "--repeats 2 --sequence.hidden 2 --sequence.width 2 --sequence.num-arms 2 --sequence.memory-length 1"
SMALL += " --sequence.cell-lengths 3 --sequence.cell-steps 6 --sequence.snail-lengths 2 --sequence.snail-steps 2"


def run(arguments, folder, capsys):
    """Returns the record, which is written as it is printed."""
    path = folder / "results" / "throughput.json"
    throughput.main([*arguments.split(), "--json", "--out", str(path)])
    record = json.loads(path.read_text())
    assert json.loads(capsys.readouterr().out) == record
    assert record.keys() >= CHECKABLE
    return record


@pytest.mark.parametrize(("tasks", "horizon"), [("bandit", 1), pytest.param("tabular", 10, marks=pytest.mark.slow)])
def test_whole_updates_of_rl2(tasks, horizon, tmp_path, capsys):
    record = run(f"--tasks {tasks} --num-tasks 8 --episodes 2 --updates 1 --repeats 2", tmp_path, capsys)
    sizes = {"rounds": 1, "episodes": 2, "horizon": horizon, "num_tasks": 8, "streams": 1, "updates_per_turn": 1}
    assert (record["algo"], record["sizes"]) == ("rl2", sizes)
    assert [len(turns) for turns in record["repeats_s"].values()] == [2, 2, 2]
    steps = 8 * 2 * horizon
    np.testing.assert_allclose(record["meta_steps_per_s"], steps / np.median(record["repeats_s"]["update"]))
    assert record["compile_s"] > 0 and record["second_order_ratio"] is None


def test_the_defaults_are_those_of_the_family():
    filled = {
        name: throughput.ThroughputConfig(tasks=name).filled()
        for name in ("bandit", "tabular", "grid-navigation", "ant-dir")
    }
    assert {name: (config.algo, config.num_tasks, config.horizon) for name, config in filled.items()} == {
        "bandit": ("rl2", 1024, None),
        "tabular": ("rl2", 1024, None),
        "grid-navigation": ("varibad", 128, None),
        "ant-dir": ("maml", 20, 100),
    }
    chosen = throughput.ThroughputConfig(algo="l2rl", tasks="bandit", num_tasks=8, horizon=3)
    assert chosen.filled() == chosen


@pytest.mark.slow
def test_gradients_over_long_trials(tmp_path, capsys):
    record = run(f"--tasks sequence {SMALL}", tmp_path, capsys)
    for comparison, length, num_trials, forms in (
        ("cells_against_gru", "3", 2, sequence.CELLS),
        ("snail_parallel_against_stepping", "2", 1, ("stepping", "parallel")),
    ):
        (measured,) = record[comparison].items()
        assert measured[0] == length and measured[1]["num_trials"] == num_trials
        measures = ("s", "steps_per_s", "compile_s", "temp_bytes", "params")
        names = {f"{form}_{measure}" for form in forms for measure in measures}
        assert measured[1].keys() == names | {"num_trials"} | {f"{form}_speedup" for form in forms[1:]}
        assert all(value > 0 for value in measured[1].values())
    for turns, forms in (("cells_3", sequence.CELLS), ("snail_2", ("stepping", "parallel"))):
        assert {form: len(seconds) for form, seconds in record["repeats_s"][turns].items()} == dict.fromkeys(forms, 2)
    assert record["memory"].keys() == {"lstm", *sequence.CELLS, "snail", "snail_as_deep_as_long"}
    for growth in record["memory"].values():
        assert growth["lengths"] == [1, 2, 4] and len(growth["temp_bytes"]) == 3
        assert growth["exponent"] == sequence.growth_exponent(growth["temp_bytes"])


def test_meta_training_beside_a_short_program(tmp_path, capsys):
    path = tmp_path / "few-shot.json"
    few_shot.main(["--batches", "4", "--tasks-per-turn", "8", "--repeats", "2", "--json", "--out", str(path)])
    record = json.loads(path.read_text())
    assert json.loads(capsys.readouterr().out) == record
    (row,) = record["table"]
    assert (row["num_tasks"], row["updates_per_turn"]) == (4, 2)
    for clock in ("wall", "cpu"):
        assert all(row[clock][name]["tasks_per_s"] > 0 for name in ("ours", "plain"))
        assert [len(turns) for turns in row[clock]["repeats_s"].values()] == [2, 2]


@pytest.mark.slow
def test_inner_steps(tmp_path, capsys):
    path = tmp_path / "steps.json"
    small = "--steps 2 --widths 4 --examples 3 --repeats 2 --truncation 1"
    inner_steps.main([*small.split(), "--json", "--out", str(path)])
    record = json.loads(path.read_text())
    assert json.loads(capsys.readouterr().out) == record
    (row,) = record["table"]
    assert (row["width"], row["steps"]) == (4, 2)
    ways = {name: one for name, one in row.items() if isinstance(one, dict)}
    assert ways.keys() == {"plain", "rematerialised", "mixed", "truncated", "implicit"}
    assert all(one["temp_bytes"] > 0 and len(one["repeats_s"]) == 2 for one in ways.values())
    assert ways["mixed"]["gradient_error"] < 1e-5 < ways["truncated"]["gradient_error"]


def test_without_json_the_output_is_a_table(capsys, monkeypatch):
    record = {"speed": 1234.5, "memory": {"gru": {"exponent": 1.0}}, "sizes": {"rounds": 2}, "repeats_s": [1.0]}
    monkeypatch.setattr(throughput, "measure", lambda config: record)
    throughput.main([])
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines == [["speed", "1,234.500"], ["memory.gru.exponent", "1.000"], ["sizes", "{'rounds':", "2}"]]


def test_growth_exponent_of_a_power():
    for power in (1.0, 2.0):
        np.testing.assert_allclose(sequence.growth_exponent([3, 3 * 2**power, 3 * 4**power]), power)


def test_programs_alternate_and_the_first_repeat_is_discarded():
    calls = []
    seconds = take_turns({"one": lambda: calls.append("one"), "other": lambda: calls.append("other")}, repeats=2)
    assert calls == ["one", "other"] * 3
    assert [len(turns) for turns in seconds.values()] == [2, 2]


@pytest.mark.parametrize("field", ["cell_lengths", "snail_lengths"])
def test_a_trial_without_steps_is_refused(field):
    with pytest.raises(ValueError, match=rf"{field} is \(5, 0\); all lengths must be at least 1"):
        dataclasses.replace(sequence.SequenceConfig(), **{field: (5, 0)})


@pytest.mark.slow
def test_runs_of_multi_task_sac_are_added_to_those_of_the_same_sizes(tmp_path, capsys):
    path = tmp_path / "multi-task-sac.json"
    sizes = "--speeds 0.5 1.0 --horizon 2 --updates 1 --evaluate-every 1 --streams 1 --gradient-steps 1 --batch-size 2"
    for seed in ("0", "1"):
        line = f"{sizes} --hidden 4 --networks heads --seeds {seed} --out {path}"
        multi_task_sac.main(line.split())
    record = json.loads(path.read_text())
    assert [(run["network"], run["seed"], len(run["curve"])) for run in record["runs"]] == [
        ("heads", 0, 2),
        ("heads", 1, 2),
    ]
    last = [run["curve"][-1]["return"] for run in record["runs"]]
    np.testing.assert_allclose(record["return_by_task"]["heads"], np.mean(last, axis=0))
    assert record["return_standing_still"] == [-1.0, -2.0]
    with pytest.raises(ValueError, match="which was measured with other sizes"):
        multi_task_sac.main(f"{sizes} --hidden 5 --networks heads --seeds 0 --out {path}".split())


# what compiles for long: tests/devices/test_devices.py and tests/experiment/test_survival.py have the same in small
SLOW_FAULTS = {"devices", "kills", "signals"}
FAULTS = [pytest.param(row, marks=pytest.mark.slow) if row in SLOW_FAULTS else row for row in faults.ROWS]


@pytest.mark.parametrize("row", FAULTS)
def test_faults(row, tmp_path, capsys, monkeypatch):
    """Every row of the fault table, in its quick form."""
    monkeypatch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "true")  # of the processes that it starts
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for bound in ("MAX_EXIT_SECONDS", "MAX_REFUSAL_SECONDS"):
        monkeypatch.setattr(faults, bound, np.inf)
    path = tmp_path / "faults.json"
    code = faults.main(["--quick", "--rows", row, "--json", "--out", str(path)])
    record = json.loads(path.read_text())
    assert json.loads(capsys.readouterr().out) == record
    assert record.keys() == {row} and record[row].keys() >= {"must", "found", "met", "about", "commit", "quick"}
    assert (code, record[row]["met"]) == (0, True), record[row]["found"]


def test_what_an_update_would_communicate():
    config = scaling.ScalingConfig(bandwidth=1e9, latency=1e-6)
    # few bytes go through a tree, many around a ring: 2 x 3 messages, and 14 that carry 7/8 of the bytes twice
    np.testing.assert_allclose(scaling.all_reduce_seconds(config, 10, 8), 20 / 1e9 + 6e-6)
    np.testing.assert_allclose(scaling.all_reduce_seconds(config, 10**6, 8), 2 * 7 / 8 * 1e-3 + 14e-6)
    found = scaling.estimate(config, "rl2", "bandit")
    # 2 epochs of 8 minibatches; 1,024 trials of 10 pulls, seen once to collect and three times an epoch
    assert (found["of_gradients"], found["network_steps_per_device"]) == (16, 1024 * 10 * 7)
    assert 0 <= found["bytes"] - 16 * found["param_bytes"] < 16 * 100
    np.testing.assert_allclose(found["compute_s"], 2 * (found["param_bytes"] / 4) * 71_680 / 1e12)
    for count, one in found["devices"].items():
        least = 16 * scaling.all_reduce_seconds(config, found["param_bytes"], count)
        assert least <= one["communication_s"] < least + found["all_reduces"] * 2 * np.log2(count) * 1.1e-6
        np.testing.assert_allclose(one["share"], one["communication_s"] / (one["communication_s"] + found["compute_s"]))


@pytest.mark.slow
def test_surgery(tmp_path, capsys):
    path, small = tmp_path / "surgery.json", "--num-tasks 2 --streams 2 --horizon 2 --hidden 4 --epochs 1 --updates 1"
    surgery.main([*small.split(), "--repeats", "2", "--json", "--out", str(path)])
    record = json.loads(path.read_text())
    assert json.loads(capsys.readouterr().out) == record
    assert record.keys() >= CHECKABLE - {"peak_memory_bytes"}
    ratios = {
        name: np.median(np.divide(turns, record["repeats_s"]["mean"])) for name, turns in record["repeats_s"].items()
    }
    assert ratios.keys() == {"mean", "pcgrad", "cagrad", "min_norm"}
    np.testing.assert_allclose(list(record["time_over_mean"].values()), list(ratios.values()))


@pytest.mark.slow
def test_cells(tmp_path, capsys):
    path, small = tmp_path / "cells.json", "--cells gru s5 --seconds 1e-3 --num-tasks 4 --episodes 2 --hidden 8"
    cells.main([*small.split(), "--updates", "1", "--eval-tasks", "2", "--json", "--out", str(path)])
    record = json.loads(path.read_text())
    assert json.loads(capsys.readouterr().out) == record
    assert record.keys() >= CHECKABLE - {"tasks"}
    assert {name: (one["updates"], one["env_steps"]) for name, one in record["cells"].items()} == {
        "gru": (1, 8),
        "s5": (1, 8),
    }
    assert record["cells"]["gru"]["speed_over_gru"] == 1.0
    # a carry of 8 floats for policy and value each, and two layers of 4 complex numbers for the policy alone
    assert {name: one["memory_bytes"] for name, one in record["cells"].items()} == {"gru": 64, "s5": 64}


def test_matrix_products_are_counted_as_often_as_they_are_computed():
    square, wide = jnp.ones((2, 2)), jnp.ones((2, 2, 5))

    def program(left):
        for_each = jax.vmap(lambda right: left @ right, -1)(wide)  # 5 products
        in_turn = jax.lax.scan(lambda carry, _: (carry @ left, ()), left, length=3)[0]
        chosen = jax.lax.cond(left[0, 0] > 0, lambda: left @ left @ left, lambda: left)  # 2 in its longer branch
        searched = jax.lax.while_loop(lambda one: one[0, 0] > 0, lambda one: one @ left, left)  # counts once
        return for_each.sum() + in_turn + chosen + searched

    assert product_flop(jax.make_jaxpr(program)(square).jaxpr) == (5 + 3 + 2 + 1) * 2 * 2 * (2 * 2)
