"""The outer loss: public and pure, so that it can also be differentiated in a notebook."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxmeta import devices
from jaxmeta.core.learner import Learner, adaptation_metrics
from jaxmeta.core.rollout import carry_bytes, replay_fast, unroll
from jaxmeta.rl import Estimator, Objective, masked_mean
from jaxmeta.types import Array, Fast, Metrics, Output, Params, Rollout, Trial

MIN_ROWS, MAX_OVERFLOW = 128, 32
"""On a CPU: streams that a recurrent agent is replayed on in parallel, if they take at most `MAX_OVERFLOW` caches."""
PARALLEL_ROWS = 1024
"""On a CPU: steps, of all trials, that an agent with `Learner.unroll` is replayed on in parallel."""
ADAPTED_ROWS = 512
"""On a CPU: steps, of all trials, that adapted policies are replayed on in parallel."""

Critic = Callable[[Params, Rollout], Array]
"""(params, round) -> values [T, E], for critics that are not part of the policy's output."""


def trial_loss(
    learner: Learner,
    objective: Objective,
    advantage: Estimator,
    *,
    sampling_correction: float | Array = 0.0,
    return_baseline: float | Array = 0.0,
    kl_weights: Array | None = None,
    value_weight: float | Array = 0.0,
    log_variance: Array | None = None,
    entropy_weight: float | Array = 0.0,
    critic: Critic | None = None,
) -> Callable[[Params, Trial], tuple[Array, Metrics]]:
    """Builds the outer loss of one trial: the objective of its last round, differentiated through all adaptations.

    It has more than eight parameters because each weighs one term of the loss.

    Args:
      objective: the outer objective, see `jaxmeta.rl.objectives`.
      advantage: estimates advantages from a stored round.
      sampling_correction: weight of E-MAML's score-function term for the data that the agent adapted on (Stadie et al.,
        2018, arXiv:1803.01118): log-probabilities of the earlier rounds times the return of the last round's streams.
        The gradient is unbiased with weight 1, the inner objective `log_prob`, streams of one episode, and an estimator
        that neither normalises nor uses other streams.
      return_baseline: baseline of that return; it adds no bias if it does not depend on this trial.
      kl_weights: weights of the KL divergence between the policy's current output and the behaviour policy's output in
        each of the rounds before the last (ProMP, Rothfuss et al., 2019, arXiv:1810.06784), [R]; None has no penalty.
      value_weight: weight of half the squared error of the predicted values.
      log_variance: that of Gaussian value targets, a scalar; the value loss is then their negative log-likelihood
        without its constant, half the squared error over the variance plus half the log variance.
      entropy_weight: weight of the entropy bonus.
      critic: predicts the values if the policy's output does not contain them.

    Returns:
      A function (params, trial) -> (scalar, metrics). The scalar is per step of the horizon, valid or not.
    """

    def loss(params: Params, trial: Trial) -> tuple[Array, Metrics]:
        fast = replay_fast(learner, params, trial)
        adapted, last = jax.tree.map(lambda leaf: leaf[-1], (fast, trial.rounds))
        output = unroll(learner, params, adapted, last)
        estimate = jax.lax.stop_gradient(advantage(last))
        dist, behaviour = learner.head(output), learner.head(last.output)
        # sums over time, not means: dividing each trial by its own number of valid steps would bias the objective by
        # the length of the episodes
        share = jnp.mean(last.valid)
        policy_loss = objective(
            dist.log_prob(last.action), behaviour.log_prob(last.action), estimate.advantage, last.valid
        )
        total = share * policy_loss
        metrics = {"loss/policy": total, "kl": masked_mean(behaviour.kl_divergence(dist), last.valid)}
        metrics |= adaptation_metrics(adapted)
        if in_use(sampling_correction) or kl_weights is not None:
            credit = (jnp.mean(estimate.target[0]) - return_baseline) / len(estimate.target)
            total += _earlier_loss(learner, params, (fast, trial.rounds), sampling_correction * credit, kl_weights)
        if in_use(value_weight):
            value = output.value if critic is None else critic(params, last)
            error = 0.5 * masked_mean(jnp.square(value - estimate.target), last.valid)
            total += share * value_weight * _gaussian(error, log_variance)
            metrics["loss/value"] = error
        if in_use(entropy_weight):
            entropy = masked_mean(dist.entropy(), last.valid)
            total -= share * entropy_weight * entropy
            metrics["entropy"] = entropy
        return total, metrics

    return loss


def _earlier_loss(
    learner: Learner, params: Params, rounds: tuple[Fast, Rollout], credit: Array, kl_weights: Array | None
) -> Array:
    """Computes the score-function and KL terms of the rounds before the last."""
    fast, experience = jax.tree.map(lambda leaf: leaf[:-1], rounds)
    outputs = jax.vmap(lambda fast, experience: unroll(learner, params, fast, experience))(fast, experience)
    moved = 0.0 if kl_weights is None else jnp.sum(kl_weights * divergence(learner, outputs, experience))
    return moved - credit * jnp.sum(learner.head(outputs).log_prob(experience.action) * experience.valid)


def divergence(learner: Learner, outputs: Output, rounds: Rollout) -> Array:
    """Computes the mean KL divergence between a policy's current outputs and the stored ones in each round, [R]."""
    moved = learner.head(rounds.output).kl_divergence(learner.head(outputs))
    return jax.vmap(masked_mean)(moved, rounds.valid)


