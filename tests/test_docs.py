"""The documentation is complete and refers to what exists; .ci/run builds it, with warnings as errors."""

from __future__ import annotations

import json
import pathlib
import re
import sys

import pytest

from jaxmeta.cli import parsing
from jaxmeta.experiment import registry

ROOT = pathlib.Path(__file__).parent.parent
DOCS = ROOT / "docs"
REFERENCE = DOCS / "reference"
WITHOUT_REFERENCE = {"jaxmeta", "jaxmeta.__main__"}
WRITTEN = {"command-line", "tasks"}
"""Pages that are written as the documentation is built, besides those of algorithms."""
sys.path.insert(0, str(DOCS))

import algorithm_pages  # noqa: E402
import flag_pages  # noqa: E402


def modules():
    """Names of the modules that users import; the command line and reproductions are documented by their help."""
    for path in (ROOT / "jaxmeta").rglob("*.py"):
        parts = path.relative_to(ROOT).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        if parts[1] not in ("cli", "reproduce") and name not in WITHOUT_REFERENCE:
            yield name


def pages():
    """Pages that are written by hand, without those that may be there from a build."""
    for path in sorted(DOCS.rglob("*.md")):
        if path.parent.name != "algorithms" and not (path.stem in WRITTEN and path.parent in (DOCS, REFERENCE)):
            yield path
    yield REFERENCE / "tasks.md"


def test_the_reference_has_every_public_module_once():
    found = [name for page in REFERENCE.glob("*.md") for name in re.findall(r"automodule:: (\S+)", page.read_text())]
    assert sorted(found) == sorted(modules())


def test_the_index_has_every_page():
    index = (DOCS / "index.md").read_text()
    named = {line for block in re.findall(r"```\{toctree\}(.*?)```", index, re.DOTALL) for line in block.splitlines()}
    there = {page.relative_to(DOCS).with_suffix("").as_posix() for page in pages()} - {"index"}
    assert there | {"algorithms/index", "tasks", "reference/command-line"} == {
        line for line in named if line and not line.startswith(":")
    }


def test_the_overview_has_every_algorithm_and_task_family():
    text = (DOCS / "overview.md").read_text()
    assert set(re.findall(r"algorithms/([\w-]+)\.md", text)) - {"index"} == set(registry.ALGORITHMS)
    assert set(re.findall(r"tasks\.md#([\w-]+)", text)) == set(registry.TASKS)


@pytest.mark.parametrize("page", [ROOT / "README.md", *pages()], ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_to_files(page):
    for target in re.findall(r"\]\(([^)#\s]+)", page.read_text()):
        generated = re.search(r"(algorithms/[\w-]+|tasks|command-line)\.md$", target)
        assert target.startswith("http") or generated or (page.parent / target).exists(), target


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().split()) <= 900


@pytest.fixture(scope="module")
def rows():
    return algorithm_pages.recorded()


@pytest.mark.parametrize("name", registry.ALGORITHMS)
def test_a_page_has_every_flag_with_what_it_means(name, rows):
    text = algorithm_pages.page(name, rows)
    assert f"# {name}\n" in text and "See its name" not in text
    for entries in (registry.ALGOS, registry.SUPERVISED_ALGOS):
        if name in entries:
            _, kind = entries[name].load()
            missing = [flag for flag in parsing.flag_values(kind, ("algo",)) if f"`{flag}`" not in text]
            assert not missing


def test_pages_have_the_recorded_numbers(rows):
    files = [json.loads(file.read_text())["rows"] for file in algorithm_pages.RESULTS.glob("reproduce-*.json")]
    assert len(rows) == sum(map(len, files))
    # every agent that was trained has a page
    assert not [one.run for one in rows if not one.algorithms and "jaxmeta train" in " ".join(one.row["command"])]
    (row,) = [one.row for one in rows if one.row["name"] == "10x5/rl2"]
    text = algorithm_pages.page("rl2", rows)
    assert f"| result | {row['ours']:.4g} |" in text and f"commit `{row['commit']}`" in text
    assert all(command in text for command in row["command"])
    assert "10x5/thompson" not in text


def test_a_requirement_that_is_missed_is_marked():
    row = {"required": {"mean": [78.0, None]}, "met": False}
    assert algorithm_pages.requirement(row) == "≥ 78: **missed**"
    assert algorithm_pages.requirement(row | {"met": True, "required": {"ci95": [None, 1.0]}}) == "interval ≤ 1: met"


def test_pages_of_flags_have_every_command_and_family():
    commands, families = flag_pages.command_line(), flag_pages.task_families()
    assert "See its name" not in commands + families
    assert "`--out`: a path, required\n: Run folder to write, new or empty." in commands
    for name in registry.SAMPLERS:
        assert f"### --sampler {name}\n" in commands
    assert "`--num-seeds`: an integer, by default `1`\n: Independent runs in parallel" in commands
    for name, entry in registry.TASKS.items():
        assert f"\n## {name}\n" in families
        _, kind = entry.load()
        assert all(f"`{flag}`" in families for flag in parsing.flag_values(kind, ("tasks",)))
