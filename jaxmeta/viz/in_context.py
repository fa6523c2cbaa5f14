"""Figures of agents that adapt within a trial: their returns beside those of reference agents, and what they infer."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxmeta.core.evaluate import Report
from jaxmeta.core.learner import Learner
from jaxmeta.core.rollout import collect
from jaxmeta.experiment import assessment, loading, runs
from jaxmeta.outer.experts import Expert
from jaxmeta.references import bandits, experts
from jaxmeta.tasks.bandit import BanditConfig
from jaxmeta.tasks.base import TaskFamily, reveal
from jaxmeta.types import Array, Key, Params, Plan, Task
from jaxmeta.viz import canvas

CURVES, POSTERIOR = "in-context.png", "posterior.png"
NUM_TRIALS = 2000
FEW = 20
"""Largest number of episodes whose means are marked one by one."""
LOOKS = (("--", "#E69F00"), ("-.", "#009E73"), (":", "#000000"), ("--", "#CC79A7"))


class Pulls(NamedTuple):
    """One trial on a Bernoulli bandit with A arms, of T pulls."""

    arm: Array
    """Pulled arms, int [T]."""
    reward: Array
    """[T]."""
    policy: Array
    """Probability of each arm under the agent's policy before each pull, [T, A]."""
    posterior: Array
    """Posterior probability that each arm is the best, before each pull, from the same pulls, [T, A]."""
    probability: Array
    """Probability of a reward of each arm, which the agent does not know, [A]."""


def draw(folder: Path, run: loading.Run) -> list[Path]:
    """Draws the pictures of an agent that adapts within a trial into a run folder.

    Returns:
      The files: `CURVES`, and `POSTERIOR` on Bernoulli bandits. None if the agent adapts between rounds, if a trial has
      one episode, or if there are no reference agents for the tasks.
    """
    if run.meta.plan.rounds or run.meta.plan.episodes < 2 or not experts.comparisons(run.family):
        return []
    title = f"{run.config.algo} on {run.config.tasks} after {run.step} updates"
    figures = {CURVES: beside_references({run.config.algo: run}, title)}
    if has_posterior(run):
        figures[POSTERIOR] = beside_posterior(run, title)
    for name, figure in figures.items():
        canvas.save(figure, folder / name)
    return [folder / name for name in figures]


def beside_references(
    agents: Mapping[str, loading.Run],
    title: str,
    num_trials: int | None = None,
    seed: int = 0,
    references: Mapping[str, Expert] | None = None,
    episodes: int | None = None,
) -> Any:
    """Draws the return of every episode of a trial, averaged over held-out tasks, for agents and references.

    Args:
      agents: runs by the names in the legend, all on the same tasks and with trials of the same length.
      num_trials: trials of every agent, by default `NUM_TRIALS`; with several seeds, of each seed.
      seed: seed of tasks and trials.
      references: agents to compare with; by default those of `references.experts.comparisons`.
      episodes: episodes per trial; by default those of the first run.

    Returns:
      A matplotlib figure, see `returns`.
    """
    first = next(iter(agents.values()))
    family, num_trials = first.family, num_trials or NUM_TRIALS
    plan = dataclasses.replace(first.meta.plan, episodes=episodes or first.meta.plan.episodes)
    references = experts.comparisons(family) if references is None else references
    curves = {}
    for name, run in agents.items():
        found = assessment.trials(run.learner, run.params, family, plan, num_trials, seed, runs.seed_axis(run.config))
        curves[name] = points(found)
    known = {name: points(report(one, family, plan.episodes, num_trials, seed)) for name, one in references.items()}
    note = f"mean and 95 % interval over {num_trials:,} held-out tasks" + (
        f" of each of {first.config.num_seeds} seeds" if first.config.num_seeds > 1 else ""
    )
    return returns(curves, known, family.env.spec.horizon, title, note)


def report(reference: Expert, family: TaskFamily, episodes: int, num_trials: int, seed: int) -> Report:
    """Evaluates a reference agent, which may observe the task, on the held-out tasks that a run of one seed gets."""
    seen = family if reference.observe is None else reveal(family)
    plan = Plan(episodes=episodes)
    return assessment.trials(reference.learner, reference.params, seen, plan, num_trials, seed)


def points(found: Report) -> list[dict[str, Any]]:
    """Returns mean and 95 % interval of the return of every episode of the last round."""
    return found.by_round_and_episode()[-1]


