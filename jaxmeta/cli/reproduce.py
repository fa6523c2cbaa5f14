"""`jaxmeta reproduce`: our numbers next to those of a published table."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import tyro

from jaxmeta import reproduce
from jaxmeta.cli import parsing, startup, train
from jaxmeta.config import codec


@dataclasses.dataclass(frozen=True)
class Options:
    """Trains the agents of a published table and prints our numbers next to the published ones."""

    table: Annotated[
        str | None,
        tyro.conf.Positional,
        tyro.conf.arg(metavar="NAME", help=f"One of {', '.join(reproduce.TABLES)}.", help_behavior_hint="(required)"),
    ] = None
    rows: Annotated[str | None, tyro.conf.arg(metavar="ROW,...")] = None
    """Only these rows, by group or by full name, such as 10x5,100x10/rl2; by default all."""
    quick: parsing.Switch = False
    """A trial run of a minute or two with few updates and trials; its numbers are not results."""
    seed: int = 0
    """Random seed."""
    num_seeds: int = 1
    """Independent training runs per agent; statistics are over them."""
    out: parsing.Folder = None
    """Folder of the runs and the table; by default runs/reproduce/NAME, and NAME-quick with `--quick`."""
    results: parsing.Folder = None
    """Folder of a second copy of the table, to commit; by default benchmarks/results, if that exists and `--out` is not
    given."""
    again: parsing.Switch = False
    """Run finished rows again; their folders are moved aside, and their rows of other seeds are replaced."""
    json: parsing.Switch = False
    """Print the chosen rows as one JSON object instead of a table; progress goes to standard error."""
    cache: parsing.Cache = True


def run(argv: list[str]) -> int:
    """Trains what is missing, then prints the table."""
    options = parsing.parse(Options, argv, "jaxmeta reproduce")
    from jaxmeta.reproduce import show
    from jaxmeta.reproduce.call import prepare
    from jaxmeta.reproduce.run import perform

    call = prepare(options)
    startup.start_jax(options.cache)
    startup.find_devices()
    rows, code = perform(call, train.meta_train)
    if code:
        return code
    if options.json:
        print(codec.to_json({"name": call.table.name, "rows": rows}, indent=2))
    else:
        written = [file for table in call.tables() for file in (table, table.with_suffix(".png"))]
        show.print_table(call.table, rows, written)
    return 1 if any(row["met"] is False for row in rows) and not options.quick else 0
