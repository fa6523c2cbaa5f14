"""One page per algorithm: what it is, its flags, and the numbers that `jaxmeta reproduce` recorded of it."""

from __future__ import annotations

import importlib
import inspect
import itertools
import json
import re
from pathlib import Path
from typing import Any, NamedTuple

import flag_pages

from jaxmeta import reproduce
from jaxmeta.cli import listing
from jaxmeta.experiment import registry

RESULTS = Path(__file__).parent.parent / "benchmarks" / "results"
TASKS = {
    "clone": "grid-navigation",
    "dagger": "grid-navigation",
    "distill": "bandit",
    "dpt": "bandit",
    "federated": "sinusoid",
    "gatekeeper": "grid-navigation",
    "l2rl": "dependent-bandit",
    "lead-policy": "navigation",
    "learned-optimizer": "quadratic",
    "grbal": "pendulum",
    "mb-mpo": "pendulum",
    "mil": "point-robot",
    "mlsh": "moving-bandits",
    "multi-task": "classic-control",
    "option-critic": "four-rooms",
    "pearl": "point-robot",
    "pets": "cart-pole-swing-up",
    "rebal": "pendulum",
    "rl2": "bandit",
    "sac": "point-robot",
    "snail": "bandit",
    "varibad": "grid-navigation",
}
"""Tasks of the example on the page of an algorithm; those of the others are `navigation`."""
GROUPS = {
    "gradient": "Adaptation by gradient steps",
    "memory": "Adaptation in a recurrent state",
    "inference": "Inference of the task",
    "hierarchy": "Hierarchies",
    "models": "Models and planning",
    "imitation": "Imitation",
    "multitask": "Multi-task learning",
    "federated": "Federated learning",
    "baselines": "Baselines without adaptation",
}
"""Headings of the packages in `jaxmeta.algos`; a package that is not listed has its name."""


class Recorded(NamedTuple):
    """A row of `benchmarks/results`, and the table and the run that it is of."""

    table: Any
    run: str
    algorithms: frozenset[str]
    row: dict[str, Any]


def write(folder: Path) -> None:
    """Writes the pages of all algorithms and their index into a folder; removes those of algorithms that are gone."""
    rows = recorded()
    pages = {name: page(name, rows) for name in registry.ALGORITHMS}
    for name, text in {**pages, "index": index()}.items():
        flag_pages.write_if_changed(folder / f"{name}.md", text)
    for file in folder.glob("*.md"):
        if file.stem not in (*pages, "index"):
            file.unlink()


def index() -> str:
    """Returns the page that lists all algorithms by their package."""
    parts = [
        "# Algorithms",
        "Every page has the reference, the flags and the recorded numbers of one algorithm. The"
        " [overview](../overview.md) compares all of them in one table.",
    ]
    packages = {name: algo.module.split(".")[2] for name, algo in registry.ALGORITHMS.items()}
    for package in sorted(set(packages.values()), key=lambda one: [*GROUPS, one].index(one)):
        names = "\n".join(name for name in packages if packages[name] == package)
        parts += [f"## {GROUPS.get(package, package)}", f"```{{toctree}}\n:maxdepth: 1\n\n{names}\n```"]
    return "\n\n".join(parts) + "\n"


def page(name: str, rows: list[Recorded]) -> str:
    """Returns the page of an algorithm."""
    algo = registry.ALGORITHMS[name]
    parts = [f"# {name}", summary(name), about(algo), example(name)]
    for entries, outside, heading in (
        (registry.ALGOS, registry.SUPERVISED_ALGOS, "Flags"),
        (registry.SUPERVISED_ALGOS, registry.ALGOS, "Flags on supervised tasks"),
    ):
        if name in entries:
            _, kind = entries[name].load()
            also = f"In Python they are the fields of {{py:class}}`{kind.__module__}.{kind.__name__}`."
            parts += [f"## {heading if name in outside else 'Flags'}", also, flag_pages.flags(kind, ("algo",))]
    return "\n\n".join([*parts, *numbers([one for one in rows if name in one.algorithms])]) + "\n"


def summary(name: str) -> str:
    """Returns the one-line description of an algorithm."""
    entry = (registry.ALGOS | registry.SUPERVISED_ALGOS if name not in registry.ALGOS else registry.ALGOS)[name]
    return listing.describe(name, entry)


def about(algo: registry.Algo) -> str:
    """Returns the description in the recipe's docstring, and links to the recipe and to its file."""
    factory = getattr(importlib.import_module(algo.module), algo.factory)
    text = re.split(r"(?m)^(?:Args|Returns|Raises|Example):$", inspect.getdoc(factory) or "")[0].strip()
    text = re.sub(r"^Builds .*\([^()]*\)\.\n+", "", text)  # says no more than the summary
    path = algo.module.replace(".", "/") + ".py"
    return f"{text}\n\nThe recipe is {{py:func}}`{algo.module}.{algo.factory}`, in `{path}`."


