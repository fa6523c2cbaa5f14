"""The code of the documentation runs: Python blocks of tutorials from top to bottom, commands through the parser."""

from __future__ import annotations

import ast
import importlib
import pathlib
import re
import shlex

import pytest

import jaxmeta as jm
from jaxmeta import cli
from jaxmeta.cli import collect, compare, parsing, train
from jaxmeta.config import extras
from jaxmeta.experiment import registry
from tests.test_docs import DOCS, ROOT, algorithm_pages, pages

PAGES = [*pages(), ROOT / "README.md"]
RUN = [
    *sorted((DOCS / "tutorials").glob("*.md")),
    DOCS / "explanation" / "meta-update.md",
    DOCS / "how-to" / "resume.md",
]
LONG = re.compile(r"jm\.train\(|jm\.load\(|# takes a minute")
"""Of a block after which the default suite leaves a page."""
SMALLER = ["--updates", "2", "--eval-tasks", "4", "--algo.num-tasks", "8", "--algo.hidden", "8"]


def name_of(page):
    return page.relative_to(ROOT).as_posix()


def blocks(page, language):
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(), flags=re.MULTILINE | re.DOTALL)


def commands(text):
    """Yields the arguments of every `jaxmeta` in a shell script that needs no shell to fill them in."""
    for line in text.replace("\\\n", " ").splitlines():
        for part in re.split(r"&&|;|\bdo\b", line.partition(" #")[0]):
            if "jaxmeta" not in part or "$" in part:
                continue
            # a command inside of another one that is quoted over several lines
            words = shlex.split(part if part.count("'") % 2 == 0 else part.replace("'", ""))
            if words[0] == "jaxmeta" or words[0].endswith("/jaxmeta"):
                yield words[1:]


def run(page, names, until=None):
    """Runs the blocks of a page, with few updates; those from the first that matches `until` on are left out."""
    for index, code in enumerate(blocks(page, "python")):
        if until is not None and until.search(code):
            return
        short = re.sub(r"(num_updates=|num_tasks=|streams=|random\.key\(config\.seed\)\), )\d+", r"\g<1>2", code)
        exec(compile(short, f"{name_of(page)}, block {index}", "exec"), names)  # noqa: S102


@pytest.mark.parametrize("page", [page for page in RUN if page.stem != "first-run"], ids=lambda page: page.stem)
def test_code_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    try:
        run(page, {}, LONG)
    except extras.MissingExtraError as error:
        pytest.skip(str(error))


@pytest.mark.slow
@pytest.mark.parametrize("page", RUN, ids=lambda page: page.stem)
def test_code_runs_to_the_end(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if page.stem == "first-run":
        assert cli.main(["train", "rl2", "bandit", "--out", "runs/bandit", *SMALLER]) == 0
    run(page, {})


def parse(argv):
    """Parses a command as `jaxmeta` does, without what it reads from folders."""
    name, *words = argv
    if name == "train" and "--help" not in words:
        if ":" in words[1]:  # the family of the reader
            kept = [index for index, word in enumerate(words) if word.startswith("--tasks.")]
            words = [w for index, w in enumerate(words) if index not in kept and index - 1 not in kept]
            words[1] = "navigation"
        train.new_run(words)
    elif name == "collect":
        kind = train.with_configs(collect.Options, {"tasks": lambda: registry.find_tasks(words[1])}, "")
        parsing.parse(kind, words[2:], "jaxmeta collect")
    elif name == "compare":
        count = next((index for index, word in enumerate(words) if parsing.is_flag(word)), len(words))
        assert count
        parsing.parse(compare.Options, words[count:], "jaxmeta compare")
    elif name in cli.COMMANDS and "--help" not in words:
        parsing.parse(importlib.import_module(cli.COMMANDS[name]).Options, words, f"jaxmeta {name}")
    else:
        assert name in cli.COMMANDS or name.startswith("-"), name


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_are_valid(page):
    for block in blocks(page, "bash"):
        for argv in commands(block):
            parse(argv)


def test_example_commands_of_algorithms_are_valid():
    for name in registry.ALGORITHMS:
        _, config = train.new_run(shlex.split(algorithm_pages.command(name))[2:])
        if config.library is None:  # else the runs of the library would have to be there
            config.build()


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_names_of_the_package_exist(page):
    for block in blocks(page, "python"):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.Attribute) and re.fullmatch(r"jm(\.\w+)+", dotted := ast.unparse(node)):
                found = jm
                for part in dotted.split(".")[1:]:
                    found = getattr(found, part)


def test_the_checks_of_commands_can_fail():
    assert list(commands("cd x && .venv/bin/jaxmeta plot runs/a  # a run\nls '\n")) == [["plot", "runs/a"]]
    assert list(commands("ssh --command '\n  jaxmeta plot runs/a'\njaxmeta plot $out")) == [["plot", "runs/a"]]
    for wrong in (["train", "maml", "navigation", "--out", "x", "--algo.inner-rl", "1"], ["plot", "x", "--updates"]):
        with pytest.raises(parsing.UsageError):
            parse(wrong)


def test_pages_are_found():
    assert {"first-run", "own-task", "resume", "clocks"} <= {pathlib.Path(name_of(page)).stem for page in PAGES}
