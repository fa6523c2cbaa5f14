"""The command line, run in this process: what it writes, prints, and refuses."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import types

import chex
import jax
import numpy as np
import pytest

import jaxmeta as jm
from jaxmeta import cli, outer, tasks
from jaxmeta.algos.gradient.maml import MAMLConfig
from jaxmeta.cli import parsing, startup, train
from jaxmeta.config import codec
from jaxmeta.core.checkpoint import keys_as_data
from jaxmeta.experiment import loading, logging, provenance, registry, runs
from tests import tiny
from tests.built_once import built_anew, remembering

TINY_MAML = ["train", "maml", "navigation", "--tasks.horizon", "5", "--algo.num-tasks", "2", "--algo.streams", "2"]
TINY_MAML += ["--algo.hidden", "8", "--algo.outer-loop", "ppo", "--algo.ppo.epochs", "1"]
TINY_RL2 = ["train", "rl2", "bandit", "--num-seeds", "2", "--tasks.num-pulls", "3", "--algo.num-tasks", "4"]
TINY_RL2 += ["--algo.hidden", "8", "--algo.ppo.epochs", "1", "--algo.ppo.minibatches", "1"]
STATISTICS = {"mean", "stderr", "iqm", "ci95"}
built_once = pytest.fixture(scope="module", autouse=True)(remembering)


@pytest.fixture(scope="module")
def maml_run(tmp_path_factory):
    """Four updates of MAML, in one go."""
    folder = tmp_path_factory.mktemp("runs") / "maml"
    assert cli.main([*TINY_MAML, "--out", str(folder), "--updates", "4", "--eval-tasks", "4"]) == 0
    return folder


@pytest.fixture(scope="module")
def rl2_run(tmp_path_factory):
    """Two seeds of RL², two updates in one device call."""
    folder = tmp_path_factory.mktemp("runs") / "rl2"
    assert cli.main([*TINY_RL2, "--out", str(folder), "--updates", "2", "--chunk", "2", "--eval-tasks", "4"]) == 0
    return folder


def test_training_writes_a_complete_run_folder(maml_run):
    names = {"config.json", "metrics.jsonl", "evaluation.json", "learning.png", "adaptation.png"}
    assert {entry.name for entry in maml_run.iterdir()} == names | {"checkpoints", "tensorboard", ".lock"}
    assert list((maml_run / "tensorboard").glob("events*"))
    config = json.loads((maml_run / "config.json").read_text())
    assert (config["algo"], config["tasks"], config["seed"], config["num_seeds"]) == ("maml", "navigation", 0, 1)
    assert (config["updates"], config["algo_config"]["hidden"], config["tasks_config"]["horizon"]) == (4, [8], 5)
    assert set(config["versions"]) == {"python", "jaxmeta", "jax", "jaxlib", "brax"}
    assert "cpu" in config["device"] and config["platform"] == "cpu"
    assert (config["commit"], config["cores"]) == (provenance.commit(), os.cpu_count())


def test_metrics_have_one_line_per_update(maml_run):
    records = [json.loads(line) for line in (maml_run / "metrics.jsonl").read_text().splitlines()]
    assert [record["update"] for record in records] == [1, 2, 3, 4]
    # 2 tasks x 2 rounds x 2 streams x 5 steps, unless an episode ends early
    assert all(later["env_steps"] > earlier["env_steps"] for earlier, later in itertools.pairwise(records))
    assert records[-1]["env_steps"] <= 4 * 40
    assert {"seconds", "return/first", "return/last", "return/round_0"} <= set(records[0])
    assert "seeds" not in records[0]


def test_a_revealed_task_is_shown_in_training_evaluation_and_resumption(tmp_path, capsys):
    run = tmp_path / "oracle"
    sizes = ["--tasks.num-arms", "2", "--tasks.num-pulls", "1", "--algo.num-tasks", "4", "--algo.hidden", "4"]
    train = ["train", "ppo", "bandit", "--out", str(run), "--eval-tasks", "0"]
    assert cli.main([*train, *sizes, "--updates", "1", "--reveal"]) == 0
    assert runs.read_config(run).reveal
    assert cli.main([*train, "--resume", "--updates", "2"]) == 0
    capsys.readouterr()
    assert cli.main(["evaluate", str(run), "--num-tasks", "3", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["step"] == 2
    # one observation and the two arms
    kernel = jm.load(run).params["params"]["MLP_0"]["Dense_0"]["kernel"]
    assert kernel.shape[0] == jm.tasks.bandit().env.spec.observation[0] + 2


def test_metrics_list_the_seeds(rl2_run):
    record = runs.read_metrics(rl2_run)[-1]
    first = record["seeds"]["return/first"]
    assert len(first) == 2
    assert record["return/first"] == pytest.approx(sum(first) / 2)
    assert record["env_steps"] == 2 * 4 * 3  # updates x tasks x pulls, per seed


def test_evaluate_prints_one_json_object(maml_run, capsys):
    arguments = ["evaluate", str(maml_run), "--num-tasks", "3", "--rounds", "2", "--seed", "5", "--deterministic"]
    assert cli.main([*arguments, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert [len(episodes) for episodes in result["returns"]] == [1, 1, 1]
    for point in (result["returns"][0][0], result["trial_return"], result["gain"]):
        assert set(point) == STATISTICS
        assert point["ci95"][0] <= point["mean"] <= point["ci95"][1]
    assert all(0 <= point["mean"] <= 1 for episodes in result["success"] for point in episodes)
    assert (result["num_tasks"], result["seed"], result["step"]) == (3, 5, 4)
    assert (result["algo"], result["tasks"]) == ("maml", "navigation")


def test_evaluate_takes_seeds_together_and_marks_the_unadapted_policy(rl2_run, capsys):
    assert cli.main(["evaluate", str(rl2_run), "--num-tasks", "4"]) == 0
    printed = capsys.readouterr().out
    assert "4 held-out tasks x 2 seeds" in printed
    assert "episode 1 (the unadapted policy)" in printed
    assert "episode 3" in printed and "episode 4" not in printed


def test_training_evaluates_as_evaluate_does(maml_run, capsys):
    assert cli.main(["evaluate", str(maml_run), "--num-tasks", "4", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads((maml_run / "evaluation.json").read_text())


def test_resumed_run_equals_uninterrupted(maml_run, tmp_path, capsys, monkeypatch):
    def fail(self, update, state, metrics):
        raise OSError("disk full")

    def note(self, update, state, metrics, write=logging.JsonLines.__call__):
        write(self, update, state, metrics)
        if update == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    arguments = [*TINY_MAML, "--out", str(tmp_path / "run"), "--updates", "3", "--eval-tasks", "0"]
    with monkeypatch.context() as patch:
        patch.setattr(logging.TensorBoard, "__call__", fail)
        patch.setattr(logging.JsonLines, "__call__", note)
        assert cli.main(arguments) == 143
    told = capsys.readouterr().err
    assert told.count("TensorBoard failed") == 1 and "disk full" in told
    assert "stopped at update 2" in told
    # lines after the checkpoint, the last one cut short, as a crash leaves them
    with (tmp_path / "run" / "metrics.jsonl").open("a") as file:
        file.write('{"update": 3, "env_steps": 1.0}\n{"update": 4, "env')

    resume = ["train", "maml", "navigation", "--out", str(tmp_path / "run"), "--resume", "--updates", "4"]
    assert cli.main([*resume, "--eval-tasks", "0"]) == 0

    def lines(folder):
        return [{k: v for k, v in record.items() if k != "seconds"} for record in runs.read_metrics(folder)]

    assert lines(tmp_path / "run") == lines(maml_run)
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 4
    assert runs.read_config(tmp_path / "run") == runs.read_config(maml_run)
    resumed, whole = loading.load(tmp_path / "run"), loading.load(maml_run)
    assert resumed.step == whole.step == 4
    chex.assert_trees_all_equal(jax.device_get(resumed.params), jax.device_get(whole.params))


def test_a_run_goes_on_with_another_number_of_devices(tmp_path):
    sizes = ["--tasks.num-pulls", "2", "--algo.num-tasks", "4", "--algo.streams", "2", "--algo.hidden", "4"]
    train = ["train", "ppo", "bandit", *sizes, "--algo.ppo.epochs", "1", "--algo.ppo.minibatches", "1"]
    train += ["--eval-tasks", "0"]
    for folder, devices, updates, more in (
        ("mixed", "2", "1", []),
        ("mixed", "1", "2", ["--resume"]),
        ("one", "1", "2", []),
    ):
        out = ["--out", str(tmp_path / folder), "--devices", devices, "--updates", updates]
        assert cli.main([*train, *out, *more]) == 0
    mixed, one = (keys_as_data(loading.load(tmp_path / folder).state) for folder in ("mixed", "one"))
    chex.assert_trees_all_close(*map(jax.device_get, (mixed, one)), rtol=1e-5, atol=1e-6)


def test_skipped_updates_end_with_exit_code_3_and_a_dump(maml_run, tmp_path, capsys, monkeypatch):
    """A run of four finite updates goes on where every reward is NaN."""

    def step(self, key, state, action, task, original=tasks.Navigation.step):
        state, step = original(self, key, state, action, task)
        return state, step.replace(reward=step.reward * np.nan)

    folder = shutil.copytree(maml_run, tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr(tasks.Navigation, "step", step)
        patch.setattr(runs.RunConfig, "build", built_anew())  # with this step, once for both runs
        resume = ["train", "maml", "navigation", "--out", str(folder), "--resume", "--updates", "20", "--chunk", "5"]
        assert cli.main([*resume, "--eval-tasks", "0"]) == 3
        in_the_way = shutil.copytree(maml_run, tmp_path / "other")
        (in_the_way / runs.NON_FINITE).write_text("a file")
        resume[resume.index(str(folder))] = str(in_the_way)
        assert cli.main([*resume, "--eval-tasks", "0"]) == 3
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("jaxmeta: ")]
    dump = folder / runs.NON_FINITE
    assert told == [
        "jaxmeta: 5 updates in a row were not finite: the environment in 2 tasks; the params are those of update 4;"
        f" the state is in {dump} to look at, the last checkpoint is of update 4",
        "jaxmeta: 5 updates in a row were not finite: the environment in 2 tasks; the params are those of update 4;"
        f" the state cannot be saved to {in_the_way / runs.NON_FINITE}: [Errno 20] Not a directory:"
        f" '{in_the_way / runs.NON_FINITE / '4.partial'}', the last checkpoint is of update 4",
    ]
    before = loading.load(maml_run)
    state = jm.Checkpointer(dump).restore(jm.state_form(before.meta), 4)
    assert (int(state.skipped), int(state.step)) == (5, 9)
    for part in ("params", "opt_state"):
        chex.assert_trees_all_equal(*(jax.device_get(getattr(one, part)) for one in (state, before.state)))


def test_a_resumed_run_records_the_commit_of_each_part(tmp_path, monkeypatch):
    arguments = [*TINY_MAML, "--out", str(tmp_path / "run"), "--eval-tasks", "0", "--updates"]
    commits = []
    for commit, updates, more in (("abc", "1", []), ("abc", "2", ["--resume"]), ("def", "3", ["--resume"])):
        monkeypatch.setattr(provenance, "commit", lambda commit=commit: commit)
        assert cli.main([*arguments, updates, *more]) == 0
        commits.append(runs.read_config(tmp_path / "run").commit)
    assert commits == ["abc", "abc", "abc, def"]
    # with nothing left to train it stays, and what is not known of the beginning is not made up
    monkeypatch.setattr(provenance, "commit", lambda: "fed")
    assert cli.main([*arguments, "3", "--resume"]) == 0
    assert runs.read_config(tmp_path / "run").commit == "abc, def"
    assert provenance.continued(None, "fed") is None


def test_a_run_starts_from_the_params_of_another(rl2_run, tmp_path, monkeypatch):
    longer = [*TINY_RL2[1:], "--tasks.num-pulls", "4", "--out", str(tmp_path / "longer"), "--eval-tasks", "0"]
    begun = [*longer, "--updates", "1", "--start-from", str(rl2_run)]
    _, config = train.configure(begun)
    _, meta = config.build()
    start, random = loading.fresh_state(config, meta), jm.init_state(meta, jax.random.key(0), 2)
    chex.assert_trees_all_equal(start.params, jm.load(rl2_run).params)
    rest = [keys_as_data(state.replace(params=(), key=())) for state in (start, random)]
    chex.assert_trees_all_equal(*rest)
    # not those tasks again that were learned on
    keys = np.array([jax.random.key_data(state.key) for state in (start, random)])
    assert len(np.unique(keys.reshape(4, -1), axis=0)) == 4

    assert cli.main(["train", *begun]) == 0
    trained, step = jm.load(tmp_path / "longer").params, config.algo_config.ppo.learning_rate
    far = jax.tree.map(lambda *two: np.abs(np.subtract(*two)).max(), trained, start.params)
    assert 0.0 < max(jax.tree.leaves(far)) < 1.01 * step  # a step of Adam
    stored = runs.read_config(tmp_path / "longer")
    assert stored.start == {"update": 2, "config": json.loads((rl2_run / "config.json").read_text())}
    # goes on as what it is, however its folder is named, and with nothing else
    resumed = [*longer, "--updates", "2", "--resume"]
    monkeypatch.chdir(rl2_run)
    for again in ([], ["--start-from", "."]):
        assert train.configure([*resumed, *again])[1] == dataclasses.replace(stored, updates=2)
    with pytest.raises(parsing.UsageError, match="--start-from is .*/elsewhere, but the run"):
        train.configure([*resumed, "--start-from", "elsewhere"])


def test_start_from_uses_the_recorded_update_or_fails(rl2_run, tmp_path):
    start = tmp_path / "start"
    shutil.copytree(rl2_run, start)
    _, config = train.configure([*TINY_RL2[1:], "--out", str(tmp_path / "new"), "--start-from", str(start)])
    _, meta = config.build()
    # it has gone on to other updates since
    with pytest.raises(codec.RunError, match="start_from is .*/start: "):
        loading.fresh_state(dataclasses.replace(config, start=config.start | {"update": 1}), meta)
    for file in (start / "checkpoints" / "2").rglob("*"):
        if file.is_file() and file.stat().st_size > 100:
            file.write_bytes(file.read_bytes()[:-50])
    with pytest.raises(codec.RunError, match="start_from is .*/start: "):
        loading.fresh_state(config, meta)


BAD_INPUT = {
    "": "no command",
    "trian maml navigation": "did you mean 'train'?",
    "train maml": "ALGO and TASKS",
    "train --out {new} maml navigation": "ALGO and TASKS",
    "train mamml navigation --out {new}": "did you mean 'maml'?",
    "train maml navigatoin --out {new}": "did you mean 'navigation'?",
    "train maml navigation": "--out is missing",
    "train maml navigation --out {new} --algo.inner-lr -1": "algo.inner_lr is -1.0",
    "train maml navigation --out {new} --algo.inner-lr nan": "algo.inner_lr is nan",
    "train maml navigation --out {new} --algo.inner-lr inf": "algo.inner_lr is inf",
    "train maml navigation --out {new} --algo.num-tasks 0": "algo.num_tasks is 0",
    "train maml navigation --out {new} --algo.num-tasks 0 --algo.ppo.clip nan": "algo.ppo.clip is nan",
    "train rl2 bandit --out {new} --algo.hidden 0 --algo.ppo.learning_rate=-inf": "algo.ppo.learning_rate is -inf",
    "train ppo bandit --out {new} --algo.ppo.regularise.l1=-1": "algo.ppo.regularise.l1 is -1",
    "train maml navigation --out {new} --tasks.horizon 0 --tasks.extent nan": "tasks.extent is nan; it must be finite",
    "train maml navigation --out {new} --wandb mine": 'try pip install "jaxmeta[wandb]"',
    "train maml navigation --out {new} --algo.trpo.max-kl 0": "algo.trpo.max_kl is 0.0",
    "train maml navigation --out {new} --tasks.horizon 0": "tasks.horizon is 0",
    "train rl2 bandit --out {new} --tasks.num-arms 0": "(try --tasks.num-arms 10)",
    "train rl2 bandit --out {new} --algo.num-tasks 3": "algo.ppo.minibatches is 8",
    "train rl2 bandit --out {new} --algo.episodes few": "--algo.episodes is 'few'; it must be an integer or None",
    "train maml navigation --out {new} --algo.hidden a b": "--algo.hidden is 'a b'; it must be integers",
    "train maml navigation --out {new} --algo.outer-loop sgd": "one of 'trpo', 'ppo'",
    "train ppo classic-control --out {new} --tasks.kinds acrobot cartpole": "it must be some of 'acrobot', 'cart-pole'",
    "train ppo classic-control --out {new} --tasks.kinds acrobot pendulum": "must be all Discrete or all Continuous",
    "train ppo cart-pole --out {new} --tasks.length 1.5 0.25": "tasks.length is (1.5, 0.25); a range is LOW HIGH",
    "train multi-task navigation --out {new}": "tasks.train_tasks is None: the family is a distribution",
    "train multi-task navigation --out {new} --algo.network heads --algo.surgery pcgrad": "tasks.train_tasks is None",
    "train multi-task classic-control --out {new} --tasks.kinds acrobot --algo.surgery min-norm": "algo.surgery is",
    "train multi-task classic-control --out {new} --algo.visits 3": "algo.ppo.minibatches is 4; it must divide visits",
    "train multi-task classic-control --out {new} --algo.surgery sum": "one of 'mean', 'pcgrad'",
    "train multi-task classic-control --out {new} --algo.balance 1 2 3": "balance is (1.0, 2.0, 3.0), but the family",
    "train multi-task classic-control --out {new} --algo.balance 1 -2": "all weights must be positive and finite",
    "train multi-task classic-control --out {new} --algo.balance inf 1": "algo.balance is inf 1; it must be finite",
    "train multi-task classic-control --out {new} --algo.balance": "algo.balance is (); give a weight for every task",
    "train multi-task classic-control --out {new} --algo.balance popart": "'returns' or numbers",
    "train multi-task classic-control --out {new} --tasks.kinds acrobot --algo.balance 1": "but the family has 1 task",
    "train multi-task classic-control --out {new} --algo.balance returns --algo.ppo.value-weight 0": "weight is 0.0",
    "train multi-task navigation --out {new} --algo.balance uncertainty": "tasks.train_tasks is None",
    "train multi-task sinusoid --out {new}": "no algorithm for supervised tasks 'multi-task'",
    "train maml navigation --out {new} --seed one": "--seed is 'one'; it must be an integer",
    "train maml navigation --out {new} --seed -1": "--seed is -1",
    "train maml navigation --out {new} --updates 0": "--updates is 0",
    "train maml navigation --out {new} --updates 2.5": "--updates is '2.5'; it must be an integer",
    "train maml navigation --out {new} --updates": "--updates needs a value",
    "train maml navigation --out {new} --num-seeds 0": "--num-seeds is 0",
    "train maml navigation --out {new} --chunk 0": "--chunk is 0",
    "train maml navigation --out {new} --algo.num-tasks 3 --devices 2": "must be a multiple of 2 (try --devices 1)",
    "train maml navigation --out {new} --algo.num-task 3": "did you mean '--algo.num-tasks'?",
    "train maml navigation --out {new} extra": "'extra' is one argument too many",
    "train maml navigation --out {file}": "is a file",
    "train maml navigation --out {file}/run": "cannot be written",
    "train maml navigation --out {run}": "is not empty; add --resume",
    "train maml navigation --out {new} --resume": "is not a run folder",
    "train rl2 navigation --out {run} --resume": "ALGO is rl2, but the run",
    "train maml navigation --out {run} --resume --seed 3": "--seed is 3, but the run",
    "train maml navigation --out {run} --resume --algo.ppo.clip 0.3": "--algo.ppo.clip is 0.3, but the run",
    "train maml navigation --out {run} --resume --updates 1": "--updates is 1; it must be at least 4",
    "train maml navigation --out {new} --start-from {new}": "--start-from: ",
    "train rl2 bandit --out {new} --start-from {run}": "ALGO is rl2, but the run in --start-from",
    "train pearl navigation --out {new} --start-from {run}": "continue that run with --resume",
    "train multi-task half-cheetah-dir --out {new} --algo.outer-loop sac --start-from {run}": "continue that run with",
    "train multi-task classic-control --out {new} --algo.outer-loop sac": "soft actor-critic needs continuous actions",
    "train rl2 bandit --out {new} --start-from {rl2}": "--num-seeds is 1, but the run in --start-from",
    "train rl2 bandit --out {new} --start-from {rl2} --num-seeds 2": "use a run with the same network",
    "evaluate": "needs the folder",
    "evaluate {new}": "is not a run folder",
    "evaluate {run} --num-tasks 0": "--num-tasks is 0",
    "evaluate {run} --rounds -1": "--rounds is -1",
    "evaluate {run} --jsn": "did you mean '--json'?",
    "evaluate {rl2} --rounds 2": "was meta-trained without adaptation between rounds",
    "plot {file}": "is not a run folder",
}


@pytest.mark.parametrize("line", BAD_INPUT)
def test_bad_input_gives_one_line_and_writes_nothing(line, maml_run, rl2_run, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)  # as if it were not installed
    (tmp_path / "file").write_text("mine")
    where = {"new": tmp_path / "new", "file": tmp_path / "file", "run": maml_run, "rl2": rl2_run}

    def files():
        return {path: path.stat().st_mtime_ns for folder in (tmp_path, maml_run.parent) for path in folder.rglob("*")}

    before = files()
    assert cli.main(line.format(**where).split()) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("jaxmeta: ") and printed.err.count("\n") == 1
    assert BAD_INPUT[line] in printed.err
    assert files() == before


def test_off_policy_algorithms_are_registered_as_such():
    """`train --start-from` refuses them: more than parameters carries what they have learned."""
    fields = {name: [type(value) for value in vars(config).values()] for name, config in tiny.ALGOS.items()}
    with_critics = {name for name, kinds in fields.items() if outer.OffPolicyConfig in kinds}
    assert with_critics == registry.OFF_POLICY
    off_policy = {name for name, config in tiny.ALGOS.items() if registry.is_off_policy(name, config)}
    assert off_policy == registry.OFF_POLICY
    assert registry.is_off_policy("multi-task", tiny.VARIANTS["multi-task-sac"][1])


CALLBACK = "INTERNAL: CpuCallback error calling callback: Traceback (most recent call last):\n  ...\nOSError: no robot"
MEMORY = "RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes.\nBufferAssignment OOM Debugging.\n..."


@pytest.mark.parametrize(
    ("place", "name", "error", "words"),
    [
        (jm, "train", jax.errors.JaxRuntimeError(MEMORY), "9 bytes.; reduce --algo.num-tasks, --algo.streams or"),
        (jm, "train", jax.errors.JaxRuntimeError("INTERNAL: no"), "INTERNAL: no\n"),
        (jm, "train", jax.errors.JaxRuntimeError(CALLBACK), "jaxmeta: OSError: no robot\n"),
        (jm.Checkpointer, "save", OSError(28, "No space left on device"), "update 1 cannot be saved: [Errno 28] No"),
        # what Orbax raises of a full disk
        (
            jm.Checkpointer,
            "save",
            ValueError("RESOURCE_EXHAUSTED: a\n b"),
            "cannot be saved: RESOURCE_EXHAUSTED: a b\n",
        ),
        (runs, "write_config", OSError(28, "No space left on device"), "[Errno 28] No space left on device\n"),
    ],
)
def test_device_and_memory_errors_are_one_line(place, name, error, words, tmp_path, capsys, monkeypatch):
    def fail(*arguments, **named):
        raise error

    # one update, saved at once; only the tasks differ in what is compiled
    monkeypatch.setattr(place, name, fail)
    arguments = [*TINY_MAML, "--out", str(tmp_path / "run"), "--updates", "1", "--eval-tasks", "0"]
    assert cli.main(arguments) == 1
    told = [line for line in capsys.readouterr().err.splitlines(keepends=True) if line.startswith("jaxmeta: ")]
    assert len(told) == 1 and words in told[0]


def test_evaluation_out_of_memory_names_its_own_flags(maml_run, capsys, monkeypatch):
    def fail(*arguments, **named):
        raise jax.errors.JaxRuntimeError(MEMORY)

    monkeypatch.setattr(jm, "evaluate", fail)
    assert cli.main(["evaluate", str(maml_run)]) == 1
    assert "9 bytes.; reduce --num-tasks or --streams\n" in capsys.readouterr().err


def test_failed_write_does_not_shift_the_step_count(tmp_path):
    (tmp_path / "run").mkdir()
    lines = logging.JsonLines(str(tmp_path / "run"))
    (tmp_path / "run" / "metrics.jsonl").mkdir()
    with pytest.raises(OSError):
        lines(2, None, {"env_steps": np.array([10.0, 10.0])})
    (tmp_path / "run" / "metrics.jsonl").rmdir()
    lines(3, None, {"env_steps": np.array([10.0])})
    (record,) = runs.read_metrics(tmp_path / "run")
    assert (record["update"], record["env_steps"]) == (3, 30.0)


@pytest.fixture
def wandb(monkeypatch):
    """A module in place of wandb, which notes what it is told."""
    told = types.SimpleNamespace(begun=[], logged=[], finished=0, broken=False)

    def init(**settings):
        told.begun.append(settings)
        if told.broken:
            raise RuntimeError("no network")
        return types.SimpleNamespace(log=lambda scalars, step: told.logged.append((step, scalars)), finish=finish)

    def finish():
        told.finished += 1

    module = types.ModuleType("wandb")
    monkeypatch.setattr(module, "init", init, raising=False)
    monkeypatch.setitem(sys.modules, "wandb", module)
    return told


def test_wandb_gets_the_scalars_of_every_update(wandb, maml_run, tmp_path):
    arguments = [*TINY_MAML, "--out", str(tmp_path / "run"), "--updates", "2", "--eval-tasks", "0"]
    assert cli.main([*arguments, "--wandb", "mine"]) == 0
    (settings,) = wandb.begun
    assert (settings["project"], settings["name"], settings["config"]["algo"]) == ("mine", "run", "maml")
    assert [step for step, _ in wandb.logged] == [1, 2]
    assert wandb.logged[1][1]["return/last"] == runs.read_metrics(maml_run)[1]["return/last"]
    assert wandb.finished == 1


def test_wandb_averages_seeds_and_is_initialised_only_once(wandb, tmp_path):
    log = logging.WandB("mine", tmp_path, {})
    log(4, None, {"a": np.array([[1.0, 3.0], [5.0, 7.0]])})
    assert wandb.logged == [(3, {"a": 2.0}), (4, {"a": 6.0})]
    wandb.broken = True
    log = logging.Guarded(logging.WandB("mine", tmp_path, {}))
    for update in (1, 2):
        log(update, None, {"a": np.ones(1)})
    assert len(wandb.begun) == 2 and len(wandb.logged) == 2


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (["algo_config", "inner_lr"], "fast", 'algo_config.inner_lr is "fast"; it must be a number'),
        (["algo_config", "num_tasks"], True, "algo_config.num_tasks is true; it must be an integer"),
        (["algo_config", "hidden"], 8, "algo_config.hidden is 8; it must be a list"),
        (["algo_config", "activation"], "sin", 'it must be one of "tanh", "relu", "swish"'),
        (["algo_config", "ppo", "clip"], "x", "algo_config.ppo.clip"),
        (["algo_config", "ppo", "epochs"], 0, "algo_config.ppo.epochs is 0"),
        (["algo_config", "ppo"], None, "algo_config.ppo is null"),
        (["algo_config", "ppo", "minibatches"], 3, "algo_config.ppo.minibatches is 3; it must divide num_tasks"),
        (["algo_config", "inner_rate"], 0.1, "algo_config.inner_rate is unknown"),
        (["algo"], "os", "algo: no algorithm 'os'"),
        (["seed"], "0", 'seed is "0"; it must be an integer'),
    ],
)
def test_a_damaged_config_error_names_the_field(path, value, words, maml_run, tmp_path):
    data = json.loads((maml_run / "config.json").read_text())
    inner = data
    for name in path[:-1]:
        inner = inner[name]
    inner[path[-1]] = value
    (tmp_path / "config.json").write_text(json.dumps(data))
    with pytest.raises(codec.RunError) as raised:
        runs.read_config(tmp_path)
    assert words in str(raised.value)


def test_a_run_of_an_earlier_version_is_refused_in_one_line(maml_run, tmp_path, capsys):
    data = json.loads((maml_run / "config.json").read_text())
    del data["format"]  # as 0.1 wrote it
    (tmp_path / "config.json").write_text(json.dumps(data))
    for command in (["evaluate", str(tmp_path)], ["train", "maml", "navigation", "--out", str(tmp_path), "--resume"]):
        code = cli.main(command)
        said = capsys.readouterr().err
        assert code == 2 and said.count("\n") == 1, said
        assert said.endswith("has format 1; this version reads format 2: use jaxmeta 0.1\n")
    assert [file.name for file in tmp_path.iterdir()] == ["config.json"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"format": 3, "versions": {"jaxmeta": "0.9.1"}}, "has format 3 (written by jaxmeta 0.9.1; this is {}); "),
        ({"format": 3, "versions": {"jaxmeta": "0.9.1"}}, "this version reads format 2: use jaxmeta 0.9.1"),
        ({"format": 3, "versions": None}, "has format 3 (it does not say which version wrote it; this is {}); "),
        ({"novelty": 1, "versions": {"jaxmeta": "0.9.1"}}, "(written by jaxmeta 0.9.1; this is {})"),
        (
            {"algo": "maml9", "versions": {"jaxmeta": "0.9.1"}},
            "did you mean 'maml'? `jaxmeta list` shows all (written by",
        ),
        ({"algo": ["maml"]}, 'algo is ["maml"]; it must be a string (written by jaxmeta {}; this is {})'),
        ({"versions": "new"}, "(it does not say which version wrote it; this is {})"),
    ],
)
def test_a_config_that_cannot_be_read_names_the_version_that_wrote_it(changes, words, maml_run, tmp_path, capsys):
    data = json.loads((maml_run / "config.json").read_text()) | changes
    (tmp_path / "config.json").write_text(json.dumps(data))
    assert cli.main(["evaluate", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and words.replace("{}", jm.__version__) in said


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--algo.num-tasks", "3"], "on 1 of 2 x cpu (the largest number that divides 3 tasks)\n"),
        (["--devices", "1"], "on 1 of 2 x cpu\n"),
        ([], "on 2 x cpu\n"),
    ],
)
def test_the_devices_that_are_used_are_printed(flags, words, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(jm, "train", lambda meta, state, *rest, **named: state)
    assert cli.main([*TINY_MAML, *flags, "--out", str(tmp_path / "run"), "--updates", "1", "--eval-tasks", "0"]) == 0
    assert (
        capsys.readouterr().out.partition("\n")[0] + "\n" == f"jaxmeta {jm.__version__}, jax {jax.__version__}, {words}"
    )


def test_idle_devices_are_explained_by_the_tasks_of_a_minibatch(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(jm, "train", lambda meta, state, *rest, **named: state)
    flags = ["--algo.num-tasks", "8", "--algo.hidden", "8", "--updates", "1", "--eval-tasks", "0"]
    assert cli.main(["train", "rl2", "bandit", *flags, "--out", str(tmp_path / "run")]) == 0
    said = capsys.readouterr().out.partition("\n")[0]
    assert said.endswith("on 1 of 2 x cpu (the largest number that divides 1, the tasks sharded at a time)")


def test_config_survives_json():
    config = MAMLConfig(hidden=(), outer_loop="ppo", inner_lr=1e-3)
    assert codec.decode(MAMLConfig, json.loads(json.dumps(codec.encode(config, "algo"))), "algo") == config


def test_json_has_no_nan():
    assert (
        codec.to_json({"a": [float("nan"), 1.0], "b": {"c": float("-inf")}}) == '{"a": [null, 1.0], "b": {"c": null}}'
    )


def test_list_names_everything_in_the_registry(capsys):
    assert cli.main(["list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "algos": list(registry.ALGOS),
        "tasks": list(registry.TASKS),
        "supervised_algos": list(registry.SUPERVISED_ALGOS),
        "samplers": list(registry.SAMPLERS),
        "extras": {name: registry.is_installed(name) for name in registry.EXTRAS},
    }


def test_help_says_that_the_cache_is_in_use_by_default(capsys):
    assert cli.main(["plot", "--help"]) == 0
    printed = capsys.readouterr().out
    assert "--no-cache" in printed and "True" not in printed


def test_help_shows_flags_with_their_docstrings(capsys):
    assert cli.main(["train", "--help"]) == 0
    assert "half-cheetah-vel" in capsys.readouterr().out
    assert cli.main(["train", "maml", "navigation", "--help"]) == 0
    printed = capsys.readouterr().out
    for words in ("--algo.trpo.max-kl", "Step size of the adaptation", "--tasks.horizon", "--checkpoint-every"):
        assert words in printed


@pytest.mark.parametrize("flag", ["--help", "--version"])
def test_help_and_version_do_not_import_jax(flag):
    program = f"import sys; from jaxmeta.cli import main; main([{flag!r}]); print('jax' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("False\n")
    assert "jaxmeta" in done.stdout


def test_a_refused_run_leaves_the_garbage_collector_on():
    program = (
        "import gc, sys; from jaxmeta.cli import main\n"
        "code = main('train ppo bandit --out x --algo.ppo.clip 0'.split())\n"
        "print(code, 'jax' in sys.modules, gc.isenabled(), gc.get_freeze_count() > 0)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "2 True True True\n"


def test_compilation_cache_is_private(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", None)
    try:
        jax.config.update("jax_compilation_cache_dir", str(tmp_path / "of the environment"))
        startup.start_jax(cache=True)
        assert jax.config.jax_compilation_cache_dir == str(tmp_path / "of the environment")
        startup.start_jax(cache=False)
        assert jax.config.jax_compilation_cache_dir is None
        startup.start_jax(cache=True)
        assert jax.config.jax_compilation_cache_dir == str(tmp_path / "jaxmeta")
        assert stat.S_IMODE((tmp_path / "jaxmeta").stat().st_mode) == 0o700
    finally:
        jax.config.update("jax_compilation_cache_dir", before)


def test_evaluation_rounds_on_the_prior_alone_are_refused(maml_run, monkeypatch, capsys):
    pearl = jm.PEARLConfig(episodes=6, prior_episodes=5)
    config = dataclasses.replace(runs.read_config(maml_run), algo="pearl", algo_config=pearl)
    monkeypatch.setattr(runs, "read_config", lambda path: config)
    assert cli.main(["evaluate", str(maml_run), "--rounds", "4"]) == 2
    assert "act on the prior; take at least 5" in capsys.readouterr().err


def test_loading_the_best_checkpoint_needs_a_score(maml_run, monkeypatch):
    assert jm.load(maml_run, "best").step == 4
    monkeypatch.setattr(jm.Checkpointer, "best", lambda self: None)
    with pytest.raises(runs.RunError, match="no checkpoint in .* has a score, so none is the best"):
        jm.load(maml_run, "best")


def test_a_damaged_checkpoint_is_skipped_reported_and_moved_aside(tmp_path, capsys):
    folder = tmp_path / "run"
    arguments = [*TINY_MAML, "--out", str(folder), "--eval-tasks", "0", "--checkpoint-every", "4"]
    assert cli.main([*arguments, "--updates", "4"]) == 0
    whole = jax.device_get(jm.load(folder).params)
    file = next((folder / "checkpoints" / "4" / "state" / "d").iterdir())
    file.write_bytes(file.read_bytes()[:-1])

    with pytest.warns(UserWarning, match=r"checkpoints/4 is damaged: state/d/.* an earlier one was read"):
        assert jm.load(folder).step == 2
    assert jm.load(folder, 2).step == 2
    with pytest.raises(codec.RunError, match="checkpoints/4 is damaged"):
        jm.load(folder, 4)
    capsys.readouterr()
    assert cli.main(["evaluate", str(folder), "--num-tasks", "2"]) == 0
    assert "going back to update 2" in capsys.readouterr().err

    assert cli.main([*arguments, "--updates", "4", "--resume"]) == 0
    assert "checkpoints/4 is damaged: state/d/" in capsys.readouterr().err
    assert {entry.name for entry in (folder / "checkpoints").iterdir()} == {"2", "4", "4.damaged"}
    chex.assert_trees_all_equal(jax.device_get(jm.load(folder).params), whole)
