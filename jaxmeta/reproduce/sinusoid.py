"""Sinusoid regression of MAML (Finn et al., 2017, arXiv:1703.03400) with the inner rules of several papers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import jaxmeta as jm
from jaxmeta.reproduce.base import Evaluation, Required, Row, Run, Table, Trained
from jaxmeta.reproduce.statistics import loss

SHOTS = (5, 10, 20)
# squared error after one step; Li et al., 2017, Table 1
PUBLISHED = {"maml": (1.13, 0.77, 0.48), "meta-sgd": (0.90, 0.53, 0.31)}
MAML_AT_MOST = (1.0, 0.70, 0.48)
# new query points for every task, and more of them than in meta-training
HELD_OUT = Evaluation(num_tasks=1000, tasks=lambda config: replace(config, queries=100))
AGENTS = {
    "maml": ("maml", lambda: jm.FewShotMAMLConfig()),
    "meta-sgd": ("meta-sgd", lambda: jm.FewShotMetaSGDConfig()),
    "fomaml": ("maml", lambda: jm.FewShotMAMLConfig(backward="first-order")),
    "anil": ("anil", lambda: jm.FewShotANILConfig()),
    "cavia": ("cavia", lambda: jm.FewShotCAVIAConfig()),
    "maml-block-diagonal": ("maml", lambda: jm.FewShotMAMLConfig(inner_optimizer="block-diagonal")),
    "maml-kronecker": ("maml", lambda: jm.FewShotMAMLConfig(inner_optimizer="kronecker")),
    "maml-recurrent": ("maml", lambda: jm.FewShotMAMLConfig(inner_optimizer="recurrent")),
    # clipped, as the descent diverges on waves of large amplitude
    "imaml": ("imaml", lambda: jm.FewShotIMAMLConfig(max_inner_step=0.3)),
}


def _annealed(config: Any, updates: int) -> Any:
    return replace(config, outer=replace(config.outer, anneal_over=updates))


def _agent(name: str, shots: int, updates: int, **row: Any) -> Trained:
    algo, build = AGENTS[name]
    return Trained(
        f"{shots}-shot/{name}",
        algo,
        "sinusoid",
        lambda updates: _annealed(build(), updates),
        tasks_config=lambda: jm.tasks.SinusoidConfig(shots=shots, queries=shots),
        updates=updates,
        chunk=1000,
        checkpoint_every=10_000,
        quick_chunk=5,
        rows=(Row(loss(), **row),),
        evaluations=(HELD_OUT,),
    )


def _reptile(updates: int) -> Any:
    outer = replace(jm.FewShotReptileConfig.outer, step_size=1.0)
    return _annealed(jm.FewShotReptileConfig(num_tasks=5, inner_lr=0.05, outer=outer), updates)


def _runs() -> Iterator[Run]:
    for shots, maml, meta_sgd, most in zip(SHOTS, *PUBLISHED.values(), MAML_AT_MOST, strict=True):
        below = Required(no_more_than=f"{shots}-shot/maml")
        yield _agent("maml", shots, 40_000, published=maml, required=Required(most=most))
        yield _agent("meta-sgd", shots, 40_000, published=meta_sgd, required=below)
    for name in ("fomaml", "anil", "cavia"):
        yield _agent(name, 10, 40_000)
    for name in ("maml-block-diagonal", "maml-kronecker", "maml-recurrent", "imaml"):
        yield _agent(name, 10, 10_000)
    yield Trained(
        "32-step/reptile",
        "reptile",
        "sinusoid",
        _reptile,
        # Reptile's waves have phases up to 2π; meta-training takes 5 inner steps, each on 10 of 50 points
        tasks_config=lambda: jm.tasks.SinusoidConfig(shots=10, queries=40, max_phase=2 * math.pi),
        updates=30_000,
        chunk=1000,
        checkpoint_every=10_000,
        quick_chunk=5,
        rows=(Row(loss(), published=0.048, required=Required(most=0.06)),),
        evaluations=(replace(HELD_OUT, rounds=32),),
    )


def _pictures(folders: Mapping[str, Path]) -> dict[str, Any]:
    """Draws the predictions of the 10-shot agents before and after gradient steps, and their errors by step."""
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
