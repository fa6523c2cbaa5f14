"""Sinusoid regression of MAML (Finn et al., 2017, arXiv:1703.03400) with the inner rules of several papers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from jaxmeta.reproduce.base import Evaluation, Required, Row, Run, Table, Trained
from jaxmeta.reproduce.statistics import loss

ANNEAL = "--chunk 1000 --checkpoint-every 10000 --algo.outer.anneal-over {updates}"
SHOTS = (5, 10, 20)
# squared error after one step; Li et al., 2017, Table 1
PUBLISHED = {"maml": (1.13, 0.77, 0.48), "meta-sgd": (0.90, 0.53, 0.31)}
MAML_AT_MOST = (1.0, 0.70, 0.48)
QUICK = "--chunk 5 --checkpoint-every 5"
# points of a task are asked anew, and more of them than in meta-training
HELD_OUT = (Evaluation(num_tasks=1000, tasks="--tasks.queries 100"),)


def _run(name: str, algo: str, shots: int, updates: int, flags: str = "", **row: Any) -> Trained:
    return Trained(
        f"{shots}-shot/{name}",
        algo,
        "sinusoid",
        f"--tasks.shots {shots} --tasks.queries {shots} {ANNEAL} {flags}",
        updates,
        rows=(Row(loss(), **row),),
        evaluations=HELD_OUT,
        quick_flags=QUICK,
    )


def _runs() -> Iterator[Run]:
    for shots, maml, meta_sgd, most in zip(SHOTS, *PUBLISHED.values(), MAML_AT_MOST, strict=True):
        below = Required(no_more_than=f"{shots}-shot/maml")
        yield _run("maml", "maml", shots, 40_000, published=maml, required=Required(most=most))
        yield _run("meta-sgd", "meta-sgd", shots, 40_000, published=meta_sgd, required=below)
    yield _run("fomaml", "maml", 10, 40_000, "--algo.backward first-order")
    yield _run("anil", "anil", 10, 40_000)
    yield _run("cavia", "cavia", 10, 40_000)
    for rule in ("block-diagonal", "kronecker", "recurrent"):
        yield _run(f"maml-{rule}", "maml", 10, 10_000, f"--algo.inner-optimizer {rule}")
    # where a wave is high, the descent would leave for good
    yield _run("imaml", "imaml", 10, 10_000, "--algo.max-inner-step 0.3")
    # Reptile's waves have phases up to 2π; in meta-training it takes 5 steps on 10 of 50 points each
    waves = "--tasks.shots 10 --tasks.max-phase 6.283185307179586"
    yield Trained(
        "32-step/reptile",
        "reptile",
        "sinusoid",
        f"{waves} --tasks.queries 40 {ANNEAL} --algo.num-tasks 5 --algo.inner-lr 0.05 --algo.outer.step-size 1.0",
        30_000,
        rows=(Row(loss(), published=0.048, required=Required(most=0.06)),),
        evaluations=(Evaluation(num_tasks=1000, tasks=f"{waves} --tasks.queries 100", rounds=32),),
        quick_flags=QUICK,
    )


def _pictures(folders: Mapping[str, Path]) -> dict[str, Any]:
    """Draws predictions before and after gradient steps, and the error over them, of the agents with ten shots."""
    from jaxmeta.reproduce import curves
    from jaxmeta.viz import waves

    agents = {name.removeprefix("10-shot/"): folder for name, folder in folders.items() if name.startswith("10-shot/")}
    classic = {name: agents[name] for name in ("maml", "meta-sgd") if name in agents}
    drawn = {"predictions": waves.draw_predictions(classic)} if classic else {}
    return drawn | ({"adaptation": curves.error(agents, "sinusoid")} if agents else {})


TABLE = Table(
    "sinusoid",
    title="Sinusoid regression: squared error after one gradient step, and Reptile's after 32",
    source="published: Li et al., 2017 (MAML, Meta-SGD); an independent run of Reptile on one wave",
    runs=tuple(_runs()),
    quick=("10-shot/maml", "10-shot/meta-sgd", "32-step/reptile"),
    pictures=_pictures,
)
