"""Evaluation of a run on held-out tasks."""

from __future__ import annotations

import dataclasses
import zlib
from typing import Any

from jaxmeta.experiment.loading import Run, demonstrator
from jaxmeta.experiment.runs import seed_axis

EVALUATION_STREAM = zlib.crc32(b"evaluation")


def assess(
    run: Run,
    num_tasks: int = 40,
    seed: int = 0,
    rounds: int | None = None,
    deterministic: bool = False,
    streams: int | None = None,
) -> dict[str, Any]:
    """Evaluates a run on held-out tasks.

    Args:
      num_tasks: tasks, sampled from the family's held-out distribution; per seed if the run has several.
      seed: random seed of the tasks and the trials.
      rounds: adaptation rounds; by default as in meta-training.
      deterministic: whether to act by the mode of the policy.
      streams: parallel streams per task and round; by default as in meta-training.

    Returns:
      A JSON object with `returns[round][episode]`, `trial_return` and `gain`, each `{"mean", "stderr", "iqm", "ci95"}`.
      Statistics are over tasks; with several seeds, over seeds and the tasks of each. If the tasks define success,
      `success[round][episode]` has the same statistics of the share of solved episodes.
    """
    plan = changed_plan(run.meta.plan, rounds, streams)
    report = trials(
        run.meta.learner,
        run.params,
        run.family,
        plan,
        num_tasks,
        seed,
        seed_axis(run.config),
        deterministic,
        demonstrate=demonstrator(run.config, run.family, plan),
    )
    return {
        "algo": run.config.algo,
        "tasks": run.config.tasks,
        "step": run.step,
        "num_tasks": num_tasks,
        "num_seeds": run.config.num_seeds,
        "seed": seed,
        "deterministic": deterministic,
        "plan": dataclasses.asdict(plan),
        "returns": report.by_round_and_episode(),
        "trial_return": report.trial_return(),
        "gain": report.gain(),
        **({} if report.successes is None else {"success": report.success()}),
    }


def changed_plan(plan: Any, rounds: int | None, streams: int | None) -> Any:
    """Returns a plan with other rounds and streams; None keeps them."""
    changes = {name: value for name, value in (("rounds", rounds), ("streams", streams)) if value is not None}
    return dataclasses.replace(plan, **changes)


def trials(
    learner: Any,
    params: Any,
    family: Any,
    plan: Any,
    tasks: Any,
    seed: int,
    num_seeds: int | None = None,
    deterministic: bool = False,
    *,
    demonstrate: Any = None,
) -> Any:
    """Runs trials of a learner, trained or not, on held-out tasks.

    Args:
      tasks: the number of tasks to sample from the family's held-out distribution, per seed if there are several; or
        the tasks themselves, leaves [N, ...]. There is one trial per task.
      seed: random seed of the tasks and the trials.
      num_seeds: leading axis of `params`; None if there is none.
      demonstrate: who acts in round 0, see `jm.evaluate`; None for the learner.

    Returns:
      A `jm.Report`.
    """
    import jax

    import jaxmeta as jm

    # not a small number: folding in i gives the i-th key of a split, which meta-training with this seed uses
    key = jax.random.fold_in(jax.random.key(seed), EVALUATION_STREAM)

    def one_seed(params, key):
        task_key, trial_key = jax.random.split(key)
        batch = tasks
        if isinstance(tasks, int):
            batch = jax.vmap(family.sample_test)(jax.random.split(task_key, tasks))
        return jm.evaluate(learner, params, family.env, batch, trial_key, plan, deterministic, demonstrate=demonstrate)

    if num_seeds is None:
        return one_seed(params, key)
    # every seed has its own tasks, which lowers the variance of the result
    return jax.vmap(one_seed)(params, jax.random.split(key, num_seeds))


def repeated(every_task: Any, num_tasks: int) -> Any:
    """Repeats tasks [M, ...] equally often, for at least `num_tasks` trials in total."""
    import jax
    import jax.numpy as jnp

    repeats = -(-num_tasks // jax.tree.leaves(every_task)[0].shape[0])
    return jax.tree.map(lambda leaf: jnp.concatenate([leaf] * repeats), every_task)
