"""Building blocks of a table: runs, which are trained or computed, and rows, which are numbers of a run.

To add a table, write a file that defines `TABLE`, and list it in `reproduce.TABLES`:

    TABLE = Table(
        "bandit",
        title="Bernoulli bandits: total reward of a trial",
        source="published: Duan et al., 2016",
        runs=(
            Trained(
                "10x5/rl2",
                "rl2",
                "bandit",
                lambda updates: jm.RL2Config(ppo=replace(jm.RL2Config.ppo, anneal_over=updates)),
                tasks_config=lambda: jm.tasks.BanditConfig(num_arms=5),
                updates=400,
                rows=(Row(trial_return, published=6.7),),
            ),
            Reference(
                "10x5/ucb1",
                "bandits.ucb1",
                {"num_arms": 5},
                "bandit",
                lambda: jm.tasks.BanditConfig(num_arms=5),
                rows=(Row(trial_return, published=6.7),),
            ),
        ),
    )

Configs are built by functions, so that rows can be listed and checked without JAX; `statistics` has what rows compute.
"""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, cast

from jaxmeta.cli import parsing, train
from jaxmeta.cli.parsing import UsageError
from jaxmeta.experiment import registry, runs

Point = dict[str, Any]
"""A number and its uncertainty: `mean`, `stderr`, `ci95`, as `jm.summarize` returns them."""
Statistic = Callable[[Any], Point]
"""Computes a `Point` from a `jm.Report`."""
QUICK_TRIALS = 256
QUICK_UPDATES = 5
ROUNDING = 1e-6
"""Relative rounding error by which a mean of equal float32 returns may exceed an optimum."""


