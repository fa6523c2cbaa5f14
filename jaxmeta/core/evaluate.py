"""Evaluation: trials on held-out tasks, by the code that collects for training, and their statistics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from jaxmeta.core import parallel
from jaxmeta.core.learner import Learner
from jaxmeta.core.rollout import collect
from jaxmeta.tasks.base import Env
from jaxmeta.types import Array, Key, Params, Plan, Task

MAX_TASKS_AT_ONCE = 1024


class Report(struct.PyTreeNode):
    """Returns of an evaluation."""

    returns: Array
    """Undiscounted return of every episode, [N, R + 1, E, K]."""
    env_steps: Array
    """Valid environment steps of every trial, [N]."""

    def by_round_and_episode(self) -> list[list[dict[str, Any]]]:
        """Summarises over tasks: `[round][episode]`, see `summarize`."""
        per_task = np.asarray(self.returns).mean(2)
        return [[summarize(per_task[:, r, k]) for k in range(per_task.shape[2])] for r in range(per_task.shape[1])]

    def trial_return(self) -> dict[str, Any]:
        """Summarises the return of the last round, its episodes summed."""
        return summarize(np.asarray(self.returns)[:, -1].sum(-1).mean(-1))

    def gain(self) -> dict[str, Any]:
        """Summarises, task by task, the last episode of the last round less the first episode of the first round."""
        per_task = np.asarray(self.returns).mean(2)
        return summarize(per_task[:, -1, -1] - per_task[:, 0, 0])


def evaluate(
    learner: Learner, params: Params, env: Env, tasks: Task, key: Key, plan: Plan, deterministic: bool = False
) -> Report:
    """Runs one trial on each of a batch of tasks, spread over all devices.

    Args:
      learner: any learner: a trained one, an oracle, a classical reference.
      tasks: leaves [N, ...], for instance `jax.vmap(family.sample_test)(keys)`.
      plan: may have more rounds than in meta-training.
      deterministic: whether to act by the mode of the policy, in all rounds.
    """
    if deterministic:
        learner = learner._replace(head=lambda output, head=learner.head: _Mode(head(output)))
    num_tasks = jax.tree.leaves(tasks)[0].shape[0]
    chunk = stepping_chunk(env, tasks, plan)

    def one(params, task_and_key):
        task, key = task_and_key
        rounds = collect(learner, params, env, task, key, plan).rounds
        return Report(returns=episode_returns(rounds.reward, plan.episodes), env_steps=rounds.valid.sum())

    # in bounded pieces: what a trial stores is dropped once it is summed
    at_once = parallel.num_devices_for(num_tasks) * MAX_TASKS_AT_ONCE
    run = parallel.map_over_tasks(one, num_tasks, min(chunk or at_once, at_once))
    params = parallel.replicate(params, parallel.num_devices_for(num_tasks))
    return jax.jit(run)(params, (tasks, jax.random.split(key, num_tasks)))


def stepping_chunk(env: Env, tasks: Task, plan: Plan) -> int | None:
    """Returns how many of the tasks [N, ...] step side by side so that their environment states stay in cache."""
    state, _ = jax.eval_shape(env.reset, jax.random.key(0), jax.tree.map(lambda leaf: leaf[0], tasks))
    return parallel.cache_chunk(plan.streams * parallel.tree_bytes(state))


def episode_returns(reward: Array, episodes: int) -> Array:
    """Sums rewards [..., T, E] by episode: [..., E, K]."""
    *batch, length, streams = reward.shape
    return jnp.moveaxis(reward.reshape(*batch, episodes, length // episodes, streams).sum(-2), -1, -2)


def interquartile_mean(values: np.ndarray, axis: int = -1) -> np.ndarray:
    """Averages the middle half of the values (Agarwal et al., 2021, arXiv:2108.13264)."""
    from scipy import stats

    return stats.trim_mean(values, 0.25, axis=axis)


def summarize(values: Sequence[float] | np.ndarray, seed: int = 0) -> dict[str, Any]:
    """Describes one number per task.

    Returns:
      `mean`, `stderr` (of the mean), `iqm`, and `ci95`, the percentile bootstrap interval of the mean (2,000
      resamples). With a single value the error is None and the interval collapses.
    """
    values = np.asarray(values, np.float64)
    mean, size = float(values.mean()), len(values)
    if size < 2:
        return {"mean": mean, "stderr": None, "iqm": mean, "ci95": [mean, mean]}
    random = np.random.default_rng(seed)
    # resample in pieces: 2,000 x 20,000 values at once would take 320 MB
    means = [values[random.integers(size, size=size)].mean() for _ in range(2000)]
    low, high = np.percentile(means, [2.5, 97.5])
    return {
        "mean": mean,
        "stderr": float(values.std(ddof=1) / np.sqrt(size)),
        "iqm": float(interquartile_mean(values)),
        "ci95": [float(low), float(high)],
    }


class _Mode:
    """A distribution that always draws its mode."""

    def __init__(self, distribution):
        self._distribution = distribution

    def sample(self, seed: Key) -> Array:
        return self._distribution.mode()

    def __getattr__(self, name: str):
        return getattr(self._distribution, name)
