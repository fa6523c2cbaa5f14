"""A web page with the motion of a Brax body before and after adaptation, next to each other."""

from __future__ import annotations

import html

import jax
import numpy as np

from jaxmeta.experiment import loading
from jaxmeta.types import Task
from jaxmeta.viz import PICTURE
from jaxmeta.viz.recording import before_and_after

SHOWN = 4
"""Largest size of an array of the task that is written out."""
PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="generator" content="{generator}">
<title>{title}</title>
<style>
body {{ margin: 1rem; font-family: sans-serif; }}
h1 {{ font-size: 1.2rem; margin: 0; }}
.episodes {{ display: flex; gap: 1rem; }}
figure {{ flex: 1; min-width: 0; margin: 0; }}
figcaption {{ padding: 0.5rem 0; }}
iframe {{ width: 100%; height: 75vh; border: 1px solid #888; }}
</style>
</head>
<body>
<h1>{title}</h1>
<p>{task}</p>
<div class="episodes">
{episodes}
</div>
<p>The viewers are loaded from cdn.jsdelivr.net and unpkg.com; without access to the internet they stay empty.</p>
</body>
</html>
"""
EPISODE = '<figure><figcaption>{caption}</figcaption><iframe title="{caption}" srcdoc="{page}"></iframe></figure>'


def draw_trial(run: loading.Run, seed: int) -> str:
    """Builds a page that plays the first and the last episode of a trial of a run on a Brax family.

    Args:
      run: of any algorithm; with several seeds it is the agent of the first one. See `recording.before_and_after`.
      seed: seed of the task and of the trial.

    Returns:
      HTML. It loads Brax's viewer and three.js from the internet when it is opened.
    """
    from jaxmeta.tasks.brax import viewer

    env = viewer.unwrap(run.family.env)
    if env is None:
        raise ValueError(f"{run.config.tasks} is no family on Brax; it has no body to show")
    task, episodes = before_and_after(run, seed, viewer.pose)
    figures = [
        EPISODE.format(
            caption=html.escape(f"{episode.label}: return {episode.rewards.sum():.1f} in {len(episode.rewards)} steps"),
            page=html.escape(viewer.replay(env, episode.views)),
        )
        for episode in episodes
    ]
    title = f"{run.config.algo} on {run.config.tasks} after {run.step:,} updates"
    return PAGE.format(
        generator=PICTURE,
        title=html.escape(title),
        task=html.escape(f"Held-out task {seed}: {describe(task)}"),
        episodes="\n".join(figures),
    )


def describe(task: Task) -> str:
    """Writes a task in a line: small arrays in full, of large ones the range."""
    parts = []
    for path, leaf in jax.tree_util.tree_leaves_with_path(task):
        name, value = jax.tree_util.keystr(path, simple=True, separator="."), np.asarray(leaf)
        if value.size > SHOWN:
            text = f"{value.size} values from {value.min():.3g} to {value.max():.3g}"
        else:
            text = ", ".join(f"{number:.3g}" for number in value.ravel())
        parts.append(f"{name} = {text}" if name else text)
    return "; ".join(parts)
