"""The trained agents that come with jaxmeta reach their recorded numbers."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest

import jaxmeta as jm
from jaxmeta import zoo
from jaxmeta.experiment import runs
from tests import tiny

TASKS = {"maml-navigation": 40, "maml-half-cheetah-dir": 40}
"""Held-out tasks where the recorded number is of few."""


def test_all_agents_together_are_small():
    files = [file for file in zoo.AGENTS.rglob("*") if file.is_file()]
    assert len(zoo.names()) >= 6 and sum(file.stat().st_size for file in files) < 2 * 2**20
    # Orbax notes the folder that it wrote to
    assert not [file for file in files if b"successful to" in file.read_bytes()]


@pytest.mark.parametrize("name", [tiny.slow(name) if "cheetah" in name else name for name in zoo.names()])
def test_an_agent_reaches_its_recorded_number(name):
    run, points = zoo.load(name), zoo.record(name)["points"]
    # of PEARL, the episodes of a trial, of which the last is compared
    which = list(points)[-1 if run.config.algo == "pearl" else 0]
    point, unadapted = points[which], which.endswith(("step 0", "before"))
    plan = dataclasses.replace(run.meta.plan, rounds=0) if unadapted else None
    count = TASKS.get(name, 500)
    tasks = jax.vmap(run.family.sample_test)(jax.random.split(jax.random.key(5), count))
    report = jm.evaluate(run.learner, run.params, run.family.env, tasks, jax.random.key(6), plan or run.meta.plan)
    found = report.trial_return()
    apart = abs(found["mean"] - point["mean"]) / np.hypot(found["stderr"], point["stderr"])
    assert apart < 4.0, (found, point)


def test_a_copy_is_a_run_folder(tmp_path):
    folder = zoo.copy(zoo.names()[0], tmp_path / "mine")
    assert jm.load(folder).step == zoo.load(zoo.names()[0]).step == runs.read_evaluation(folder)["step"]
    with pytest.raises(FileExistsError):
        zoo.copy(zoo.names()[0], folder)


def test_an_unknown_agent_is_named_with_a_near_miss():
    with pytest.raises(ValueError, match=f"did you mean '{zoo.names()[0]}'"):
        zoo.load(zoo.names()[0] + "s")


def test_a_run_is_packed_once_with_its_numbers(tmp_path, monkeypatch):
    first = zoo.names()[0]
    run = zoo.copy(first, tmp_path / "run")
    record = zoo.record(first)
    (run / "rows.json").write_text((run / zoo.RECORD).read_text())
    monkeypatch.setattr(zoo, "AGENTS", tmp_path)
    zoo.pack(run, "again", record["command"])
    assert zoo.record("again") == record and zoo.load("again").step > 0
    with pytest.raises(FileExistsError):
        zoo.pack(run, "again", record["command"])
