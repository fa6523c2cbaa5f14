"""Imitation: distillation, DAgger beside cloning, and imitation of one demonstration.

Distillation is compared with its teacher, UCB1, by pseudo-regret on the same tasks, see `dpt`. UCB1 is deterministic
except for exact ties. Where two of its indices are nearly equal, a student is uncertain and may sample the other arm.
So it is also measured by the mode of its policy.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jaxmeta as jm
from jaxmeta.reproduce import dpt
from jaxmeta.reproduce.base import Computed, Evaluation, Reference, Required, Row, Run, Table, Trained
from jaxmeta.reproduce.statistics import named, trial_return

TRIALS = 20_000
POINTS = (
    Evaluation("before", rounds=0, deterministic=True),
    Evaluation("after", deterministic=True),
)
"""Without the demonstration, and after a gradient step on it."""
GOALS = (Evaluation(every_task=lambda config: jm.tasks.all_goals(config)),)


def _student(**recurrent: Any) -> Any:
    from jaxmeta.algos.imitation import student

    return student.StudentConfig(recurrent=student.RecurrentConfig(**recurrent))


def _in_context(config: Any, updates: int) -> Any:
    """Returns the config of an agent that predicts actions from the context of a bandit."""
    imitation = jm.outer.ImitationConfig(learning_rate=4e-3, anneal_over=updates)
    return config(student=_student(hidden=64, readout=(64,)), num_tasks=64, imitation=imitation)


def _rounds(updates: int, decay: float) -> Any:
    """Returns the config of DAgger; with decay 1 the expert always acts, so that it is cloning on the same data."""
    from jaxmeta.algos.imitation.dagger import BetaConfig

    imitation = jm.outer.ImitationConfig(learning_rate=2e-3, anneal_over=updates, steps=10)
    mixing = BetaConfig("geometric", decay=decay)
    return jm.DAggerConfig(student=_student(), num_tasks=32, imitation=imitation, kept_rounds=50, mixing=mixing)


def _one_shot(updates: int, inner_loss: Any) -> Any:
    """Returns the config of an agent that adapts to a demonstration."""
    imitation = jm.outer.ImitationConfig(anneal_over=updates)
    return jm.MILConfig(inner_loss=inner_loss, inner_optimizer="per-parameter", imitation=imitation)


def _from_one_demonstration() -> Iterator[Run]:
    points = lambda: jm.tasks.PointRobotConfig()  # noqa: E731
    optimum = lambda: jm.references.point.expected_return()  # noqa: E731
    yield Reference(
        "point/expert", "point.oracle", {}, "point-robot", points, reveal=True,
        rows=(Row(trial_return, optimum=optimum),),
    )  # fmt: skip
    agents = (("mil", "actions", 20_000, -7.0), ("mil-observations", "observations", 15_000, -9.0))
    for name, inner_loss, updates, least in agents:
        after = Row(trial_return, "after", evaluation="after", optimum=optimum, required=Required(least=least))
        yield Trained(
            f"point/{name}", "mil", "point-robot", lambda updates, loss=inner_loss: _one_shot(updates, loss),
            tasks_config=points, updates=updates, chunk=100, checkpoint_every=1_000, quick_chunk=5,
            rows=(Row(trial_return, "before", evaluation="before"), after), evaluations=POINTS,
        )  # fmt: skip


def _distilled() -> Iterator[Run]:
    for name, learner in (("ucb1", "ucb1"), ("thompson", "thompson"), ("posterior", "probability_matching")):
        yield Reference(
            f"bandit/{name}", f"bandits.{learner}", {"num_arms": dpt.ARMS}, "bandit", dpt.bandit,
            rows=(Row(trial_return),),
        )  # fmt: skip
    yield Trained(
        "bandit/distill", "distill", "bandit", lambda updates: _in_context(jm.DistillConfig, updates),
        tasks_config=dpt.bandit, updates=2_400, chunk=50, checkpoint_every=800, quick_chunk=2,
        rows=(Row(trial_return),),
    )  # fmt: skip
    yield Computed(
        "regret/ucb1", dpt.exact, {"learner": "ucb1", "trials": TRIALS}, TRIALS,
        rows=(Row(named("regret sampled")),),
    )  # fmt: skip
    required = {"by mode": Required(no_more_than="regret/ucb1"), "sampled": None}
    yield Computed(
        "regret/distill", dpt.inference, {"trials": TRIALS}, TRIALS, of="bandit/distill",
        rows=tuple(Row(named(f"regret {name}"), name, required=one) for name, one in required.items()),
    )  # fmt: skip


def _runs() -> Iterator[Run]:
    yield from _distilled()
    for name, decay in (("clone", 1.0), ("dagger", 0.0)):
        yield Trained(
            f"grid/{name}", "dagger", "grid-navigation", lambda updates, decay=decay: _rounds(updates, decay),
            tasks_config=lambda: jm.tasks.GridConfig(), updates=100, chunk=20, rows=(Row(trial_return),),
            evaluations=GOALS,
        )  # fmt: skip
    yield from _from_one_demonstration()


TABLE = Table(
    "imitation",
    title="Imitation: return of a trial and pseudo-regret on 5 arms with 50 pulls, return on grid-navigation with"
    " equally many labels, and of point robots after one demonstration",
    source="no published numbers; required: distillation as good as UCB1, its teacher, and after a demonstration -7"
    " with its actions, -9 from its observations",
    runs=tuple(_runs()),
    quick=("bandit/ucb1", "bandit/distill", "grid/dagger"),
)
