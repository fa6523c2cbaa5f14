"""Few-shot classification of generated letters with the inner rules of several papers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import jaxmeta as jm
from jaxmeta.reproduce.base import Evaluation, Required, Row, Run, Table, Trained
from jaxmeta.reproduce.statistics import episode_return

UPDATES = 4000
SHOTS = (1, 5)
# chance is 0.2 with five letters
ADAPTED = Required(least=0.5)
AGENTS = {
    "maml": lambda: jm.FewShotMAMLConfig(inner_lr=0.1),
    "fomaml": lambda: jm.FewShotMAMLConfig(inner_lr=0.1, backward="first-order"),
    "meta-sgd": lambda: jm.FewShotMetaSGDConfig(inner_lr=0.1),
    "anil": lambda: jm.FewShotANILConfig(inner_lr=0.1),
}
HELD_OUT = (Evaluation(num_tasks=1000),)


def _runs() -> Iterator[Run]:
    for shots in SHOTS:
        for agent, build in AGENTS.items():

            def config(updates, build=build):
                rule = build()
                outer = replace(rule.outer, anneal_over=updates)
                return replace(rule, num_tasks=32, hidden=(128, 128), outer=outer)

            rows = (
                Row(episode_return(0, round=0), "step 0"),
                Row(episode_return(0, round=1), "step 1", required=ADAPTED),
            )
            yield Trained(
                f"{shots}-shot/{agent}",
                agent.removeprefix("fo"),
                "glyphs",
                config,
                tasks_config=lambda shots=shots: jm.tasks.GlyphsConfig(shots=shots),
                updates=UPDATES,
                chunk=250,
                checkpoint_every=2000,
                rows=rows,
                evaluations=HELD_OUT,
                quick_chunk=5,
            )


def _pictures(folders: Mapping[str, Path]) -> dict[str, Any]:
    """Draws the accuracy of the 1-shot agents by gradient step."""
    from jaxmeta.reproduce import curves

    agents = {name.removeprefix("1-shot/"): folder for name, folder in folders.items() if name.startswith("1-shot/")}
    return {"adaptation": curves.accuracy(agents, "glyphs, one example of each of five letters")} if agents else {}


TABLE = Table(
    "glyphs",
    title="5-way classification of new letters: accuracy before and after one gradient step",
    source="no published numbers: the letters are generated; chance is 0.2",
    runs=tuple(_runs()),
    quick=("1-shot/maml", "1-shot/anil"),
    pictures=_pictures,
)