def returns(
    agents: Mapping[str, list[dict[str, Any]]],
    references: Mapping[str, list[dict[str, Any]]],
    horizon: int,
    title: str,
    note: str = "",
) -> Any:
    """Draws returns over the episodes of a trial, or rewards over the pulls of a bandit.

    Args:
      agents: by name, `mean` and `ci95` of every episode.
      references: the same of the agents to compare with.
      horizon: steps per episode; 1 on bandits, where an episode is a pull.
      note: what means and intervals are over.

    Returns:
      A matplotlib figure: solid lines with bands for the agents, broken ones for the references.
    """
    figure, axes = canvas.titled(title)
    colors = (canvas.AFTER, *canvas.LINES[3:])
    looks = itertools.islice(itertools.cycle([("-", color, 2.2) for color in colors]), len(agents))
    others = itertools.cycle([(style, color, 1.5) for style, color in LOOKS])
    curves = {**agents, **references}.items()
    for (style, color, width), (name, curve) in zip(itertools.chain(looks, others), curves, strict=False):
        mean = canvas.column(curve, "mean")
        low, high = (np.array([canvas.number(point["ci95"][side]) for point in curve]) for side in (0, 1))
        episode = np.arange(1, len(mean) + 1)
        marker = "o" if len(mean) <= FEW else None
        axes.plot(episode, mean, style, color=color, linewidth=width, label=name, marker=marker, markersize=4)
        axes.fill_between(episode, low, high, color=color, alpha=0.2, linewidth=0)
    if len(mean) <= FEW:
        axes.set_xticks(episode)
    axes.set_xlabel("pull of the trial" if horizon == 1 else "episode of the trial")
    axes.set_ylabel("reward of a pull" if horizon == 1 else "return of an episode (sum of rewards)")
    axes.legend(frameon=False, fontsize=9)
    canvas.subtitle(axes, note)
    return figure


def has_posterior(run: loading.Run) -> bool:
    """Returns whether the posterior over the best arm is known: on Bernoulli bandits with independent uniform arms."""
    return type(run.config.tasks_config) is BanditConfig  # not a subclass, whose arms are others


def along_pulls(learner: Learner, params: Params, family: TaskFamily, task: Task, key: Key, pulls: int) -> Pulls:
    """Runs a trial on a Bernoulli bandit and computes the exact posterior over the best arm along its pulls.

    Args:
      learner: an agent with memory, whose actions are sampled.
      pulls: pulls of the trial.

    Returns:
      The trial, as JAX arrays; the function can be vmapped over tasks and keys.
    """
    trial = collect(learner, params, family.env, task, key, Plan(episodes=pulls))
    stream = jax.tree.map(lambda leaf: leaf[-1, :, 0], trial.rounds.replace(reset_key=()))
    pulled = jax.nn.one_hot(stream.action, len(task.probability))
    before = lambda count: jnp.cumsum(count, axis=0) - count  # noqa: E731
    paid = pulled * stream.reward[:, None]
    posterior = jax.vmap(bandits.best_arm_probability)(before(paid), before(pulled - paid))
    head = learner.head(stream.output)
    arms = range(pulled.shape[1])
    policy = jnp.exp(jnp.stack([head.log_prob(jnp.full(pulls, arm)) for arm in arms], axis=1))
    return Pulls(stream.action, stream.reward, policy, posterior, task.probability)


def beside_posterior(run: loading.Run, title: str, seed: int = 0) -> Any:
    """Draws the policy of an agent and the exact posterior over the best arm, along one trial on a held-out bandit.

    Args:
      run: on Bernoulli bandits; with several seeds it is the agent of the first one.
      seed: seed of the task and of the trial.

    Returns:
      A matplotlib figure, see `probabilities`.
    """
    task_key, key = jax.random.split(jax.random.key(seed))
    task = run.family.sample_test(task_key)
    one = jax.jit(along_pulls, static_argnums=(0, 2, 5))
    found = one(run.learner, run.first_params, run.family, task, key, run.meta.plan.episodes)
    return probabilities(jax.device_get(found), title)


def probabilities(trial: Pulls, title: str) -> Any:
    """Draws the policy and the posterior of a trial as two heat maps with the same axes and colours.

    Arms are sorted by their probability of a reward, the best one on top. Marks show which arm was pulled, and whether
    it paid.

    Returns:
      A matplotlib figure.
    """
    arm, reward, policy, posterior, chance = (np.asarray(part) for part in trial)
    order = np.argsort(-chance)
    row = np.argsort(order)[arm]
    time = np.arange(1, len(row) + 1)
    figure = canvas.figure((8.6, 1.5 + 0.75 * len(order)))
    panels = figure.subplots(2, 1, sharex=True, sharey=True)
    names = ("probability that the agent pulls the arm", "posterior probability that the arm is the best")
    for axes, name, values in zip(panels, names, (policy, posterior), strict=True):
        edges = (np.arange(len(time) + 1) + 0.5, np.arange(len(order) + 1) - 0.5)
        image = axes.pcolormesh(*edges, values[:, order].T, cmap="Blues", vmin=0.0, vmax=1.0)
        for paid, marker, label in ((1.0, "o", "pulled: reward 1"), (0.0, "x", "pulled: reward 0")):
            chosen = reward == paid
            axes.plot(time[chosen], row[chosen], marker, color=canvas.BEFORE, markersize=4, label=label)
        axes.set_yticks(np.arange(len(order)), [f"{one:.2f}" for one in chance[order]])
        axes.set_ylabel("reward probability\nof the arm", fontsize=8)
        axes.set_title(name, loc="left", fontsize=9)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].invert_yaxis()
    panels[-1].xaxis.get_major_locator().set_params(integer=True)
    panels[-1].set_xlabel("pull of the trial; probabilities are those before it")
    figure.colorbar(image, ax=panels, label="probability")
    figure.suptitle(title, fontweight="bold", fontsize=10)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", frameon=False, ncols=2)
    return figure
