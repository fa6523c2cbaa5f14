"""The code in CONTRIBUTING.md runs from top to bottom, and every part in it holds its contract."""

from __future__ import annotations

import pathlib
import re

import pytest

import jaxmeta as jm

TEXT = (pathlib.Path(__file__).parent.parent / "CONTRIBUTING.md").read_text()
SECTIONS = re.findall(r"^## Add an? ([\w ]+)$(.*?)(?=^## )", TEXT, flags=re.MULTILINE | re.DOTALL)
CONTRACTS = {
    "task": "check_env",
    "inner rule": "check_updater",
    "algorithm": "check_algo",
    "aggregate": "check_aggregate",
    "sampler": "check_sampler",
}


@pytest.fixture(scope="module")
def names():
    """What the sections before have defined."""
    return {}


def test_every_part_has_a_section():
    assert [name for name, _ in SECTIONS] == list(CONTRACTS)


@pytest.mark.parametrize(("part", "text"), SECTIONS, ids=[name for name, _ in SECTIONS])
def test_example_holds_its_contract(part, text, names, monkeypatch):
    called = []
    check = getattr(jm.testing, CONTRACTS[part])
    monkeypatch.setattr(jm.testing, CONTRACTS[part], lambda *arguments: (check(*arguments), called.append(part)))
    (code,) = re.findall(r"^```python\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)
    exec(compile(code, f"CONTRIBUTING.md, {part}", "exec"), names)  # noqa: S102
    assert called == [part]
