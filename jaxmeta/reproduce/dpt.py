"""Decision-pretrained transformers (Lee et al., 2023, arXiv:2306.14892) beside the exact posterior.

On Bernoulli bandits a student that minimises DPT's loss pulls each arm with the posterior probability that it is the
best. So its pseudo-regret must be that of `bandits.probability_matching`, and its policy must be that posterior.

* The pseudo-regret of a trial is the sum over its pulls of p* - sum_a π(a) p(a), with p the probabilities of the arms
  and p* the largest; by mode, of p* - p(arm). There is no noise of rewards in it, but for the pulls that it depends on.
* KL is the mean of KL(posterior ‖ policy), in nats, over all pulls of a trial, the first included, and over trials on
  held-out tasks. Trials are the agent's own, with sampled pulls, and the posterior is computed from the same pulls.

The dark room is DPT's, with the goals of 20 of 100 cells held out. Contexts have two episodes, which is what the
transformer remembers. An agent that samples at every step from the posterior over the planner's actions finds the goal
slowly, even if its posterior is exact (`dark_room.probability_matching`). So evaluations have 20 episodes, of which the
transformer remembers the last 200 steps, and the second half is episodes 11 to 20.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

import jaxmeta as jm
from jaxmeta.reproduce.base import (
    NOTHING_REQUIRED,
    Computed,
    Evaluation,
    Point,
    Reference,
    Required,
    Row,
    Run,
    Table,
    Trained,
)
from jaxmeta.reproduce.statistics import named

ARMS, PULLS = 5, 50
REGRET = 6.34
"""Pseudo-regret of the exact posterior, sampled, on 5 arms with 50 pulls."""
TRIALS, AT_ONCE = 5_000, 500
EPISODES = 20
"""Episodes of an evaluation in a dark room."""


def exact(learner: str, trials: int) -> dict[str, float]:
    """Computes pseudo-regrets and KL of a learner of `jm.references.bandits`, by its name."""
    import jax

    agent = getattr(jm.references.bandits, learner)(ARMS)
    return _inference(agent, jm.tasks.bandit(bandit()), trials)((), jax.random.key(0))


def inference(folder: Path, trials: int) -> dict[str, list[float]]:
    """Computes pseudo-regrets and KL of a run on Bernoulli bandits, one per seed."""
    import jax

    run = jm.load(folder)
    measured = _inference(run.learner, run.family, trials)
    found = [measured(params, jax.random.key(0)) for params in run.params_by_seed]
    return {name: [one[name] for one in found] for name in found[0]}


def _inference(learner: Any, family: Any, trials: int) -> Callable[[Any, Any], dict[str, float]]:
    """Builds (params, key) -> the numbers of an agent; equal keys give equal tasks."""
    import jax
    import jax.numpy as jnp

    from jaxmeta.core.learner import deterministic
    from jaxmeta.viz import in_context

    def one(params: Any, key: Any) -> dict[str, Any]:
        task_key, key = jax.random.split(key)
        task = family.sample_test(task_key)
        sampled, modal = (
            in_context.along_pulls(agent, params, family, task, key, PULLS)
            for agent in (learner, deterministic(learner))
        )
        best = task.probability.max()
        log = lambda chance: jnp.log(jnp.maximum(chance, jnp.finfo(jnp.float32).tiny))  # noqa: E731
        surprise = sampled.posterior * (log(sampled.posterior) - log(sampled.policy))
        return {
            "regret sampled": jnp.sum(best - sampled.policy @ task.probability),
            "regret by mode": jnp.sum(best - task.probability[modal.arm]),
            "KL": jnp.mean(jnp.sum(surprise, axis=-1)),
        }

    @jax.jit
    def means(params: Any, key: Any) -> dict[str, Any]:
        keys = jax.random.split(key, trials)
        found = jax.lax.map(functools.partial(one, params), keys, batch_size=min(AT_ONCE, trials))
        return jax.tree.map(jnp.mean, found)

    return lambda params, key: {name: float(value) for name, value in means(params, key).items()}


def half(report: Any) -> Point:
    """Computes the mean return of the episodes in the second half of a trial."""
    returns = np.asarray(report.returns)[..., -1, :, :]
    return jm.summarize(returns[..., returns.shape[-1] // 2 :].mean((-2, -1)))


def first(report: Any) -> Point:
    """Computes the return of the first episode of a trial."""
    return jm.summarize(np.asarray(report.returns)[..., -1, :, 0].mean(-1))


@dataclasses.dataclass(frozen=True)
class Share(Required):
    """A lower bound that is a share of another row of the table."""

    other: str = ""
    """Full name of the other row."""
    share: float = 1.0

    def judge(self, row: dict[str, Any], there: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
        other = there.get(self.other, {}).get("ours")
        return NOTHING_REQUIRED if other is None else Required(least=self.share * other).judge(row, there)


def bandit() -> Any:
    """Builds the config of the bandits."""
    return jm.tasks.BanditConfig(num_arms=ARMS, num_pulls=PULLS)


def _dark_room() -> Any:
    return jm.tasks.DarkRoomConfig()


def _held_out(config: Any) -> Any:
    import jax

    return jax.tree.map(lambda leaf: leaf[-config.held_out :], jm.tasks.dark_room_goals(config))


def _transformer(updates: int, num_tasks: int) -> Any:
    """Returns the config of a transformer of two layers, whose training is one parallel pass over each context."""
    from jaxmeta.algos.imitation import student

    network = student.StudentConfig(recurrent=student.RecurrentConfig(cell="transformer", hidden=32))
    imitation = jm.outer.ImitationConfig(learning_rate=3e-3, anneal_over=updates)
    return jm.DPTConfig(student=network, num_tasks=num_tasks, imitation=imitation)


def _on_bandits() -> Iterator[Run]:
    names, count = ("regret sampled", "regret by mode", "KL"), {"trials": TRIALS}
    yield Computed(
        "bandit/posterior", exact, {"learner": "probability_matching", **count}, TRIALS,
        rows=tuple(Row(named(name), name) for name in names[:2]),
    )  # fmt: skip
    yield Trained(
        "bandit/transformer", "dpt", "bandit", lambda updates: _transformer(updates, 64),
        tasks_config=bandit, updates=3_000, chunk=50, checkpoint_every=1_000, quick_chunk=5, rows=(),
    )  # fmt: skip
    bounds = (Required(least=REGRET - 0.3, most=REGRET + 0.3), Required(most=4.3), Required(most=0.03))
    yield Computed(
        "bandit/dpt", inference, count, TRIALS, of="bandit/transformer",
        rows=tuple(Row(named(name), name, required=bound) for name, bound in zip(names, bounds, strict=True)),
    )  # fmt: skip


def _on_dark_rooms() -> Iterator[Run]:
    known = "dark-room/goal known second half"
    goals = Evaluation(num_tasks=1_000, every_task=_held_out, episodes=EPISODES)
    rows = lambda required: (Row(first, "first episode"), Row(half, "second half", required=required))  # noqa: E731
    for name, learner, reveal in (
        ("goal known", "oracle", True),
        ("posterior", "probability_matching", False),
    ):
        yield Reference(
            f"dark-room/{name}", f"dark_room.{learner}", {}, "dark-room", _dark_room, reveal=reveal,
            rows=rows(None), evaluations=(goals,),
        )  # fmt: skip
    yield Trained(
        "dark-room/dpt", "dpt", "dark-room", lambda updates: _transformer(updates, 32), tasks_config=_dark_room,
        updates=640, chunk=20, checkpoint_every=160, quick_chunk=2, rows=rows(Share(other=known, share=0.9)),
        evaluations=(goals,),
    )  # fmt: skip


def _pictures(folders: Mapping[str, Path]) -> dict[str, Any]:
    """Draws returns beside those of references, and the policy on a bandit beside the exact posterior."""
    from jaxmeta.experiment import loading
    from jaxmeta.viz import in_context

    drawn: dict[str, Any] = {}
    for name, folder in folders.items():
        run, tasks = loading.load(folder), name.partition("/")[0]
        title = f"DPT on {tasks} after {run.step:,} updates"
        longer = EPISODES if tasks == "dark-room" else None
        drawn[f"{tasks}-returns"] = in_context.beside_references(
            {"DPT, transformer": run}, title, num_trials=400 if longer else None, episodes=longer
        )
        if in_context.has_posterior(run):
            drawn[f"{tasks}-posterior"] = in_context.beside_posterior(run, title)
    return drawn


TABLE = Table(
    "dpt",
    title="DPT with a transformer: pseudo-regret on 5 arms with 50 pulls, KL to the exact posterior, and returns in"
    " dark rooms with held-out goals",
    source="no published numbers; required: sampled pseudo-regret within 0.3 of 6.34, by mode at most 4.3, KL at most"
    " 0.03; 0.9 of knowing the goal",
    runs=(*_on_bandits(), *_on_dark_rooms()),
    quick=("bandit/dpt", "dark-room/dpt"),
    pictures=_pictures,
)