def _gaussian(error: Array, log_variance: Array | None) -> Array:
    """Converts half a squared error to the negative log-likelihood of a Gaussian, without its constant."""
    return error if log_variance is None else error * jnp.exp(-log_variance) + 0.5 * log_variance


def in_use(weight: float | Array) -> bool:
    """Returns whether a weight is used: false only for a constant zero, as traced weights may be non-zero."""
    return isinstance(weight, jax.Array) or bool(weight)


def meta_loss(
    learner: Learner, objective: Objective, advantage: Estimator, **options
) -> Callable[[Params, Trial], Array]:
    """Builds the outer loss of a batch of trials [N, ...]: the mean of `trial_loss`, which documents the arguments.

        loss = outer.meta_loss(learner, rl.ratio, rl.linear_baseline())
        meta_gradient = jax.grad(loss)(params, trials)

    Returns:
      A pure function (params, trials) -> scalar.
    """
    loss = trial_loss(learner, objective, advantage, **options)
    return lambda params, trials: jnp.mean(jax.vmap(loss, (None, 0))(params, trials)[0])


Credit = Callable[[Trial, Array], dict[str, Array]]
"""(trials of one device [n, ...], their weights [n]) -> the arguments of `trial_loss` for E-MAML's score-function term,
scalars."""


def no_credit(trials: Trial, weight_of: Array) -> dict[str, Array]:
    """Has no score-function term: the data that the agent adapted on is treated as fixed."""
    return {}


def standardized_credit(advantage: Estimator, weight: float) -> Credit:
    """Weights the score-function term by a task's standardised return among the tasks of the update.

    Like standardised advantages it does not depend on the scale of rewards. The mean includes the task itself, which
    only changes the scale.
    """

    def credit(trials: Trial, weight_of: Array) -> dict[str, Array]:
        mean, deviation, _ = _over_tasks(trials, advantage, weight_of)
        return {"sampling_correction": weight / (deviation + 1e-8), "return_baseline": mean}

    return credit


def unbiased_credit(advantage: Estimator, weight: float, num_tasks: int) -> Credit:
    """Weights the score-function term by a task's return minus the mean return of the other tasks.

    Args:
      num_tasks: tasks per update, over all devices; with a single task nothing is subtracted.
    """

    def credit(trials: Trial, weight_of: Array) -> dict[str, Array]:
        if num_tasks == 1:
            return {"sampling_correction": jnp.float32(weight)}
        mean, _, share = _over_tasks(trials, advantage, weight_of)
        count = num_tasks * share
        # the difference to the mean of the others is n / (n - 1) times that to the mean of all
        return {"sampling_correction": weight * count / jnp.maximum(count - 1.0, 1.0), "return_baseline": mean}

    return credit


def _over_tasks(trials: Trial, advantage: Estimator, weight: Array) -> tuple[Array, Array, Array]:
    """Returns mean and standard deviation of the last round's return over all tasks, and the tasks' mean weight."""
    last = jax.tree.map(lambda leaf: leaf[:, -1], trials.rounds)
    returns = jax.vmap(lambda experience: jnp.mean(advantage(experience).target[0]))(last)

    def mean(values: Array) -> Array:
        total, share = devices.task_mean((jnp.mean(values * weight), jnp.mean(weight)))
        return total / jnp.where(share > 0, share, 1.0)

    average = mean(returns)
    deviation = jnp.sqrt(mean(jnp.square(returns - average)))
    return average, deviation, devices.task_mean(jnp.mean(weight))


def gradient_chunk(learner: Learner, trials: Trial) -> int | None:
    """Returns how many of the trials [N, ...] to differentiate in parallel so that they fit in cache.

    A recurrent agent multiplies matrices with as many rows as there are streams in parallel: too few rows are slower
    than exceeding the cache by some megabytes. Its carry is stored at every step for the backward pass. An agent with
    `Learner.unroll` has one row per step of the trials, and its activations are many times larger than the stored
    experience: few trials suffice, and more take up to twice the time. Its carries, one per stream, may take
    `MAX_OVERFLOW` caches too. Adapted policies have weights of their own, so that parallel trials only share the
    overhead of operations: `ADAPTED_ROWS` steps are enough.
    """
    rounds = trials.rounds
    seen = rounds.replace(inputs=rounds.inputs.replace(prev_next_obs=()), next_obs=(), terminated=(), success=())
    # next observations are for off-policy learners: this loss does not read them
    per_trial = devices.tree_bytes(seen) // rounds.reward.shape[0]
    chunk = devices.cache_chunk(per_trial)
    if chunk is None:
        return None
    *_, steps, streams = rounds.reward.shape
    if trials.adapt_keys.shape[1]:
        return max(1, min(chunk, ADAPTED_ROWS // (steps * streams)))
    carry = streams * carry_bytes(learner, jax.eval_shape(learner.init, jax.random.key(0)))
    if learner.unroll is not None:
        return max(1, min(PARALLEL_ROWS // (steps * streams), MAX_OVERFLOW * devices.CACHE_BYTES // max(1, carry)))
    most = MAX_OVERFLOW * devices.CACHE_BYTES // (per_trial + steps * carry)
    return max(1, min(max(chunk, MIN_ROWS // streams), most))
