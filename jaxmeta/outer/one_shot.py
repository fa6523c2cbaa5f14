"""One-shot imitation: demonstrations as rounds, of which some are adapted to and another one is imitated."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxmeta.core.learner import Learner
from jaxmeta.core.rollout import Demonstrate, rollout
from jaxmeta.outer.experts import Expert, acting
from jaxmeta.outer.imitation import Roles, own_action
from jaxmeta.tasks.base import Env
from jaxmeta.types import Key, Params, Plan, Rollout, Task, Trial


def demonstrator(expert: Expert, env: Env, plan: Plan) -> Demonstrate:
    """Returns a function that demonstrates a task, for round 0 of `jm.collect` and `jm.evaluate`.

        demonstrate = outer.demonstrator(jm.references.experts.planner(family), family.env, meta.plan)
        report = jm.evaluate(meta.learner, state.params, family, tasks, key, meta.plan, demonstrate=demonstrate)

    Args:
      env: the environment as the agent observes it.
      plan: layout of the trials; its `streams` and `episodes` are those of a demonstration.
    """

    def demonstrate(task: Task, key: Key) -> Rollout:
        start_key, rollout_key = jax.random.split(key)
        learner = acting(expert, task)
        fast = learner.start(expert.params, start_key)
        return rollout(learner, expert.params, fast, env, task, rollout_key, plan.streams, plan.episodes)

    return demonstrate


def demonstrating(expert: Expert) -> Roles:
    """The expert demonstrates in every round, independently: the student adapts to some and imitates the last.

    Every round has keys of its own, so the round that is imitated is never one that was adapted to.
    """

    def act(params: Params, task: Task, rounds: jax.Array) -> tuple[Learner, Params]:
        return acting(expert, task)._replace(adapt=lambda params, fast, experience, key: fast), expert.params

    return Roles(act, own_action)


def support_and_query(streams: int, horizon: int) -> Callable[[Rollout, Key], Trial]:
    """Returns the layout of `stored` for one-shot imitation: a round to adapt to, and another one to imitate.

    The streams of both rounds are drawn from the demonstrations on a task without replacement, so that none is in both.

    Args:
      streams: demonstrations in a round.
      horizon: steps of an episode.
    """

    def layout(experience: Rollout, key: Key) -> Trial:
        steps, found = experience.reward.shape
        if steps != horizon:
            raise ValueError(
                f"demonstrations have {steps // horizon} episodes per stream; one-shot imitation needs single ones (try"
                " jaxmeta collect --episodes 1)"
            )
        if found < 2 * streams:
            raise ValueError(
                f"demonstrations have {found} streams per task; adapting to {streams} and imitating {streams} others"
                f" needs {2 * streams} (try jaxmeta collect --streams {2 * streams})"
            )
        draw_key, start_key = jax.random.split(key)
        index = jax.random.permutation(draw_key, found)[: 2 * streams].reshape(2, streams)
        by_round = lambda leaf: jnp.moveaxis(leaf[:, index], 1, 0)  # noqa: E731
        rounds = jax.tree.map(by_round, experience.replace(reset_key=())).replace(reset_key=experience.reset_key[index])
        return Trial(rounds=rounds, start_key=start_key, adapt_keys=jax.random.split(start_key, 1))

    return layout
