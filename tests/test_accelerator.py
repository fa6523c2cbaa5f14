"""`python -m benchmarks.accelerator`: what is measured is kept, and what is missing is named."""

from __future__ import annotations

import json

import pytest

from benchmarks import accelerator

SMALL = "--batches 4 --tasks-per-turn 8 --repeats 1"
QUICK = accelerator.Measurement("quick", "benchmarks.few_shot", "--no-such-flag", SMALL)
BROKEN = accelerator.Measurement("broken", "benchmarks.few_shot", SMALL, "--repeats none")


def test_records_are_kept_and_what_failed_is_named(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(accelerator, "MEASUREMENTS", (QUICK, BROKEN))
    assert accelerator.main(["--out", str(tmp_path), "--short"]) == 1
    printed = capsys.readouterr().out
    assert "quick: done" in printed and "broken: failed with exit code" in printed and "missing: broken\n" in printed
    assert "commit" in json.loads((tmp_path / "accelerator-quick.json").read_text())
    assert not (tmp_path / "accelerator-broken.json").exists()


def test_nothing_is_started_without_time(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(accelerator, "MEASUREMENTS", (QUICK,))
    assert accelerator.main(["--out", str(tmp_path), "--seconds", "5"]) == 1
    assert "quick: no time left" in capsys.readouterr().out and not list(tmp_path.iterdir())


@pytest.mark.slow
def test_all_measurements_run_in_their_short_form(tmp_path):
    assert accelerator.main(["--out", str(tmp_path), "--short"]) == 0
    assert len(list(tmp_path.iterdir())) == len(accelerator.MEASUREMENTS)
