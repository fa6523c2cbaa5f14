"""`jaxmeta list`: the algorithms, the task families and the samplers."""

from __future__ import annotations

import dataclasses
import inspect
import json

from jaxmeta.cli import parsing
from jaxmeta.config import extras
from jaxmeta.experiment import registry


@dataclasses.dataclass(frozen=True)
class Options:
    """Lists the algorithms, the task families and the samplers."""

    json: parsing.Switch = False
    """Print one JSON object instead of a table."""


def run(argv: list[str]) -> int:
    """Lists what the registry knows."""
    options = parsing.parse(Options, argv, "jaxmeta list")
    if options.json:
        supervised = {"supervised_algos": list(registry.SUPERVISED_ALGOS)}
        installed = {"extras": {name: registry.is_installed(name) for name in registry.EXTRAS}}
        named = {"algos": list(registry.ALGOS), "tasks": list(registry.TASKS), "samplers": list(registry.SAMPLERS)}
        print(json.dumps(named | supervised | installed))
        return 0
    from rich.console import Console
    from rich.table import Table

    for heading, entries in (
        ("algorithm", registry.ALGOS),
        ("on supervised tasks", registry.SUPERVISED_ALGOS),
        ("tasks", registry.TASKS),
        ("sampler", registry.SAMPLERS),
    ):
        table = Table(heading, "")
        for name, entry in entries.items():
            needs = f" (extra {entry.extra})" if entry.extra else ""
            table.add_row(name, describe(name, entry).partition("\n")[0] + needs)
        Console().print(table)
    table = Table("extra", "")
    for name in registry.EXTRAS:
        table.add_row(name, "installed" if registry.is_installed(name) else extras.command(name))
    # brackets are part of the command, not markup
    Console(markup=False).print(table)
    return 0


def describe(name: str, entry: registry.Entry | registry.OwnFamily) -> str:
    """Returns what an algorithm is, or what a task family means here, from a docstring; "" if there is none.

    It is that of the config, and for a task family of the user that of the factory.
    """
    factory, config = entry.load()
    return (inspect.getdoc(factory if registry.is_own(name) else config) or "").removeprefix(f"`{name}`: ")