def example(name: str) -> str:
    """Returns the command that trains the algorithm on a suitable task family."""
    return f"```bash\n{command(name)}\n```\n\n`jaxmeta train --help` lists the [task families](../tasks.md)."


def command(name: str) -> str:
    """Returns the command of `example`."""
    tasks = TASKS.get(name, "navigation")
    library = " --library runs/ppo runs/sac" if name in registry.FROM_LIBRARY else ""
    return f"jaxmeta train {name} {tasks} --out runs/{name}{library}"


def recorded() -> list[Recorded]:
    """Reads all rows of `benchmarks/results`; none if the folder is not there."""
    found = []
    for name in reproduce.TABLES:
        table, file = reproduce.load(name), RESULTS / f"reproduce-{name}.json"
        if file.is_file():
            runs = {run.row_name(row): run for run in table.runs for row in run.rows}
            for row in json.loads(file.read_text())["rows"]:
                run = runs.get(row["name"])
                known = row["name"].partition(" ")[0] if run is None else run.name
                found.append(Recorded(table, known, algorithms_of(run, known, row), row))
    return found


def algorithms_of(run: Any, name: str, row: dict[str, Any]) -> frozenset[str]:
    """Returns the algorithms that a run is of: its own, or that of its last command, and the one that names it."""
    trained = re.findall(r"jaxmeta train (\S+)", " ".join(row["command"][-2:]))
    given = {getattr(run, "algo", None), *trained[-1:], name.partition("/")[2]}
    return frozenset(given & set(registry.ALGORITHMS))


def numbers(rows: list[Recorded]) -> list[str]:
    """Returns the section of recorded numbers: by table and run."""
    if not rows:
        return ["## Recorded numbers", "No numbers of this algorithm are recorded yet."]
    parts = [
        "## Recorded numbers",
        "From `benchmarks/results`. *Required* is the bound that jaxmeta sets for itself; a number that misses it is"
        " marked. Intervals are of 95 %, over tasks or, with several seeds, over seeds. Commands are those of the"
        " commit that measured the numbers; flags may have changed since. `jaxmeta reproduce` has the current ones.",
    ]
    for _, some in itertools.groupby(rows, lambda one: one.table.name):
        of_table = list(some)
        table = of_table[0].table
        parts += [
            f"### jaxmeta reproduce {table.name}",
            f"{table.title}. {table.source[:1].upper()}{table.source[1:]}.",
        ]
        for run, members in itertools.groupby(of_table, lambda one: one.run):
            parts += run_numbers(run, [one.row for one in members])
    return parts


def run_numbers(run: str, rows: list[dict[str, Any]]) -> list[str]:
    """Returns the numbers of one run: a table, where they are from, and the commands."""
    columns = {
        run: lambda row: row["name"].removeprefix(run).strip() or "result",
        "ours": lambda row: number(row["ours"]),
        "95 % interval": lambda row: " to ".join(map(number, row["ci95"])),
        "published": lambda row: number(row["published"]),
        "optimum": lambda row: number(row["optimum"]),
        "required": requirement,
    }
    cells = {name: [cell(row) for row in rows] for name, cell in columns.items()}
    shown = {name: column for name, column in cells.items() if any(column)}
    lines = [" | ".join(shown), " | ".join("---" for _ in shown), *map(" | ".join, zip(*shown.values(), strict=True))]
    table = "\n".join(f"| {line} |" for line in lines)
    commands = "\n".join(dict.fromkeys(line for row in rows for line in row["command"]))
    return [table, origin(rows[0]), f"```bash\n{commands}\n```"]


def origin(row: dict[str, Any]) -> str:
    """Returns seeds, trials, machine, time and commit of a row in one sentence."""
    first, count = row["seed"], row["seeds"]
    seeds = f"seed {first}" if count == 1 else f"{count} seeds from {first}"
    day = f", {row['time'][:10]}" if row.get("time") else ""
    machine = f"{row['device']} ({row['processor']}, {row['cores']} cores)" if row["device"] else "a machine unknown"
    jax = f"jax {row['versions']['jax']}, " if row["versions"] else ""
    return (
        f"{seeds[0].upper()}{seeds[1:]}, {row['num_trials']:,} trials, {row['wall_s']:,.0f} s on {machine}, {jax}commit"
        f" `{row['commit']}`{day}."
    )


def requirement(row: dict[str, Any]) -> str:
    """Returns the bounds of a row, and whether they are met; "" if there are none."""
    if row["required"] is None:
        return ""
    ((of, (least, most)),) = row["required"].items()
    bounds = [f"{sign} {number(bound)}" for sign, bound in (("≥", least), ("≤", most)) if bound is not None]
    whole = "interval " if of == "ci95" else ""
    return f"{whole}{', '.join(bounds)}: {'met' if row['met'] else '**missed**'}"


def number(value: float | None) -> str:
    """Formats a number with four digits; "" for None."""
    return "" if value is None else f"{value:.4g}"
