"""Evaluation of a run on held-out tasks, or on each of finitely many."""

from __future__ import annotations

import dataclasses
import math
import zlib
from typing import Any

from jaxmeta.experiment.loading import Run, demonstrator
from jaxmeta.experiment.runs import seed_axis

PROBES = 64
"""Held-out tasks that are compared with the training tasks, to find out whether they are the same."""
MAX_TASKS = 100
"""Largest finite set whose tasks are evaluated one by one."""
MAX_NUMBERS = 4
"""Largest number of numbers by which a task is named."""
EVALUATION_STREAM = zlib.crc32(b"evaluation")


def assess(
    run: Run,
    num_tasks: int = 40,
    seed: int = 0,
    rounds: int | None = None,
    deterministic: bool = False,
    streams: int | None = None,
) -> dict[str, Any]:
    """Evaluates a run on held-out tasks; if these are a finite set, `finite_tasks`, on each equally often.

    Args:
      num_tasks: trials, on tasks that are sampled from the family's held-out distribution, per seed if the run has
        several. With a finite set of tasks it is rounded up to a multiple of their number.
      seed: random seed of the tasks and the trials.
      rounds: adaptation rounds; by default as in meta-training.
      deterministic: whether to act by the mode of the policy.
      streams: parallel streams per task and round; by default as in meta-training.

    Returns:
      A JSON object with `returns[round][episode]`, `trial_return` and `gain`, each `{"mean", "stderr", "iqm", "ci95"}`.
      Statistics are over tasks; with several seeds, over seeds and the tasks of each. If the tasks define success,
      `success[round][episode]` has the same statistics of the share of solved episodes. `privacy` has ε and δ of a
      private federated run. `demonstrated` is true if somebody else acted in round 0.

      With a finite set, `num_tasks` is its size, or the number of kinds if there are many tasks of few kinds;
      `trials_per_task` is the number of trials on each. `per_task` has `task`, its index, `name`, and `return` and
      `success` of the last episode, see `Report.per_task`; `worst_task` is the index of the task with the lowest mean
      return.
    """
    plan = changed_plan(run.meta.plan, rounds, streams)
    known = finite_tasks(run.family)
    chosen = num_tasks if known is None else equally_often(known, num_tasks)
    demonstrate = demonstrator(run.config, run.family, plan)
    report = trials(
        run.meta.learner,
        run.params,
        run.family,
        plan,
        chosen,
        seed,
        seed_axis(run.config),
        deterministic,
        demonstrate=demonstrate,
    )
    by_task = {} if known is None else _by_task(report, run.family, known)
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
        **by_task,
        **({} if demonstrate is None else {"demonstrated": True}),
        **_guarantee(run),
    }


def finite_tasks(family: Any) -> Any:
    """Returns the tasks of a family whose held-out tasks are its finite set of training tasks, leaves [K, ...].

    It returns None if there is no such set, if it has more than `MAX_TASKS` tasks, or if some held-out tasks are no
    training tasks, as of `jm.finite`. Tasks of one kind count as one, see `tasks.numbered`.
    """
    import jax
    import jax.numpy as jnp

    from jaxmeta.tasks.base import kinds_of

    known = family.train_tasks
    if known is None or kinds_of(known).max() >= MAX_TASKS:
        return None
    held_out = jax.vmap(family.sample_test)(jax.random.split(jax.random.key(0), PROBES))

    def same(of_all: Any, of_some: Any) -> Any:
        equal = jnp.asarray(of_some)[:, None] == jnp.asarray(of_all)
        return equal.all(tuple(range(2, equal.ndim)))

    # which of the held-out tasks [PROBES] is which of the known ones [K]
    equal = jax.tree.reduce(jnp.logical_and, jax.tree.map(same, known, held_out))
    return known if bool(equal.any(1).all()) else None


