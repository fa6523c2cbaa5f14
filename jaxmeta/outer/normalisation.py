"""Running statistics of the outer loop: of observations, which agents act on, and of returns, which scale rewards."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from jaxmeta import devices, rl
from jaxmeta.outer.meta_update import Batch, Improve
from jaxmeta.types import Array, Metrics, Params, Rollout, Trial


def with_statistics(improve: Improve) -> Improve:
    """Updates the statistics of an agent with normalised observations after each improvement of the agent inside.

    The wrapped improvement receives trials with normalised observations and the params of the agent inside, so that
    optimisers, KL divergences, penalties and gradients do not involve the statistics. They change after its gradient
    steps, by the observations at all valid steps of the batch: within an update, collection and replay have the same
    ones. The change of the policy that this causes is not part of a KL constraint.

    Improvements on replay buffers are not supported: the buffers hold observations as the environment returned them,
    and every gradient step would have to normalise its samples by the statistics of the time.

    Args:
      improve: an improvement of the agent inside `inner.normalised`, on fresh trials.

    Returns:
      An improvement of `rl.NormalisedParams`. The metric `clipped_observations` is the share of normalised numbers
      that were clipped.
    """

    def step(
        params: rl.NormalisedParams, opt_state: Any, batch: Batch, updates: Array
    ) -> tuple[rl.NormalisedParams, Any, Metrics]:
        trials: Trial = batch.data
        statistics, rounds = params.statistics, trials.rounds
        normal = rl.standardised_rounds(statistics, rounds)
        inside = batch.replace(data=trials.replace(rounds=normal))
        learned, opt_state, metrics = improve.step(params.learner, opt_state, inside, updates)
        clipped, numbers = devices.task_sum(rl.clipped_share(statistics, normal.inputs.obs, rounds.valid))
        seen = rl.statistics_of(rounds.inputs.obs, rounds.valid, statistics, devices.task_sum)
        metrics |= {"clipped_observations": clipped / jnp.maximum(numbers, 1.0)}
        return rl.NormalisedParams(learned, rl.merged(statistics, seen)), opt_state, metrics

    values = None if improve.values is None else _of_normalised(improve.values)
    return Improve(lambda params: improve.init(params.learner), step, values)


def _of_normalised(values: Callable[[Params, Rollout], Array]) -> Callable[[rl.NormalisedParams, Rollout], Array]:
    """Passes a round with normalised observations to a value function."""
    return lambda params, experience: values(params.learner, rl.standardised_rounds(params.statistics, experience))


class ScaledState(struct.PyTreeNode):
    """An optimiser's state, and the statistics of returns."""

    optimiser: Any
    returns: rl.Statistics


def with_scaled_rewards(improve: Improve, discount: float, across_episodes: bool = False) -> Improve:
    """Divides the rewards of the last round by the running standard deviation of discounted returns.

    The returns are those of a stream up to each step, `rl.returns_so_far`, over all updates so far and this one. Values
    are then learned in units of that deviation. Rewards are not shifted or clipped, so optimal policies stay the same.
    Only the wrapped improvement receives scaled rewards: policies, earlier rounds, adaptation in evaluation and
    reported returns do not.

    Args:
      improve: an improvement on fresh trials.
      discount: γ of the returns.
      across_episodes: whether returns continue past the end of an episode.

    Returns:
      An improvement with the metric `reward_scale`, the standard deviation. It has no `values`, which are in units of
      rewards.
    """

    def init(params: Params) -> ScaledState:
        zero, one = jnp.zeros(()), jnp.ones(())
        return ScaledState(improve.init(params), rl.Statistics(zero, (zero,), (one,)))

    def step(params: Params, state: ScaledState, batch: Batch, updates: Array) -> tuple[Params, Any, Metrics]:
        trials: Trial = batch.data
        rounds = trials.rounds
        last = jax.tree.map(lambda leaf: leaf[:, -1], rounds)
        so_far = functools.partial(rl.returns_so_far, discount=discount, across_episodes=across_episodes)
        seen = rl.statistics_of(jax.vmap(so_far)(last), last.valid, state.returns, devices.task_sum)
        returns = rl.merged(state.returns, seen)
        scale = rl.return_scale(returns)
        scaled = rounds.replace(reward=rounds.reward.at[:, -1].divide(scale))
        inside = batch.replace(data=trials.replace(rounds=scaled))
        params, optimiser, metrics = improve.step(params, state.optimiser, inside, updates)
        return params, ScaledState(optimiser, returns), metrics | {"reward_scale": scale}

    return Improve(init, step)
