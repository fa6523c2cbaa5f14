"""The loss whose gradient the outer loops follow: public and pure, to differentiate in a notebook too."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxmeta import devices
from jaxmeta.core.learner import Learner, adaptation_metrics
from jaxmeta.core.rollout import replay_fast, unroll
from jaxmeta.rl import Estimator, Objective, masked_mean
from jaxmeta.types import Array, Fast, Metrics, Output, Params, Rollout, Trial

MIN_ROWS, MAX_OVERFLOW = 128, 32
"""Streams that a memory is replayed on side by side on a CPU, though they take up to so many times the cache."""
PARALLEL_ROWS = 1024
"""Steps, of all trials, that a memory which takes whole trials at once is replayed on side by side on a CPU."""


Critic = Callable[[Params, Rollout], Array]
"""Values of the steps of a round, [T, E], from a model that is not needed to act."""


def trial_loss(
    learner: Learner,
    objective: Objective,
    advantage: Estimator,
    *,
    sampling_correction: float | Array = 0.0,
    return_baseline: float | Array = 0.0,
    kl_weights: Array | None = None,
    value_weight: float = 0.0,
    entropy_weight: float | Array = 0.0,
    critic: Critic | None = None,
) -> Callable[[Params, Trial], tuple[Array, Metrics]]:
    """Builds the outer loss of one trial: the objective of its last round, through all adaptations before it.

    It has more than eight parameters as each weighs one term of the loss.

    Args:
      objective: the outer objective, see `jaxmeta.rl.objectives`.
      advantage: estimates advantages from a stored round.
      sampling_correction: weight of what params are credited with for the data that the earlier rounds were adapted on
        (E-MAML, Stadie et al., 2018, arXiv:1803.01118): the return of the last round's streams. With weight 1, the
        inner objective `log_prob` and an estimator that neither normalises nor looks into other streams, for streams
        of one episode, the gradient is then unbiased.
      return_baseline: what that return is compared with; unbiased if it does not depend on this trial.
      kl_weights: weight of the divergence of what the policy now says, in each of the rounds before the last, from
        what it said then (ProMP, Rothfuss et al., 2019, arXiv:1810.06784), [R]; by default there is none.
      value_weight: weight of half the squared error of the predicted values.
      entropy_weight: weight of the entropy bonus.
      critic: predicts the values, where the policy itself does not.

    Returns:
      A function (params, trial) -> (scalar, metrics). The scalar is per step of the horizon, valid or not.
    """

    def loss(params: Params, trial: Trial) -> tuple[Array, Metrics]:
        fast = replay_fast(learner, params, trial)
        adapted, last = jax.tree.map(lambda leaf: leaf[-1], (fast, trial.rounds))
        output = unroll(learner, params, adapted, last)
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
        metrics |= adaptation_metrics(adapted)
        if _in_use(sampling_correction) or kl_weights is not None:
            credit = (jnp.mean(estimate.target[0]) - return_baseline) / len(estimate.target)
            total += _earlier_loss(learner, params, (fast, trial.rounds), sampling_correction * credit, kl_weights)
        if value_weight:
            value = output.value if critic is None else critic(params, last)
            error = 0.5 * masked_mean(jnp.square(value - estimate.target), last.valid)
            total += share * value_weight * error
            metrics["loss/value"] = error
        if _in_use(entropy_weight):
            entropy = masked_mean(dist.entropy(), last.valid)
            total -= share * entropy_weight * entropy
            metrics["entropy"] = entropy
        return total, metrics

    return loss


def _earlier_loss(
    learner: Learner, params: Params, rounds: tuple[Fast, Rollout], credit: Array, kl_weights: Array | None
) -> Array:
    """Computes the loss of the rounds before the last: the credit of their actions, and the KL penalty."""
    fast, experience = jax.tree.map(lambda leaf: leaf[:-1], rounds)
    outputs = jax.vmap(lambda fast, experience: unroll(learner, params, fast, experience))(fast, experience)
    moved = 0.0 if kl_weights is None else jnp.sum(kl_weights * divergence(learner, outputs, experience))
    return moved - credit * jnp.sum(learner.head(outputs).log_prob(experience.action) * experience.valid)


def divergence(learner: Learner, outputs: Output, rounds: Rollout) -> Array:
    """Computes the mean KL divergence of what a policy now says in earlier rounds from what it said then, [R]."""
    moved = learner.head(rounds.output).kl_divergence(learner.head(outputs))
    return jax.vmap(masked_mean)(moved, rounds.valid)


def _in_use(weight: float | Array) -> bool:
    """Tells a weight that is zero for good from one that may be zero at times."""
    return isinstance(weight, jax.Array) or bool(weight)


def meta_loss(
    learner: Learner, objective: Objective, advantage: Estimator, **options
) -> Callable[[Params, Trial], Array]:
    """Builds the outer loss of a batch of trials [N, ...]: the mean of `trial_loss`, which describes the arguments.

    Returns:
      A pure function (params, trials) -> scalar.
    """
    loss = trial_loss(learner, objective, advantage, **options)
    return lambda params, trials: jnp.mean(jax.vmap(loss, (None, 0))(params, trials)[0])


Credit = Callable[[Trial, Array], dict[str, Array]]
"""Returns, from the trials [n, ...] of one device and their weights [n], the options of `trial_loss` that credit
earlier rounds: scalars."""


def no_credit(trials: Trial, weight_of: Array) -> dict[str, Array]:
    """Credits earlier rounds for nothing: their data counts as given."""
    return {}


def standardized_credit(advantage: Estimator, weight: float) -> Credit:
    """Credits earlier rounds by how a task's return compares with the others'.

    The unit is their deviation, so that the credit does not depend on the size of rewards, as standardised advantages
    do not. That the mean contains the task itself only scales the credit.
    """

    def credit(trials: Trial, weight_of: Array) -> dict[str, Array]:
        mean, deviation, _ = _over_tasks(trials, advantage, weight_of)
        return {"sampling_correction": weight / (deviation + 1e-8), "return_baseline": mean}

    return credit


def unbiased_credit(advantage: Estimator, weight: float, num_tasks: int) -> Credit:
    """Credits earlier rounds by a task's return less the mean of the others', in its own unit.

    Args:
      num_tasks: of an update, over all devices; with one there is no other, and nothing is subtracted.
    """

    def credit(trials: Trial, weight_of: Array) -> dict[str, Array]:
        if num_tasks == 1:
            return {"sampling_correction": jnp.float32(weight)}
        mean, _, share = _over_tasks(trials, advantage, weight_of)
        count = num_tasks * share
        # n / (n - 1) times the distance from the mean of all is the distance from that of the others
        return {"sampling_correction": weight * count / jnp.maximum(count - 1.0, 1.0), "return_baseline": mean}

    return credit


def _over_tasks(trials: Trial, advantage: Estimator, weight: Array) -> tuple[Array, Array, Array]:
    """Returns mean and deviation of the last round's return over the tasks of all devices, and their mean weight."""
    last = jax.tree.map(lambda leaf: leaf[:, -1], trials.rounds)
    returns = jax.vmap(lambda experience: jnp.mean(advantage(experience).target[0]))(last)

    def mean(values: Array) -> Array:
        total, share = devices.task_mean((jnp.mean(values * weight), jnp.mean(weight)))
        return total / jnp.where(share > 0, share, 1.0)

    average = mean(returns)
    deviation = jnp.sqrt(mean(jnp.square(returns - average)))
    return average, deviation, devices.task_mean(jnp.mean(weight))


def gradient_chunk(learner: Learner, trials: Trial) -> int | None:
    """Returns how many of the trials [N, ...] to differentiate side by side so that they stay in cache.

    An agent that only remembers has one stream, and a recurrent one multiplies as many rows in a step as there are
    trials side by side: too few of them cost more than leaving the cache, up to some megabytes. One that takes
    a whole trial at once multiplies the rows of all its steps, and what it computes on the way is many times what is
    stored: few trials are enough, and more cost up to twice the time.
    """
    rounds = trials.rounds
    seen = rounds.replace(inputs=rounds.inputs.replace(prev_next_obs=()), next_obs=(), terminated=(), success=())
    # what steps led to is for those who replay transitions: a loss on trials does not touch it
    chunk = devices.cache_chunk(devices.tree_bytes(seen) // rounds.reward.shape[0])
    if chunk is None or trials.adapt_keys.shape[1]:
        return chunk
    *_, steps, streams = rounds.reward.shape
    if learner.unroll is not None:
        return max(1, PARALLEL_ROWS // (steps * streams))
    return max(chunk, min(MIN_ROWS // streams, MAX_OVERFLOW * chunk))