def _by_task(report: Any, family: Any, known: Any) -> dict[str, Any]:
    names, scored = task_names(family, known), _have_success(family, known)
    each = [
        {"task": index, "name": name} | {what: point for what, point in summary.items() if what != "success" or has}
        for index, (name, has, summary) in enumerate(zip(names, scored, report.per_task(len(names)), strict=True))
    ]
    worst = min(each, key=lambda one: -math.inf if math.isnan(one["return"]["mean"]) else one["return"]["mean"])
    return {
        "num_tasks": len(each),
        "trials_per_task": report.returns.shape[-4] // len(each),
        "per_task": each,
        "worst_task": worst["task"],
    }


def equally_often(known: Any, num_tasks: int) -> Any:
    """Chooses at least `num_tasks` trials on a finite set, as many on each kind of tasks.

    Args:
      known: the tasks, leaves [M, ...], of K kinds; usually, each is a kind of its own, and K is M.

    Returns:
      The tasks of the trials, leaves [N, ...]; that of trial i is of kind i modulo K. Of a kind with more tasks than
      trials, they are evenly spaced in its list; with fewer, all are repeated.
    """
    import jax
    import numpy as np

    from jaxmeta.tasks.base import kinds_of

    kind = kinds_of(known)
    trials = -(-num_tasks // (kind.max() + 1))
    members = [np.flatnonzero(kind == one) for one in range(kind.max() + 1)]
    chosen = [
        some[np.arange(trials) * len(some) // trials] if len(some) > trials else np.resize(some, trials)
        for some in members
    ]
    order = np.stack(chosen, axis=1).reshape(-1)
    return jax.tree.map(lambda leaf: leaf[order], known)


def task_names(family: Any, known: Any) -> list[str]:
    """Names the kinds of tasks of a finite set: by their environment where the family has several, else by numbers.

    Args:
      known: the tasks, leaves [M, ...], of K kinds.

    Returns:
      A name for each kind, [K]; "" if it has several tasks, or a task is more than `MAX_NUMBERS` numbers.
    """
    import jax
    import numpy as np

    from jaxmeta.tasks.base import kinds_of

    envs, task = _envs(family, known)
    if envs is not None:
        return [type(env).__name__ for env in envs]
    kind = kinds_of(known)
    rows = [np.asarray(leaf, np.float64).reshape(len(kind), -1) for leaf in jax.tree.leaves(task)]
    rows = np.concatenate(rows, axis=1)
    if rows.shape[1] > MAX_NUMBERS or kind.max() + 1 < len(kind):
        return [""] * (kind.max() + 1)
    rows = np.where(np.abs(rows) > 1e-6 * np.max(np.abs(rows)), rows, 0.0)  # rounding errors, as of a cosine
    return [", ".join(f"{number:.3g}" for number in row) for row in rows]


def _have_success(family: Any, known: Any) -> list[bool]:
    """Returns for which kinds of tasks success is defined, [K]."""
    envs, _ = _envs(family, known)
    return (
        [family.env.spec.success] * len(task_names(family, known))
        if envs is None
        else [env.spec.success for env in envs]
    )


def _envs(family: Any, known: Any) -> tuple[list[Any] | None, Any]:
    """Returns the environment of each kind if the family has several, else None; and the tasks without numbers."""
    import numpy as np

    from jaxmeta.tasks.numbered import NumberedTask
    from jaxmeta.tasks.several import Several, SeveralTask

    env = family.env
    while not isinstance(env, Several) and hasattr(env, "env"):
        env = env.env
    task = known.task if isinstance(known, NumberedTask) else known
    if isinstance(env, Several) and isinstance(task, SeveralTask):
        return [env.envs[int(kind)] for kind in np.unique(np.asarray(task.kind))], task
    return None, task


def _guarantee(run: Run) -> dict[str, Any]:
    """Returns what the params reveal about a client of private training, as `privacy`; {} for any other run."""
    config = run.config.algo_config
    if not hasattr(config, "guarantee"):
        return {}
    found = config.guarantee(run.family, config.num_tasks, run.step)
    return {} if found is None else {"privacy": found}


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
