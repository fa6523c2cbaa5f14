"""Similarity of batches of tasks: descriptions, matrices, libraries of known tasks, and embeddings for samplers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from jaxmeta import devices
from jaxmeta.core.learner import Learner
from jaxmeta.core.rollout import collect, replay_fast, rollout, stepping_chunk
from jaxmeta.inner.warm_start import Library, Similarity
from jaxmeta.tasks.base import Env
from jaxmeta.types import Array, Key, Params, Plan, Rollout, Task


def first_rounds(learner: Learner, params: Params, env: Env, tasks: Task, key: Key, streams: int = 1) -> Rollout:
    """Collects the first round of every task, before any adaptation: one episode in each stream.

    Args:
      tasks: leaves [N, ...].

    Returns:
      Leaves [N, T, E, ...].
    """
    _require_tasks(tasks)

    def one(task_and_key: tuple[Task, Key]) -> Rollout:
        task, key = task_and_key
        start_key, key = jax.random.split(key)
        return rollout(learner, params, learner.start(params, start_key), env, task, key, streams)

    chunk = stepping_chunk(env, tasks, Plan(streams=streams))
    return devices.chunked_vmap(one, (tasks, jax.random.split(key, _size(tasks))), chunk)


@devices.in_float32
def describe(similarity: Similarity, params: Params, data: Any, key: Key) -> Array:
    """Describes every task of a batch.

    Args:
      data: rounds [N, T, E, ...], such as `first_rounds`, or what the similarity describes instead, leaves [N, ...].

    Returns:
      [N, D].
    """
    keys = jax.random.split(key, _size(data))
    return jax.vmap(lambda one, key: similarity.describe(params, one, key))(data, keys)


@devices.in_float32
def matrix(similarity: Similarity, descriptions: Array, others: Array | None = None) -> Array:
    """Compares all pairs of described tasks.

    Args:
      descriptions: [N, D].
      others: [M, D]; by default the same tasks.

    Returns:
      [N, M], larger where tasks are more alike.
    """
    others = descriptions if others is None else others
    # one row at a time: differences of all pairs would take N x M x D numbers
    return jax.lax.map(lambda one: jax.vmap(similarity.compare, (None, 0))(one, others), descriptions)


@devices.in_float32
def library(
    learner: Learner, params: Params, env: Env, tasks: Task, key: Key, plan: Plan, similarity: Similarity
) -> Library:
    """Adapts to known tasks, and describes each by the first round of its trial.

    Args:
      tasks: the known tasks, leaves [N, ...].
      plan: the trial on each; its rounds are all adapted to. Its streams should be those of the trials on new tasks, so
        that descriptions are alike.
      similarity: describes the tasks.

    Raises:
      ValueError: if there is no task or no round to adapt to, or the similarity does not describe rounds.
    """
    similarity.require_rounds()
    _require_tasks(tasks)
    if plan.rounds < 1:
        raise ValueError(f"plan.rounds is {plan.rounds}; a library needs at least 1 round to adapt to")

    def one(task_and_key: tuple[Task, Key]) -> tuple[Any, Array]:
        task, key = task_and_key
        trial = collect(learner, params, env, task, key, plan)
        adapted, first = replay_fast(learner, params, trial), jax.tree.map(lambda leaf: leaf[0], trial.rounds)
        description = similarity.describe(params, first, jax.random.fold_in(key, 1))
        return jax.tree.map(lambda leaf: leaf[-1], adapted), description

    chunk = stepping_chunk(env, tasks, plan)
    fast, descriptions = devices.chunked_vmap(one, (tasks, jax.random.split(key, _size(tasks))), chunk)
    return Library(tasks, fast, descriptions, similarity.name)


def embedding(
    similarity: Similarity, learner: Learner, params: Params, env: Env, key: Key, streams: int = 1
) -> Callable[[Task], Array]:
    """Builds an embedding of tasks, for samplers that choose tasks near to or far from others.

    The agent collects one round on the task and describes it. Where the Euclidean distance of two embeddings is
    smaller, their similarity is larger. Every call uses the same key, so that a task always has the same embedding.

    Returns:
      A pure function from one task to [D]. It costs `streams` episodes.
    """
    similarity.require_rounds()

    def embed(task: Task) -> Array:
        start_key, round_key, describe_key = jax.random.split(key, 3)
        experience = rollout(learner, params, learner.start(params, start_key), env, task, round_key, streams)
        return similarity.describe(params, experience, describe_key)

    return embed


def rank_correlation(similarities: Array | np.ndarray, distances: Array | np.ndarray) -> float:
    """Computes Spearman's rank correlation of similarities and minus the true distances, over all entries.

    Args:
      similarities: [N, M], or the entries of a matrix above its diagonal [P].
      distances: the same shape.

    Returns:
      1 where a larger distance always means a smaller similarity; NaN if all entries of one are equal.
    """
    from scipy import stats

    return float(np.asarray(stats.spearmanr(np.ravel(similarities), -np.ravel(distances)))[0])


def _size(tree: Any) -> int:
    return jax.tree.leaves(tree)[0].shape[0]


def _require_tasks(tasks: Task) -> None:
    if _size(tasks) == 0:
        raise ValueError("tasks is an empty batch; a similarity of tasks needs at least 1 task")
