"""The loss whose gradient the outer loops follow: public and pure, to differentiate in a notebook too."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxmeta.core import parallel
from jaxmeta.core.learner import Learner
from jaxmeta.core.rollout import replay, replay_last
from jaxmeta.rl import Estimator, Objective, masked_mean
from jaxmeta.types import Array, Metrics, Params, Trial

MIN_ROWS, MAX_OVERFLOW = 128, 32
"""Streams that a memory is replayed on side by side on a CPU, though they take up to so many times the cache."""


def trial_loss(
    learner: Learner,
    objective: Objective,
    advantage: Estimator,
    *,
    sampling_correction: bool = False,
    value_weight: float = 0.0,
    entropy_weight: float | Array = 0.0,
) -> Callable[[Params, Trial], tuple[Array, Metrics]]:
    """Builds the outer loss of one trial: the objective of its last round, through all adaptations before it.

    Args:
      objective: the outer objective, see `jaxmeta.rl.objectives`.
      advantage: estimates advantages from a stored round.
      sampling_correction: whether params are also credited for the data that the earlier rounds were adapted on
        (E-MAML, Stadie et al., 2018, arXiv:1803.01118), by the return of the last round's streams. With the inner
        objective `log_prob` and an estimator that neither normalises nor looks into other streams, for streams of one
        episode, the gradient is then unbiased.
      value_weight: weight of half the squared error of the predicted values.
      entropy_weight: weight of the entropy bonus.

    Returns:
      A function (params, trial) -> (scalar, metrics). The scalar is per step of the horizon, valid or not.
    """

    def loss(params: Params, trial: Trial) -> tuple[Array, Metrics]:
        last = jax.tree.map(lambda leaf: leaf[-1], trial.rounds)
        if sampling_correction:
            outputs = replay(learner, params, trial)
            output = jax.tree.map(lambda leaf: leaf[-1], outputs)
        else:
            output = replay_last(learner, params, trial)
        estimate = jax.lax.stop_gradient(advantage(last))
        dist, behaviour = learner.head(output), learner.head(last.output)
        # sums over time, not means: if a trial were divided by its own number of valid steps, ending early would count
        # as a gain or a loss in itself
        share = jnp.mean(last.valid)
        policy_loss = objective(
            dist.log_prob(last.action), behaviour.log_prob(last.action), estimate.advantage, last.valid
        )
        total = share * policy_loss
        metrics = {"loss/policy": total, "kl": masked_mean(behaviour.kl_divergence(dist), last.valid)}
        if sampling_correction:
            log_prob = learner.head(outputs).log_prob(trial.rounds.action) * trial.rounds.valid
            total -= jnp.mean(estimate.target[0]) / len(estimate.target) * jnp.sum(log_prob[:-1])
        if value_weight:
            error = 0.5 * masked_mean(jnp.square(output.value - estimate.target), last.valid)
            total += share * value_weight * error
            metrics["loss/value"] = error
        if isinstance(entropy_weight, jax.Array) or entropy_weight:
            entropy = masked_mean(dist.entropy(), last.valid)
            total -= share * entropy_weight * entropy
            metrics["entropy"] = entropy
        return total, metrics

    return loss


def meta_loss(
    learner: Learner, objective: Objective, advantage: Estimator, **options
) -> Callable[[Params, Trial], Array]:
    """Builds the outer loss of a batch of trials [N, ...]: the mean of `trial_loss`, which describes the arguments.

    Returns:
      A pure function (params, trials) -> scalar.
    """
    batch = batch_loss(trial_loss(learner, objective, advantage, **options))
    return lambda params, trials: batch(params, trials)[0]


def batch_loss(
    loss: Callable[[Params, Trial], tuple[Array, Metrics]],
) -> Callable[[Params, Trial], tuple[Array, Metrics]]:
    """Averages a loss of one trial, and its metrics, over a batch of trials [N, ...]."""

    def mean(params: Params, trials: Trial) -> tuple[Array, Metrics]:
        return jax.tree.map(jnp.mean, jax.vmap(loss, (None, 0))(params, trials))

    return mean


def mean_over_trials(function: Callable[[Trial], Any], trials: Trial) -> Any:
    """Averages `function(some trials) -> mean over those` over the trials of all devices, in cache-sized pieces."""
    return parallel.task_mean(parallel.mean_over_chunks(function, trials, gradient_chunk(trials)))


def gradient_chunk(trials: Trial) -> int | None:
    """Returns how many of the trials [N, ...] to differentiate side by side so that they stay in cache.

    An agent that only remembers has one stream, and a recurrent one multiplies as many rows in a step as there are
    trials side by side: too few of them cost more than leaving the cache, up to some megabytes.
    """
    rounds = trials.rounds
    seen = rounds.replace(inputs=rounds.inputs.replace(prev_next_obs=()), next_obs=(), terminated=())
    # what steps led to is for those who replay transitions: a loss on trials does not touch it
    chunk = parallel.cache_chunk(parallel.tree_bytes(seen) // rounds.reward.shape[0])
    if chunk is None or trials.adapt_keys.shape[1]:
        return chunk
    return max(chunk, min(MIN_ROWS // trials.rounds.reward.shape[-1], MAX_OVERFLOW * chunk))
