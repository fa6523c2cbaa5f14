"""MAML's 2D navigation, held to the data stored with Finn et al. (2017, arXiv:1703.03400)."""

from __future__ import annotations

from jaxmeta.reproduce.base import Evaluation, Required, Row, Table, Trained
from jaxmeta.reproduce.statistics import episode_return

# 40 test tasks, 40 trajectories each, step size halved after the first step; by gradient steps done
PUBLISHED = (-40.4, -11.7, -3.33, -3.23)
REQUIRED = {1: Required(least=-14.0), 3: Required(least=-5.0)}
POLICY = "--chunk 5 --algo.action-scale 0.1 --algo.hidden 100 100 --algo.activation relu"
STEPS = "--algo.inner-lr 0.5 --algo.later-lr-scale 0.5"
# half the tasks of the paper: what MAML's relatives reach on half of its data
RELATIVES = ("maml", "fomaml", "promp", "meta-sgd", "e-maml")
# nobody published these here
OTHERS = {
    "anil": STEPS,
    "cavia": "--algo.inner-lr 1.0 --algo.later-lr-scale 0.5",
    "imaml": "--algo.inner-lr 0.2 --algo.strength 0.5",
    "reptile": "--algo.inner-lr 0.1",
}


def _trained(name: str, num_tasks: int, required: dict[int, Required], steps: str = STEPS) -> Trained:
    algo = name.partition("/")[2]
    return Trained(
        name,
        algo,
        "navigation",
        f"{POLICY} {steps} --algo.num-tasks {num_tasks}",
        100,
        rows=tuple(
            Row(episode_return(0, round=step), f"step {step}", published=value, required=required.get(step))
            for step, value in enumerate(PUBLISHED)
        ),
        evaluations=(Evaluation(num_tasks=40, rounds=3, streams=40),),
    )


TABLE = Table(
    "navigation",
    title="2D navigation: return after 0 to 3 gradient steps",
    source="published: MAML, the data of Finn et al., 2017, 100 updates of 40 tasks; the others: 100 updates of 20",
    runs=(
        _trained("navigation/maml", 40, REQUIRED),
        *(_trained(f"20-tasks/{algo}", 20, {1: REQUIRED[1]}) for algo in RELATIVES),
        *(_trained(f"others/{algo}", 20, {}, steps) for algo, steps in OTHERS.items()),
    ),
    quick=("navigation/maml", "20-tasks/promp"),
)
