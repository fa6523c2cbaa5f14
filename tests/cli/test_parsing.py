"""Flags and the values they become; what is refused."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import re
from pathlib import Path
from typing import Literal

import pytest

from jaxmeta.cli import evaluate, listing, parsing, plot, render, reproduce, train
from jaxmeta.experiment import registry


@dataclasses.dataclass(frozen=True)
class Inner:
    rate: float = 0.5
    sizes: tuple[int, ...] = (1, 2)
    deep: bool = False

    def __post_init__(self):
        if self.rate < 0:
            raise ValueError(f"rate is {self.rate}; it must not be negative")


@dataclasses.dataclass(frozen=True)
class Outer:
    inner: Inner = Inner()
    pair: tuple[int, float] = (1, 2.0)
    limit: int | None = 3
    kind: Literal["a", "b"] | None = "a"
    name: str | None = None
    folder: parsing.Folder = None
    quiet: parsing.Switch = False
    cache: parsing.Switch = True
    run: parsing.RunFolder = None
    table: dict[str, int] = dataclasses.field(default_factory=dict)


GOOD = {
    "": Outer(),
    "--inner.rate 1e-3": Outer(Inner(rate=1e-3)),
    "--inner.rate=2": Outer(Inner(rate=2.0)),
    "--inner.sizes": Outer(Inner(sizes=())),
    "--inner.sizes 8 9 -7 --quiet": Outer(Inner(sizes=(8, 9, -7)), quiet=True),
    "--inner.sizes=8": Outer(Inner(sizes=(8,))),
    "--inner.deep": Outer(Inner(deep=True)),
    "--inner.deep --inner.no-deep": Outer(Inner(deep=False)),
    "--pair 3 -1e-2": Outer(pair=(3, -0.01)),
    "--limit None": Outer(limit=None),
    "--limit -4": Outer(limit=-4),
    "--kind b --kind None": Outer(kind=None),
    "--name None": Outer(name=None),
    "--name=--kind": Outer(name="--kind"),
    "--no-cache here": Outer(cache=False, run=Path("here")),
}


@pytest.mark.parametrize("line", GOOD)
def test_flags_become_fields(line):
    assert parsing.parse(Outer, line.split(), "x") == GOOD[line]


@pytest.mark.parametrize("line", [line for line in GOOD if line not in ("--name=--kind", "--no-cache here")])
def test_fields_become_flags(line):
    flags = parsing.to_flags(GOOD[line], Outer())
    assert parsing.parse(Outer, flags, "x") == GOOD[line]
    assert all(flag in parsing.flag_names(Outer) for flag in flags if parsing.is_flag(flag))
    assert parsing.to_flags(GOOD[line].inner, Inner(), ("inner",)) == [] or "--inner." in line


def test_flags_are_listed_only_where_fields_differ():
    changed = Outer(Inner(rate=2.0, deep=True), pair=(3, -0.5), name=None, cache=False)
    assert parsing.to_flags(changed, Outer(pair=(3, -0.5))) == ["--inner.rate", "2.0", "--inner.deep", "--no-cache"]


BAD = {
    "--inner.rate": "--inner.rate needs a value",
    "--inner.rate --quiet": "--inner.rate needs a value",
    "--pair 1": "--pair needs 2 values",
    "--inner.rate fast": "--inner.rate is 'fast'; it must be a number",
    "--inner.rate -inf": "inner.rate is -inf; it must be finite",
    "--inner.rate -2": "inner.rate is -2.0; it must not be negative",
    "--inner.sizes 1 x": "--inner.sizes is '1 x'; it must be integers",
    "--limit 1.5": "--limit is '1.5'; it must be an integer or None",
    "--kind c": "--kind is 'c'; it must be one of 'a', 'b' or None",
    "--quiet=yes": "--quiet is 'yes'; it takes no value",
    "--no-quiet": "no flag '--no-quiet'; did you mean '--quiet'? `x --help` shows all",
    "here there": "'there' is one argument too many; `x --help` shows all arguments",
    "--table 3": "table is 3; a flag cannot set a field of type dict; leave it out",
    "--folder ~no-such-user/x": "folder is ~no-such-user/x; that home folder does not exist",
}


@pytest.mark.parametrize("line", BAD)
def test_invalid_values_are_refused_in_one_line(line):
    with pytest.raises(parsing.UsageError) as refused:
        parsing.parse(Outer, line.split(), "x")
    assert str(refused.value) == BAD[line]


def test_flags_change_the_default_that_is_given():
    default = Outer(Inner(rate=0.1, deep=True), quiet=True)
    assert parsing.parse(Outer, ["--limit", "7"], "x", default) == dataclasses.replace(default, limit=7)


def test_unknown_flags_and_their_values_can_be_skipped():
    line = "--tasks.sizes 1 2 --quiet --tasks.on --limit 4 --tasks.name=b --help"
    assert parsing.parse(Outer, line.split(), "x", ignore_unknown=True) == Outer(quiet=True, limit=4)


def test_a_home_folder_is_expanded(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    options = parsing.parse(Outer, ["--folder=~/x", "~/y"], "x")
    assert (options.folder, options.run) == (Path("/home/me/x"), Path("/home/me/y"))


KINDS = {kind.__module__: kind for module in (evaluate, listing, plot, render, reproduce) for kind in (module.Options,)}
KINDS |= {f"{algo} on navigation": train._kind(algo, "navigation", []) for algo in registry.ALGOS}
KINDS |= {f"{algo} on sinusoid": train._kind(algo, "sinusoid", []) for algo in registry.SUPERVISED_ALGOS}
KINDS |= {f"maml on {tasks}": train._kind("maml", tasks, []) for tasks in registry.TASKS}


@pytest.mark.parametrize("name", KINDS)
def test_the_help_text_shows_the_flags_that_there_are(name):
    """tyro writes the help text; the flags are parsed without it."""
    printed = io.StringIO()
    with pytest.raises(SystemExit) as left, contextlib.redirect_stdout(printed):
        parsing.parse(KINDS[name], ["--help"], "x")
    assert not left.value.code
    # a flag begins a line of a box, drawn in whatever characters there are; further names of it follow
    shown = set()
    for line in re.findall(r"^\W+ (--.*)", printed.getvalue(), re.MULTILINE):
        shown |= {word.rstrip(",") for word in re.split(r"\s{2,}", line)[0].split() if word.startswith("--")}
    assert shown - {"--help"} == set(parsing.flag_names(KINDS[name]))
