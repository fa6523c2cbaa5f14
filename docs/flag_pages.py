"""Pages of flags: every command, every task family and every sampler, from the dataclasses that the parser reads."""

from __future__ import annotations

import ast
import dataclasses
import functools
import importlib
import inspect
import re
import textwrap
import typing
from pathlib import Path
from typing import Any

from jaxmeta import cli
from jaxmeta.cli import collect, listing, parsing
from jaxmeta.experiment import registry

ARGUMENTS = {"train": "ALGO TASKS", "collect": "EXPERT TASKS", "compare": "DIR DIR ..."}
"""Arguments of commands whose parser removes them before it reads the flags."""
NOTES = {
    "collect": "\n".join(
        [
            "EXPERT is the folder of a run, or one of these names, for the tasks that have it:\n",
            *(f"- `{name}`: {about}" for name, about in collect.EXPERTS.items()),
        ]
    )
}
"""What a page says about a command besides the docstring of its options."""
LABELS = ("Definition", "Tasks", "Reward", "Horizon", "Success", "Observation", "Action")
"""What the docstrings of task families have lines about."""


def write(folder: Path) -> None:
    """Writes `reference/command-line.md` and `tasks.md` into the folder of the documentation."""
    write_if_changed(folder / "reference" / "command-line.md", command_line())
    write_if_changed(folder / "tasks.md", task_families())


def write_if_changed(file: Path, text: str) -> None:
    """Writes a file; an unchanged one keeps its time, so that Sphinx does not read it again."""
    file.parent.mkdir(parents=True, exist_ok=True)
    if not file.exists() or file.read_text() != text:
        file.write_text(text)


def command_line() -> str:
    """Returns the page of all commands and their flags."""
    parts = [
        "# Command line",
        "Every command prints its flags with `--help`. Flags of an algorithm begin with `--algo.`; they are on the"
        " pages of the [algorithms](../algorithms/index.md). Flags of a task family begin with `--tasks.`; they are on"
        " the page of the [task families](../tasks.md). A flag with a dot sets a field of the config of that name:"
        " `--algo.inner-lr 0.5` is `MAMLConfig(inner_lr=0.5)` in Python.",
        "A command returns 0 on success and 2 for invalid input, after one line that names the flag, its value and what"
        " would be right. It returns 1 if memory or disk ran out or a reproduced number misses its requirement, 3 if"
        " training stopped because updates were not finite, and 130 or 143 if Ctrl-C or SIGTERM stopped it.",
    ]
    for name, module in cli.COMMANDS.items():
        kind = importlib.import_module(module).Options
        parts += [f"## jaxmeta {name}", usage(name, kind), paragraphs(kind), NOTES.get(name, ""), flags(kind)]
    parts += [
        "## Samplers",
        "`--sampler` of `jaxmeta train` chooses which tasks an update visits;"
        " [curricula](../how-to/curricula.md) explains how. Every sampler has flags of its own.",
    ]
    for name, entry in registry.SAMPLERS.items():
        _, kind = entry.load()
        parts += [f"### --sampler {name}", paragraphs(kind), flags(kind, ("sampler",)) or "It has no flags."]
    return "\n\n".join(filter(None, parts)) + "\n"


def task_families() -> str:
    """Returns the page of all task families and their flags."""
    parts = [
        "# Task families",
        "Every family is a distribution over tasks. `jaxmeta train ALGO NAME` trains on one. In Python it is a function"
        " of `jm.tasks` that takes a config with these fields, such as `jm.tasks.bandit(jm.tasks.BanditConfig())`; the"
        " families of other libraries are in `jaxmeta.tasks.adapters`. Where the literature uses one name for several"
        " definitions, the definition here is the one that jaxmeta implements. A short list is in the"
        " [overview](overview.md).",
    ]
    for name, entry in registry.TASKS.items():
        _, kind = entry.load()
        where = f"In Python it is `{entry.module}.{entry.factory}`"
        extra = f'{where}, which needs `pip install "jaxmeta[{entry.extra}]"`.' if entry.extra else ""
        supervised = "It is a supervised family." if name in registry.SUPERVISED_TASKS else ""
        about = listing.describe(name, entry)
        parts += [f"## {name}", with_labels(about[:1].upper() + about[1:]), extra, supervised, flags(kind, ("tasks",))]
    return "\n\n".join(filter(None, parts)) + "\n"


def usage(name: str, kind: type) -> str:
    """Returns a code block with the form of a command."""
    positional = [_label(kind, path[0]) for flag, (path, _) in parsing.flag_values(kind).items() if flag[0] != "-"]
    words = ["jaxmeta", name, ARGUMENTS.get(name, ""), *positional, "[flags]"]
    return f"```bash\n{' '.join(filter(None, words))}\n```"


def paragraphs(kind: type) -> str:
    """Returns the docstring of a dataclass as Markdown."""
    return inspect.getdoc(kind) or ""


def with_labels(text: str) -> str:
    """Makes the lines of a task family's docstring that begin with a label, such as "Reward:", paragraphs."""
    return re.sub(rf"(?m)^({'|'.join(LABELS)}): ", r"\n**\1:** ", text)


def flags(kind: type, outer: tuple[str, ...] = ()) -> str:
    """Returns a list of the flags of a dataclass: name, values, default and description.

    Args:
      outer: path of the field that contains it, such as `("algo",)`.
    """
    default, entries = kind(), {}
    for flag, (path, values) in parsing.flag_values(kind, outer).items():
        if flag.startswith("-"):
            entries.setdefault(path, ([], values))[0].append(flag)
    return "\n\n".join(_entry(names, values, default, path[len(outer) :]) for path, (names, values) in entries.items())


def _entry(names: list[str], values: str, default: Any, path: tuple[str, ...]) -> str:
    owner = functools.reduce(getattr, path[:-1], default)
    value = getattr(owner, path[-1])
    values = re.sub(r"'([^']*)'", r"`\1`", values)
    told = f"{values}, by default `{_as_flag(value)}`" if values and value not in ((), None) else values or "a switch"
    told = told.removesuffix(" or None") + ", optional" if value is None else told
    if not values and len(names) > 1:
        told = f"by default `{names[0] if value else names[1]}`"
    about = " ".join(descriptions(type(owner)).get(path[-1], "").split())
    if "(required)" in about:
        told, about = told.replace("optional", "required"), about.replace(" (required)", "")
    return f"{', '.join(f'`{name}`' for name in names)}: {told}\n: {about or 'See its name.'}"


def _as_flag(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _label(kind: type, name: str) -> str:
    """Returns the name of a positional argument in help texts."""
    marks = typing.get_args(typing.get_type_hints(kind, include_extras=True)[name])[1:]
    return next(filter(None, (getattr(mark, "metavar", None) for mark in marks)), name.upper())


@functools.cache
def descriptions(kind: type) -> dict[str, str]:
    """Returns what the fields of a dataclass mean: the strings below them, also those of its bases, or their help."""
    found = {}
    for base in reversed(kind.__mro__):
        if dataclasses.is_dataclass(base):
            (tree,) = ast.parse(textwrap.dedent(inspect.getsource(base))).body
            assert isinstance(tree, ast.ClassDef)
            for field, below in zip(tree.body, tree.body[1:], strict=False):
                if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
                    text = below.value.value if isinstance(below, ast.Expr) and _is_text(below.value) else ""
                    found[field.target.id] = text or found.get(field.target.id, "")
    for name, hint in typing.get_type_hints(kind, include_extras=True).items():
        told = (getattr(mark, "help", None) for mark in typing.get_args(hint)[1:])
        found[name] = next(filter(None, told), found.get(name, ""))
    return found


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)