@dataclasses.dataclass(frozen=True)
class Required:
    """The requirement of a row: a lower bound, an upper bound, or both."""

    least: float | None = None
    most: float | None = None
    of: Literal["mean", "ci95"] = "mean"
    """What must lie within the bounds: the mean, or the whole 95 % interval."""
    up_to_optimum: bool = False
    """Whether the mean must not exceed the optimum by more than 3 standard errors, which would indicate a bug."""
    no_more_than: str | tuple[str, ...] = ()
    """Full names of other rows of the table whose means are upper bounds. Nothing is required until the table has all
    of these rows; non-finite means are ignored."""
    halfway: tuple[str, str] | None = None
    """Full names of a worse and a better row; the average of their means is a lower bound."""
    platform: str | None = None
    """JAX platform of training, such as gpu, to which the requirement is limited; by default any."""

    def judge(self, row: dict[str, Any], there: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
        """Returns the bounds that apply to a row, and whether they are met.

        Args:
          row: a row of the table, as `measure.table_row` returns it.
          there: all rows of the table by their full names.

        Returns:
          A dict such as `{"required": {"mean": [6.5, None]}, "met": True}`.
        """
        others = (self.no_more_than,) if isinstance(self.no_more_than, str) else self.no_more_than
        needed = (*others, *(self.halfway or ()))
        if not all(name in there for name in needed) or self.platform not in (None, row["platform"]):
            return NOTHING_REQUIRED
        above, between = ([there[name]["ours"] for name in names] for names in (others, self.halfway or ()))
        if None in between or (others and not any(bound is not None for bound in above)):
            return NOTHING_REQUIRED
        least = self.least if self.halfway is None else sum(cast(list[float], between)) / 2
        bounds = [self.most, *above]
        if self.up_to_optimum and row["optimum"] is not None:
            bounds.append(row["optimum"] + 3 * (row["stderr"] or 0.0) + ROUNDING * abs(row["optimum"]))
        most = min((bound for bound in bounds if bound is not None), default=None)
        values = [row["ours"]] if self.of == "mean" else row["ci95"]
        met = all(_between(value, least, most) for value in values)
        return {"required": {self.of: [least, most]}, "met": met}


NOTHING_REQUIRED = {"required": None, "met": None}


def _between(value: float | None, low: float | None, high: float | None) -> bool:
    """Returns whether a value is within its bounds; None, which stands for a non-finite value, never is."""
    return value is not None and (low is None or value >= low) and (high is None or value <= high)


@dataclasses.dataclass(frozen=True)
class Row:
    """One number of a run."""

    statistic: Statistic
    name: str = ""
    """Suffix of the run's name; "" if the run has one row only."""
    published: float | None = None
    optimum: float | Callable[[], float] | None = None
    """The exact optimum or oracle; a function is called when the row is written."""
    required: Required | None = None
    evaluation: str = ""
    """Name of the evaluation that the number is computed from."""


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Trials on held-out tasks."""

    name: str = ""
    """Required if a run has several evaluations."""
    num_tasks: int = 20_000
    """Held-out tasks, with one trial each."""
    tasks: Callable[[Any], Any] | None = None
    """Maps the run's task config to that of the evaluation; by default they are the same."""
    rounds: int | None = None
    """Rounds of adaptation; by default as in meta-training."""
    streams: int | None = None
    """Parallel streams per task and round; by default as in meta-training."""
    episodes: int | None = None
    """Episodes per trial; by default as in meta-training. Longer trials are for memories that go on when they are
    full, as of the transformer."""
    deterministic: bool = False
    """Whether to act by the mode of the policy instead of sampling; PEARL and SAC always do."""
    every_task: Callable[[Any], Any] | None = None
    """Maps the task config to all tasks of the family, leaves [N, ...], which share the trials equally. By default
    tasks are sampled."""

    def quick(self) -> Evaluation:
        """Returns the same evaluation with few trials."""
        return dataclasses.replace(self, num_tasks=min(self.num_tasks, QUICK_TRIALS))

    def tasks_config(self, usual: Any) -> Any:
        """Returns the config of the evaluated tasks; `usual` is the run's task config."""
        return usual if self.tasks is None else self.tasks(usual)

    def describe(self, usual: Any) -> dict[str, Any]:
        """Returns the settings that determine the result, ready for JSON; `usual` is the run's task config."""
        told = dataclasses.asdict(self) | {"every_task": self.every_task is not None, "tasks": ""}
        if self.tasks is not None:
            # as flags, like in older tables, so that their rows need not be measured again
            told["tasks"] = shlex.join(parsing.to_flags(self.tasks(usual), usual, ("tasks",)))
        for name, usual_value in (("deterministic", False), ("episodes", None)):
            if told[name] == usual_value:  # older rows lack the field and need not be measured again
                del told[name]
        return told


@dataclasses.dataclass(frozen=True)
class Run:
    """One agent of a table; its rows are computed from its evaluations."""

    name: str
    """GROUP/AGENT, such as 10x5/rl2; also the folder."""
    rows: tuple[Row, ...] = dataclasses.field(kw_only=True)
    """Empty for a run that other runs start from and that is not evaluated itself."""
    evaluations: tuple[Evaluation, ...] = dataclasses.field(default=(Evaluation(),), kw_only=True)

    @property
    def trials(self) -> tuple[Evaluation, ...]:
        """Evaluations that the rows of this run need; empty for a run without rows."""
        return self.evaluations if self.rows else ()

    @property
    def group(self) -> str:
        """The group of rows in the table, such as 10x5."""
        return self.name.split("/")[0]

    def row_name(self, row: Row) -> str:
        """Returns the full name of one of its rows, such as `10x5/rl2 episode 1`."""
        return " ".join(filter(None, (self.name, row.name)))

    def quick(self) -> Run:
        """Returns the same run with minimal work, for `--quick`."""
        return dataclasses.replace(self, evaluations=tuple(one.quick() for one in self.evaluations))


@dataclasses.dataclass(frozen=True)
class Trained(Run):
    """An agent that is meta-trained, as by `jaxmeta train`."""

    algo: str
    """Name of the algorithm, such as rl2."""
    tasks: str
    """Name of the task family, such as bandit."""
    algo_config: Callable[[int], Any]
    """Builds the config of the algorithm from the number of updates, which annealing depends on."""
    _: dataclasses.KW_ONLY
    tasks_config: Callable[[], Any]
    """Builds the config of the tasks."""
    updates: int
    reveal: bool = False
    """Whether the task is part of every observation."""
    chunk: int = train.Options.chunk
    """Updates per device call."""
    checkpoint_every: int = train.Options.checkpoint_every
    quick_config: Callable[[Any], Any] | None = None
    """Shrinks the config of the algorithm for `--quick`, if fewer updates alone do not make it fast."""
    quick_chunk: int | None = None
    """Updates per device call and between checkpoints with `--quick`; by default those of the full run."""
    start: str = ""
    """Name of the run whose final params this run starts from, such as one on shorter trials; "" for random params."""

    def quick(self) -> Trained:
        smaller: dict[str, Any] = {}
        if self.quick_chunk is not None:
            smaller |= {"chunk": self.quick_chunk, "checkpoint_every": self.quick_chunk}
        if (shrink := self.quick_config) is not None:
            smaller["algo_config"] = lambda updates: shrink(self.algo_config(updates))
        updates = min(max(2, self.updates // 200), QUICK_UPDATES)
        return dataclasses.replace(self, updates=updates, evaluations=super().quick().evaluations, **smaller)

    def config(self, seed: int = 0, num_seeds: int = 1, evaluation: Evaluation = Evaluation()) -> runs.RunConfig:
        """Returns the configuration of the run folder, with `start_from` as a name instead of a folder.

        Args:
          evaluation: takes the tasks from this evaluation; by default those of training.
        """
        return runs.RunConfig(
            self.algo,
            self.tasks,
            self.algo_config(self.updates),
            evaluation.tasks_config(self.tasks_config()),
            seed,
            num_seeds,
            self.updates,
            self.reveal,
            start_from=self.start or None,
        )

    def options(self, folder: Path, seed: int = 0, num_seeds: int = 1) -> train.Options:
        """Returns the options of `jaxmeta train` for this run, without those of algorithm and tasks."""
        return train.Options(
            out=folder,
            updates=self.updates,
            seed=seed,
            num_seeds=num_seeds,
            reveal=self.reveal,
            start_from=folder.parents[self.name.count("/")] / self.start if self.start else None,
            chunk=self.chunk,
            checkpoint_every=self.checkpoint_every,
        )

    def command(self, folder: Path, seed: int = 0, num_seeds: int = 1) -> list[str]:
        """Returns the arguments of `jaxmeta` that train this run in a folder."""
        options, config = self.options(folder, seed, num_seeds), self.config()
        # given even if they equal the default
        told = ["--out", str(folder), "--updates", str(self.updates), "--seed", str(seed)]
        usual = train.Options(out=folder, updates=self.updates, seed=seed)
        _, algo = registry.find_algo(self.algo, self.tasks).load()
        _, tasks = registry.find_tasks(self.tasks).load()
        return [
            *("train", self.algo, self.tasks, *told),
            *parsing.to_flags(options, usual),
            *parsing.to_flags(config.tasks_config, tasks(), ("tasks",)),
            *parsing.to_flags(config.algo_config, algo(), ("algo",)),
        ]


@dataclasses.dataclass(frozen=True)
class Reference(Run):
    """A learner of `jm.references`, which needs no training; it is evaluated like a trained agent."""

    learner: str
    """Its name in `jm.references`, such as bandits.ucb1."""
    arguments: Mapping[str, Any]
    """Keyword arguments of the function that builds it."""
    tasks: str
    """Name of the task family, such as bandit."""
    tasks_config: Callable[[], Any]
    """Builds the config of the tasks."""
    reveal: bool = dataclasses.field(default=False, kw_only=True)
    """Whether the task is part of every observation."""

    def config(self, evaluation: Evaluation = Evaluation()) -> runs.RunConfig:
        """Returns a configuration without an algorithm; its tasks are those of an evaluation, or the run's own."""
        tasks = evaluation.tasks_config(self.tasks_config())
        return runs.RunConfig("", self.tasks, None, tasks, reveal=self.reveal)


@dataclasses.dataclass(frozen=True)
class Computed(Run):
    """Numbers that are computed by a function; rows select them with `statistics.named`."""

    compute: Callable[..., dict[str, Any]]
    """Returns all numbers by name; those of several seeds as a list."""
    arguments: Mapping[str, Any]
    """Keyword arguments of `compute`."""
    count: int
    """Number of trials that the numbers are computed from."""
    of: str = dataclasses.field(default="", kw_only=True)
    """Name of the trained run whose folder is the argument `folder` of `compute`; "" if there is none."""
    trains: bool = dataclasses.field(default=False, kw_only=True)
    """Whether `compute` trains agents itself: its arguments are then also `seed`, `num_seeds` and `quick`."""


@dataclasses.dataclass(frozen=True)
class Table:
    """A published table."""

    name: str
    title: str
    """Describes the numbers."""
    source: str
    """Source of the published numbers, and limits of the comparison."""
    runs: tuple[Run, ...]
    quick: tuple[str, ...] = ()
    """Names of the runs for `--quick` without `--rows`; by default all."""
    draw: Callable[[list[dict[str, Any]], str, str], Any] | None = None
    """(rows, title, source) -> the figure of the table; by default `tables.published`."""
    pictures: Callable[[Mapping[str, Path]], dict[str, Any]] | None = None
    """(folders of trained runs, by run name) -> further figures, by name."""

    def row_names(self) -> list[str]:
        """Lists the full names of its rows."""
        return [run.row_name(row) for run in self.runs for row in run.rows]

    def judge(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Returns rows with `required` and `met` filled in.

        Pass all rows of the table at once, as bounds may refer to other rows. Rows that the table no longer lists keep
        their fields.
        """
        required = {run.row_name(row): row.required for run in self.runs for row in run.rows}
        there = {row["name"]: row for row in rows}

        def verdict(row):
            one = required.get(row["name"])
            if one is None:
                return NOTHING_REQUIRED if row["name"] in required else {}
            return one.judge(row, there)

        return [row | verdict(row) for row in rows]

    def choose(self, rows: str | None, quick: bool = False) -> tuple[Run, ...]:
        """Returns the runs that a list like `10x5,100x10/rl2` selects, in the order of the table.

        Runs without rows, which others start from, are selected only by their full name; they are trained when needed.

        Args:
          rows: names of groups, runs or rows, separated by commas; None selects all runs that have rows.
          quick: whether to shrink the runs for `--quick`; without `rows` it selects `self.quick`.

        Raises:
          UsageError: if a name is unknown.
        """
        wanted = tuple(name.strip() for name in rows.split(",")) if rows is not None else self.quick if quick else ()
        names = {
            run.name: {run.name, *(name for row in run.rows for name in (run.group, run.row_name(row)))}
            for run in self.runs
        }
        for name in wanted:
            if not any(name in some for some in names.values()):
                near = registry.near(name, sorted(set().union(*names.values())))
                groups = ", ".join(dict.fromkeys(run.group for run in self.runs))
                agents = ", ".join(dict.fromkeys("/" + run.name.partition("/")[2] for run in self.runs))
                raise UsageError(
                    f"no row {name!r} in {self.name};{near} the groups are {groups}, each alone or with one of {agents}"
                )
        chosen = [run for run in self.runs if (names[run.name].intersection(wanted) if wanted else run.rows)]
        return tuple(run.quick() if quick else run for run in chosen)
