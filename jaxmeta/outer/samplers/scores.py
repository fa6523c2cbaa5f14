"""Scores of tasks: pure functions of the params and of what an update saw of one task.

Each factory returns a `measure`, see `buffer.Rating`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxmeta import rl
from jaxmeta.core.learner import Learner
from jaxmeta.core.rollout import episode_returns, episode_successes
from jaxmeta.outer.supervised import adapted, answer
from jaxmeta.tasks.few_shot import FewShotTask
from jaxmeta.types import Array, Params, Plan, Rollout, Spec, Trial

Values = Callable[[Params, Rollout], Array]
"""(params, round) -> values [T, E]."""


def positive_value_loss(
    values: Values | None, plan: Plan, discount: float = 0.99, trace: float = 0.95
) -> Callable[[Params, Trial], Array]:
    """Computes the mean over valid steps of max(A, 0), with advantages A that are not standardised.

    It is the "positive value loss" of PLR (Jiang et al., 2021, arXiv:2110.02439), on the last round of a trial. Returns
    extend over all episodes of a round if there are several.

    Args:
      values: predicts the values; None fits a linear baseline to the round.
      discount: γ. trace: λ of generalised advantage estimation.
    """
    across = plan.episodes > 1

    def measure(params: Params, trial: Trial) -> Array:
        last = _last(trial)
        estimate = rl.value_baseline(discount, trace, normalize=False, across_episodes=across)
        advantage = estimate(with_values(values, params, last, discount, across)).advantage
        return rl.masked_mean(jnp.maximum(advantage, 0.0), last.valid)

    return measure


def max_monte_carlo(
    values: Values | None, plan: Plan, discount: float = 0.99
) -> Callable[[Params, Trial], dict[str, Array]]:
    """Measures `best`, the highest discounted return of a stream, and `value`, the mean predicted value.

    The score of a task is the highest `best` of all visits minus `value` ("MaxMC", Jiang et al., 2021,
    arXiv:2110.02439). Both may be negative.
    """
    across = plan.episodes > 1

    def measure(params: Params, trial: Trial) -> dict[str, Array]:
        last = _last(trial)
        returns = rl.plain_returns(discount, across)(last).target
        value = with_values(values, params, last, discount, across).output.value
        return {"best": jnp.max(returns[0]), "value": rl.masked_mean(value, last.valid)}

    return measure


def with_values(values: Values | None, params: Params, last: Rollout, discount: float, across: bool) -> Rollout:
    """Adds the values of a critic, or of a linear baseline if there is none, to a round."""
    if values is None:
        value = rl.fit_linear_baseline(last, rl.plain_returns(discount, across)(last).target)
    else:
        value = values(params, last)
    return last.replace(output=last.output.replace(value=value))


def query_loss(learner: Learner, env: Any, rounds: int) -> Callable[[Params, FewShotTask], Array]:
    """Computes the loss of the query set of a supervised task after the adaptation.

    Args:
      env: a `tasks.FewShot`.
      rounds: inner steps.
    """

    def measure(params: Params, task: FewShotTask) -> Array:
        experience = env.experience(task)
        fast = adapted(learner, params, lambda index: experience, jax.random.key(0), rounds)
        return env.loss(answer(learner, env, params, fast, experience), task.query.targets)

    return measure


def successes(spec: Spec, plan: Plan, trial: Trial) -> Array:
    """Counts the successful episodes of the last round of a trial, of `plan.streams * plan.episodes`.

    If the environment does not report success, an episode counts that it terminates.
    """
    last = _last(trial)
    return jnp.sum(episode_successes(last.success if spec.success else last.terminated, plan.episodes))


def learnability(count: Array, total: int) -> Array:
    """Estimates p (1 - p) without bias from `count` successes in `total` independent episodes, at least 2."""
    return count * (total - count) / (total * (total - 1))


def performance(spec: Spec, plan: Plan) -> Callable[[Params, Trial], Array]:
    """Measures the success rate of the last round, or its mean return per stream if success is not reported."""

    def measure(params: Params, trial: Trial) -> Array:
        if spec.success:
            return successes(spec, plan, trial) / (plan.streams * plan.episodes)
        return jnp.mean(episode_returns(_last(trial).reward, plan.episodes).sum(-1))

    return measure


def _last(trial: Trial) -> Rollout:
    rounds = trial.rounds
    last = jax.tree.map(lambda leaf: leaf[-1], rounds.replace(reset_key=()))
    return last.replace(reset_key=rounds.reset_key[-1])
