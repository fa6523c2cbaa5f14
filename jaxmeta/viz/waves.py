"""Visualises agents on sine waves: the predicted function after each adaptation step."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxmeta.core.rollout import collect
from jaxmeta.experiment import loading
from jaxmeta.tasks.few_shot import FewShotTask
from jaxmeta.tasks.sinusoid import MAX_INPUT
from jaxmeta.types import Array, Examples

STEPS = (0, 1, 5, 10)
"""Inner steps after which the prediction is drawn."""
NUM_INPUTS = 200


def predictions(run: loading.Run, task: FewShotTask, x: Array, steps: int) -> Array:
    """Predicts at inputs [M] after 0 to `steps` gradient steps on a task's support set: [steps + 1, M]."""
    env = dataclasses.replace(run.family.env, queries=len(x))
    asked = task.replace(query=Examples(x[:, None], jnp.zeros((len(x), 1))))
    plan = dataclasses.replace(run.meta.plan, rounds=steps)
    trial = collect(run.meta.learner, run.first_params, env, asked, jax.random.key(0), plan)
    return trial.rounds.action[:, 0, 0]


def draw_trial(run: loading.Run, seed: int) -> Any:
    """Draws the predictions of a run on `sinusoid` for a held-out task before and after gradient steps.

    Args:
      run: of any supervised algorithm; with several seeds the first one is drawn.
      seed: seed of the task.

    Returns:
      A matplotlib figure.
    """
    title = f"{run.config.algo} after {run.step:,} updates, task {seed}"
    return _panels({title: run}, seed)


def draw_predictions(folders: Mapping[str, Path], seed: int = 0) -> Any:
    """Draws `draw_trial` for several runs, one panel each, on the same task if their task configs are equal."""
    return _panels({name: loading.load(folder) for name, folder in folders.items()}, seed)


def _panels(agents: Mapping[str, loading.Run], seed: int) -> Any:
    from jaxmeta.viz import plot

    x = jnp.linspace(-MAX_INPUT, MAX_INPUT, NUM_INPUTS)
    panels = {}
    for name, run in agents.items():
        task = run.family.sample_test(jax.random.key(seed))
        said = jax.jit(lambda run=run, task=task: predictions(run, task, x, max(STEPS)))()
        support = (task.support.inputs[:, 0], task.support.targets[:, 0])
        panels[name] = {
            "truth": np.asarray(task.generator(x)),
            "support": np.asarray(support),
            "steps": {step: np.asarray(said[step]) for step in STEPS},
        }
    return plot.functions(np.asarray(x), panels)
