"""Evaluation of a run on held-out tasks."""

from __future__ import annotations

import dataclasses
import zlib
from typing import Any

from jaxmeta.experiment.loading import Run
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
      num_tasks: tasks, drawn from the family's held-out distribution; per seed where the run has several.
      seed: decides the tasks and all else that is random.
      rounds: adaptation rounds; by default as in meta-training.
      deterministic: whether to act by the mode of the policy.
      streams: parallel streams per task and round; by default as in meta-training.

    Returns:
      A JSON object. Statistics are over tasks; where the run has several seeds, over seeds and tasks within them:
      `returns[round][episode]`, `trial_return` and `gain`, each `{"mean", "stderr", "iqm", "ci95"}`. Where the tasks
      define success, `success[round][episode]` is the same for the share of solved episodes.
    """
    plan = changed_plan(run.meta.plan, rounds, streams)
    report = trials(
        run.meta.learner, run.params, run.family, plan, num_tasks, seed, seed_axis(run.config), deterministic
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
    """Returns a plan with other rounds and streams; None leaves them."""
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
) -> Any:
    """Runs trials of a learner, trained or not, on held-out tasks.

    Args:
      tasks: how many to draw from the family's held-out distribution, per seed where there are several; or the tasks
        themselves, stacked [N, ...]. There is a trial on each.
      seed: decides the tasks that are drawn and all else that is random.
      num_seeds: leading axis of `params`; None if there is none.

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
        return jm.evaluate(learner, params, family.env, batch, trial_key, plan, deterministic)

    if num_seeds is None:
        return one_seed(params, key)
    # every seed gets tasks of its own: the more tasks, the less the result depends on them
    return jax.vmap(one_seed)(params, jax.random.split(key, num_seeds))


def repeated(every_task: Any, num_tasks: int) -> Any:
    """Repeats all tasks there are, stacked [M, ...], equally often, for `num_tasks` trials or a few more."""
    import jax
    import jax.numpy as jnp

    repeats = -(-num_tasks // jax.tree.leaves(every_task)[0].shape[0])
    return jax.tree.map(lambda leaf: jnp.concatenate([leaf] * repeats), every_task)
