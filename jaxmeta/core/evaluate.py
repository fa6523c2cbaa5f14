"""Evaluation on held-out tasks, by the same code that collects for training, and its statistics."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from jaxmeta import devices
from jaxmeta.config import settings
from jaxmeta.core import contracts
from jaxmeta.core import learner as agents
from jaxmeta.core.learner import Learner
from jaxmeta.core.rollout import (
    Demonstrate,
    acting_bytes,
    collect,
    episode_returns,
    episode_successes,
    replay_fast,
    rollout,
    stepping_chunk,
)
from jaxmeta.devices import Execution
from jaxmeta.tasks.base import Env, TaskFamily
from jaxmeta.types import Array, Key, Params, Plan, Task

MAX_TASKS_AT_ONCE = 1024
"""Tasks that one device evaluates in parallel."""


class Report(struct.PyTreeNode):
    """Returns and lengths of the episodes of an evaluation."""

    returns: Array
    """Undiscounted return of every episode, [N, R + 1, E, K]; with several seeds [S, N, R + 1, E, K]."""
    lengths: Array
    """Number of valid steps of every episode, shaped like `returns`."""
    successes: Array | None = None
    """1.0 for episodes in which the task was solved, shaped like `returns`, NaN where the return is NaN; None if
    `Spec.success` is False."""

    @property
    def env_steps(self) -> Array:
        """Number of valid environment steps of every trial, [N] or [S, N]."""
        return self.lengths.sum((-3, -2, -1))

    def by_round_and_episode(self) -> list[list[dict[str, Any]]]:
        """Summarises returns over tasks: `[round][episode]`, see `summarize`."""
        return _by_round_and_episode(self.returns)

    def success(self) -> list[list[dict[str, Any]]] | None:
        """Summarises success rates over tasks: `[round][episode]`, see `summarize`; None if `successes` is."""
        return None if self.successes is None else _by_round_and_episode(self.successes)

    def trial_return(self) -> dict[str, Any]:
        """Summarises the return of the last round, summed over its episodes."""
        return summarize(np.asarray(self.returns)[..., -1, :, :].sum(-1).mean(-1))

    def per_task(self, num_tasks: int) -> list[dict[str, Any]]:
        """Summarises the last episode of the last round for each of K tasks that the batch repeats, in order.

        The trials of task k are those at k, k + K, and so on, as `assessment.equally_often` places them. Statistics are
        over trials and streams, and over seeds if there are several; streams of an agent that adapts between rounds
        share its adaptation, and are averaged first.

        Returns:
          By task, `return` and, if the tasks define success, `success`, see `summarize`.

        Raises:
          ValueError: if the number of trials is not a multiple of K.
        """
        fields = {"return": self.returns} | ({} if self.successes is None else {"success": self.successes})
        size = self.returns.shape[-4]
        if num_tasks < 1 or size % num_tasks:
            raise ValueError(f"num_tasks is {num_tasks}; it must divide the number of trials, which is {size}")

        def of_task(values: Array, task: int) -> dict[str, Any]:
            last = np.asarray(values)[..., task::num_tasks, -1, :, -1]
            adapts = self.returns.shape[-3] > 1
            return summarize(last.mean(-1) if adapts else last.reshape(*last.shape[:-2], -1))

        return [{name: of_task(values, task) for name, values in fields.items()} for task in range(num_tasks)]

    def gain(self) -> dict[str, Any]:
        """Summarises, per task, the return of the last episode minus that of the first episode of the first round."""
        per_task = np.asarray(self.returns).mean(-2)
        return summarize(per_task[..., -1, -1] - per_task[..., 0, 0])


@settings.standard()
def evaluate(
    learner: Learner,
    params: Params,
    env: Env | TaskFamily,
    tasks: Task,
    key: Key,
    plan: Plan,
    deterministic: bool = False,
    execution: Execution = Execution(),
    *,
    demonstrate: Demonstrate | None = None,
) -> Report:
    """Runs one trial on each task of a batch, sharded over the devices.

        tasks = jax.vmap(family.sample_test)(jax.random.split(task_key, 40))
        report = jm.evaluate(meta.learner, state.params, family, tasks, key, meta.plan)

    Args:
      learner: any learner: a trained one, an oracle, a classical reference.
      env: the environment of the tasks, or their family.
      tasks: leaves [N, ...].
      plan: may have more rounds than in meta-training.
      deterministic: whether to report the returns of the policies' modes. The agent still adapts to sampled actions: at
        the mode of a Gaussian the policy gradient of its mean is zero.
      execution: the devices to run on; by default the largest number that divides the number of tasks.
      demonstrate: acts in round 0 instead of the agent, see `collect`; the returns of round 0 are then the
        demonstrator's. Equal functions share a compiled program, so build it once.

    Raises:
      ValueError: if `tasks` is not a batch of tasks of the environment.
    """
    if isinstance(env, TaskFamily):
        contracts.check_forms(env)
        env = env.env
    contracts.check_tasks(env, tasks)
    num_tasks = jax.tree.leaves(tasks)[0].shape[0]
    acting = acting_bytes(learner, params, env.spec)
    mesh, chunk = execution.mesh(num_tasks), stepping_chunk(env, tasks, plan, acting)
    at_once = min(chunk or MAX_TASKS_AT_ONCE, MAX_TASKS_AT_ONCE)
    run = _program(learner, env, plan, deterministic, demonstrate, mesh, at_once)
    params = jax.device_put(params, devices.everywhere(mesh))
    return run(params, (tasks, jax.random.split(key, num_tasks)))


@devices.remembered(16)
def _program(
    learner: Learner,
    env: Env,
    plan: Plan,
    deterministic: bool,
    demonstrate: Demonstrate | None,
    mesh: Any,
    chunk: int,
) -> Callable[..., Any]:
    """Builds the compiled trials of `evaluate`: params, and (tasks, keys) with leaves [N, ...] -> `Report`."""
    modal = agents.deterministic(learner)

    def one(params, task_and_key):
        task, key = task_and_key
        trial = collect(learner, params, env, task, key, plan, demonstrate)
        rounds = trial.rounds.replace(output=(), reset_key=())
        if deterministic:
            keys = jax.random.split(jax.random.fold_in(key, plan.rounds), plan.rounds + 1)
            first = int(demonstrate is not None)  # a demonstration stays as it is
            fast, keys = jax.tree.map(lambda leaf: leaf[first:], (replay_fast(learner, params, trial), keys))
            modes = jax.vmap(
                lambda fast, key: rollout(modal, params, fast, env, task, key, plan.streams, plan.episodes)
            )(fast, keys)
            modes = modes.replace(output=(), reset_key=())
            rounds = jax.tree.map(lambda shown, mode: jnp.concatenate([shown[:first], mode]), rounds, modes)
        # training leaves faults out and counts them; here the return of an episode with a fault is NaN
        reward = jnp.where(rounds.fault, jnp.nan, rounds.reward)
        success = jnp.where(rounds.fault, jnp.nan, rounds.success)
        return Report(
            returns=episode_returns(reward, plan.episodes),
            lengths=episode_returns(rounds.valid, plan.episodes),
            successes=episode_successes(success, plan.episodes) if env.spec.success else None,
        )

    # in bounded pieces: only returns and lengths are kept of a trial
    run = devices.map_over_tasks(one, mesh, chunk)
    # a process can read only arrays that its own devices hold in full
    placed: dict[str, Any] = {} if jax.process_count() == 1 else {"out_shardings": devices.everywhere(mesh)}
    return devices.compiled(run, **placed)


def _by_round_and_episode(values: Array) -> list[list[dict[str, Any]]]:
    """Averages values [..., N, R + 1, E, K] over streams and summarises them over tasks: `[round][episode]`."""
    per_task = np.asarray(values).mean(-2)
    _, rounds, episodes = per_task.shape[-3:]
    return [[summarize(per_task[..., r, k]) for k in range(episodes)] for r in range(rounds)]


def interquartile_mean(values: np.ndarray, axis: int = -1) -> np.ndarray:
    """Computes the interquartile mean, that of the middle half (Agarwal et al., 2021, arXiv:2108.13264)."""
    from scipy import stats

    return stats.trim_mean(values, 0.25, axis=axis)


def summarize(values: Sequence[float] | np.ndarray, seed: int = 0) -> dict[str, Any]:
    """Summarises one number per task, [N], or per seed and task, [S, N].

    Returns:
      `mean`, `stderr` (of the mean), `iqm`, and `ci95`, the percentile bootstrap interval of the mean (2,000
      resamples). Tasks of one seed share their params, so with several seeds the standard error is over the means of
      the seeds, and the bootstrap is hierarchical: it resamples seeds, then tasks within each. With a single value
      `stderr` is None and both ends of `ci95` are the mean.
    """
    values = np.asarray(values, np.float64)
    by_seed = values if values.ndim == 2 else values[:, None]  # without seeds, every task is a group of its own
    groups, members = by_seed.shape
    mean = float(values.mean())
    if groups < 2:
        return (
            summarize(values[0]) if members > 1 else {"mean": mean, "stderr": None, "iqm": mean, "ci95": [mean, mean]}
        )
    random = np.random.default_rng(seed)

    def resample() -> float:
        chosen = random.integers(groups, size=(groups, 1))
        return float(by_seed[chosen, random.integers(members, size=by_seed.shape)].mean())

    low, high = np.percentile([resample() for _ in range(2000)], [2.5, 97.5])
    return {
        "mean": mean,
        "stderr": float(by_seed.mean(1).std(ddof=1) / np.sqrt(groups)),
        "iqm": float(interquartile_mean(values.ravel())),
        "ci95": [float(low), float(high)],
    }
