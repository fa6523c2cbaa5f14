"""What a published table consists of: runs, which are trained or computed, and rows, which are numbers that they yield.

A table is added as a file with a `TABLE`, and a line in `reproduce.TABLES`:

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

Configs are built by functions: rows are listed, and wrong ones refused, without waiting for JAX. The statistics that
rows take are in `statistics`.
"""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

from jaxmeta.cli import parsing, train
from jaxmeta.cli.parsing import UsageError
from jaxmeta.experiment import registry, runs

Point = dict[str, Any]
"""A number and how sure it is: `mean`, `stderr`, `ci95`, as `jm.summarize` returns them."""
Statistic = Callable[[Any], Point]
"""Takes its number out of a `jm.Report`."""
QUICK_TRIALS = 256
QUICK_UPDATES = 5
ROUNDING = 1e-6
"""How far above an optimum, as a share of it, a mean of returns is that are sums in float32 and all alike."""


@dataclasses.dataclass(frozen=True)
class Required:
    """What a row must reach, between two bounds of which either may be open."""

    least: float | None = None
    most: float | None = None
    of: Literal["mean", "ci95"] = "mean"
    """What must lie between the bounds: the mean, or the whole interval."""
    up_to_optimum: bool = False
    """Whether the mean must not exceed the optimum by more than 3 standard errors: above it something is wrong."""
    no_more_than: str | tuple[str, ...] = ()
    """Full name of another row of the table whose mean is a bound too, or of several; unless all of them are there
    nothing is required. One that is not finite is no bound."""
    halfway: tuple[str, str] | None = None
    """Full names of two rows whose average is a lower bound: the mean must be nearer to the better one."""
    platform: str | None = None
    """The one JAX platform of training where it is required, such as gpu; by default everywhere."""

    def judge(self, row: dict[str, Any], there: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
        """Returns the bounds that hold for a row as a table has it, such as `{"mean": [6.5, None]}`, and if it is met.

        Args:
          there: the rows of the table by their full names.
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
    """Tells whether a value is within its bounds; None, a value that is not finite, never is."""
    return value is not None and (low is None or value >= low) and (high is None or value <= high)


@dataclasses.dataclass(frozen=True)
class Row:
    """One number of a run."""

    statistic: Statistic
    name: str = ""
    """What the run's name is followed by; "" where a run has one row only."""
    published: float | None = None
    optimum: float | Callable[[], float] | None = None
    """The exact optimum or oracle; a function is called when the row is written."""
    required: Required | None = None
    evaluation: str = ""
    """Name of the evaluation that the number is from."""


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Trials on held-out tasks."""

    name: str = ""
    """Needed where a run has several."""
    num_tasks: int = 20_000
    """Held-out tasks; a trial on each."""
    tasks: Callable[[Any], Any] | None = None
    """Makes the config of these tasks from that of the run's own; by default the two are the same."""
    rounds: int | None = None
    """Rounds of adaptation; by default as in meta-training."""
    streams: int | None = None
    """Parallel streams per task and round; by default as in meta-training."""
    deterministic: bool = False
    """Whether the agent acts by the mode of its policy; PEARL and SAC do in any case."""
    every_task: Callable[[Any], Any] | None = None
    """Lists all tasks of a family from its config, stacked; they share the trials equally. By default tasks are drawn.
    """

    def quick(self) -> Evaluation:
        """Returns the same with few trials."""
        return dataclasses.replace(self, num_tasks=min(self.num_tasks, QUICK_TRIALS))

    def tasks_config(self, usual: Any) -> Any:
        """Returns the config of the tasks; `usual` is that of the run's own."""
        return usual if self.tasks is None else self.tasks(usual)

    def describe(self, usual: Any) -> dict[str, Any]:
        """Returns what decides the outcome, as JSON can hold it; `usual` is the config of the run's own tasks."""
        told = dataclasses.asdict(self) | {"every_task": self.every_task is not None, "tasks": ""}
        if self.tasks is not None:
            # as flags, which tables once held, so that older rows stay finished
            told["tasks"] = shlex.join(parsing.to_flags(self.tasks(usual), usual, ("tasks",)))
        if not self.deterministic:  # rows from before one could choose stay finished
            del told["deterministic"]
        return told


@dataclasses.dataclass(frozen=True)
class Run:
    """Where rows come from."""

    name: str
    """GROUP/AGENT, such as 10x5/rl2; also the folder."""
    rows: tuple[Row, ...] = dataclasses.field(kw_only=True)
    """Empty where it is there only for others to begin with; it is not evaluated then."""
    evaluations: tuple[Evaluation, ...] = dataclasses.field(default=(Evaluation(),), kw_only=True)

    @property
    def trials(self) -> tuple[Evaluation, ...]:
        """The evaluations that are made."""
        return self.evaluations if self.rows else ()

    @property
    def group(self) -> str:
        """The part of the table that it stands in, such as 10x5."""
        return self.name.split("/")[0]

    def row_name(self, row: Row) -> str:
        """Returns the full name of one of its rows."""
        return " ".join(filter(None, (self.name, row.name)))

    def quick(self) -> Run:
        """Returns the same with as little work as shows that it works."""
        return dataclasses.replace(self, evaluations=tuple(one.quick() for one in self.evaluations))


@dataclasses.dataclass(frozen=True)
class Trained(Run):
    """An agent that is meta-trained, as by `jaxmeta train`."""

    algo: str
    """Name of the algorithm, such as rl2."""
    tasks: str
    """Name of the task family, such as bandit."""
    algo_config: Callable[[int], Any]
    """Builds the config of the algorithm from the number of updates, over which it may anneal."""
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
    """Makes the config of the algorithm smaller with `--quick`, where fewer updates are not enough."""
    quick_chunk: int | None = None
    """Updates per device call and between checkpoints with `--quick`; by default those of the full run."""
    start: str = ""
    """Name of the run of the table that it begins with, such as one on shorter trials; "" begins at random."""

    def quick(self) -> Trained:
        smaller: dict[str, Any] = {}
        if self.quick_chunk is not None:
            smaller |= {"chunk": self.quick_chunk, "checkpoint_every": self.quick_chunk}
        if (shrink := self.quick_config) is not None:
            smaller["algo_config"] = lambda updates: shrink(self.algo_config(updates))
        updates = min(max(2, self.updates // 200), QUICK_UPDATES)
        return dataclasses.replace(self, updates=updates, evaluations=super().quick().evaluations, **smaller)

    def config(self, seed: int = 0, num_seeds: int = 1, evaluation: Evaluation = Evaluation()) -> runs.RunConfig:
        """Returns the configuration in its run folder; of the run that it begins with, this one has the name alone.

        Args:
          evaluation: the tasks are those of this one, by default those of training.
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
        """Returns the options of `jaxmeta train` that train it in a folder, without those of algorithm and tasks."""
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
        """Returns the arguments of `jaxmeta` that train it in a folder."""
        options, config = self.options(folder, seed, num_seeds), self.config()
        # these are given even where they are the default
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


class Recipe(NamedTuple):
    """How the agent of a row is trained, in tables that hold many of them."""

    updates: int
    algo_config: Callable[[int], Any]
    """As in `Trained`."""
    start: str = ""
    """As in `Trained`."""

    def agent(self, name: str, tasks: str, tasks_config: Callable[[], Any], rows: tuple[Row, ...]) -> Trained:
        """Returns the run GROUP/ALGO on tasks, or GROUP/ALGO-VARIANT."""
        return Trained(
            name,
            name.rpartition("/")[-1].split("-")[0],
            tasks,
            self.algo_config,
            tasks_config=tasks_config,
            updates=self.updates,
            chunk=10,
            rows=rows,
            start=self.start,
        )


@dataclasses.dataclass(frozen=True)
class Reference(Run):
    """A learner of `jm.references`: there is nothing to train, and it is evaluated as trained agents are."""

    learner: str
    """Its name in `jm.references`, such as bandits.ucb1."""
    arguments: Mapping[str, Any]
    """What it is called with."""
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
    """Numbers that are computed, without an agent that acts; rows take them by name, see `statistics.named`."""

    compute: Callable[..., dict[str, float]]
    """Returns them all."""
    arguments: Mapping[str, Any]
    """What it is called with."""
    count: int
    """How many trials they are computed from."""


def quick_replay(config: Any) -> Any:
    """Returns the config of an off-policy algorithm for `--quick`: its first update visits every task."""
    sac = dataclasses.replace(config.sac, gradient_steps=5)
    return dataclasses.replace(config, num_train_tasks=8, tasks_per_update=8, sac=sac)


@dataclasses.dataclass(frozen=True)
class Table:
    """A published table."""

    name: str
    title: str
    """What the numbers are."""
    source: str
    """Where the published ones are from, and where they do not compare."""
    runs: tuple[Run, ...]
    quick: tuple[str, ...] = ()
    """What `--quick` runs where nothing is chosen; by default all."""
    draw: Callable[[list[dict[str, Any]], str, str], Any] | None = None
    """Makes the picture from rows, title and source; by default `plot.published` does."""
    pictures: Callable[[Mapping[str, Path]], dict[str, Any]] | None = None
    """Draws further figures, by name, from the folders of trained runs, which go by the runs' names."""

    def row_names(self) -> list[str]:
        """Lists the full names of its rows."""
        return [run.row_name(row) for run in self.runs for row in run.rows]

    def judge(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Returns rows, as a file has them, with what is required of each and whether it is met.

        They are judged together, as a bound may be another row; one that the table has no more keeps what it has.
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
        """Returns the runs that a list like `10x5,100x10/rl2` names, in the order of the table.

        Those without rows, for others to begin with, must be named themselves; they are trained where they are needed.

        Raises:
          UsageError: if a name is that of no group, run or row.
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
                    f"no row {name!r} in {self.name};{near} there are {groups}, whole or each with one of {agents}"
                )
        chosen = [run for run in self.runs if (names[run.name].intersection(wanted) if wanted else run.rows)]
        return tuple(run.quick() if quick else run for run in chosen)
