"""Balance of many tasks: how their losses are weighted against each other, so that no task dominates the others.

A balance is an argument of `policy_gradient`. There are three: weights that are given, weights of the value losses that
are learned with the params (`by_uncertainty`), and returns in units of each task (`by_returns`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct

from jaxmeta import devices, rl
from jaxmeta.core import guard, paths
from jaxmeta.nets import HEADS, VALUE_HEADS
from jaxmeta.outer.aggregates import Loss, visited
from jaxmeta.outer.meta_update import Batch
from jaxmeta.outer.samplers import MAX_LOGGED_TASKS
from jaxmeta.types import Array, Metrics, Params

LARGEST_LOG_VARIANCE = 10.0
"""Bound of learned log variances: a task whose values fit exactly would have an unbounded weight."""
MIN_SCALE = 1e-4
"""Smallest scale of returns, as in the paper."""

LOG_VARIANCE = f"{HEADS}_log_variance"
"""Name of the params that learned log variances are computed from, [K]."""

Options = dict[str, Any]
"""Arguments of `trial_loss`."""


class Balance(NamedTuple):
    """How the losses of K tasks are weighted against each other."""

    num_tasks: int
    """K."""
    init: Callable[[], Any]
    """Makes the state, which is part of the optimiser's state; `()` if there is none."""
    begin: Callable[[Params, Any, Batch, Array], tuple[Params, Any, Batch, Options]]
    """(params, state, batch of fresh trials, index of the task of each [n]) -> (params, state, batch, options of each),
    before the first step of an update."""
    arguments: Callable[[Params, Options, bool], Options]
    """(params, options of one trial, balanced) -> the arguments of its loss. `balanced` is false for the loss without
    this balance, of which only the norm of the gradient is logged."""
    weight: Callable[[Params, Any], Array]
    """(params, state) -> the logged weight of every task, [K]."""


class BalancedState(struct.PyTreeNode):
    """An optimiser's state, and that of a balance."""

    optimiser: Any
    balance: Any


def given(num_tasks: int) -> Balance:
    """Builds the balance by the weights of the sampler's draw, as of `outer.every(family, visits, weights)`.

    It changes no loss: the aggregate multiplies the gradients by these weights. It adds the metrics of a balance to the
    log.
    """
    return Balance(
        num_tasks,
        init=lambda: (),
        begin=lambda params, state, batch, task: (params, state, batch, {}),
        arguments=lambda params, options, balanced: options,
        weight=lambda params, state: jnp.ones(num_tasks),
    )


def by_uncertainty(num_tasks: int, find: Callable[[Params], Array]) -> Balance:
    """Weights the value losses by learned variances (Kendall, Gal and Cipolla, 2018, arXiv:1705.07115).

    The value loss of task k is the negative log-likelihood of the value targets under a Gaussian around the predicted
    values, up to a constant: E exp(-s) + s / 2, where E is half the mean squared error and s = `log_variances(p)` the
    learned log variance. It is minimal where exp(s) is the mean squared error. The losses of the policy and the entropy
    bonus keep the weight 1: they are no likelihoods, and a negative loss would make s decrease without bound. The
    logged weight is exp(-s).

    Args:
      find: params -> p, [K].
    """

    def begin(params: Params, state: Any, batch: Batch, task: Array) -> tuple[Params, Any, Batch, Options]:
        return params, state, batch, {"task": task}

    def arguments(params: Params, options: Options, balanced: bool) -> Options:
        options = dict(options)
        task = options.pop("task")
        return options | ({"log_variance": log_variances(find(params))[task]} if balanced else {})

    return Balance(num_tasks, lambda: (), begin, arguments, lambda params, _: jnp.exp(-log_variances(find(params))))


def log_variances(raw: Array) -> Array:
    """Returns the log variances s = 10 tanh(p) of raw params p.

    They are bounded, so weights exp(-s) are too. An optimiser such as Adam, whose steps have about the size of the
    learning rate, changes s ten times as fast as p.
    """
    return LARGEST_LOG_VARIANCE * jnp.tanh(raw)


class ReturnStatistics(struct.PyTreeNode):
    """Running mean and variance of the value targets of every task."""

    mean: Array
    """[K]."""
    variance: Array
    """[K]."""
    count: Array
    """Updates that had finite trials on the task, [K]."""

    @property
    def scale(self) -> Array:
        """Standard deviations, [K], at least `MIN_SCALE`; 1 for tasks without data."""
        return jnp.where(self.count > 0, jnp.maximum(jnp.sqrt(self.variance), MIN_SCALE), 1.0)


def no_statistics(num_tasks: int) -> ReturnStatistics:
    """Makes the statistics before any data: mean 0 and scale 1."""
    return ReturnStatistics(jnp.zeros(num_tasks), jnp.zeros(num_tasks), jnp.zeros(num_tasks))


def by_returns(num_tasks: int, advantage: rl.Estimator, rate: float = 0.1) -> Balance:
    """Normalises the returns of every task, PopArt (van Hasselt et al., 2016, arXiv:1602.07714).

    The multi-task form is that of Hessel et al. (2019, arXiv:1809.04474). The network predicts values in units of the
    task, with an output per task: its prediction n means the return mean_k + scale_k n. Once per update, mean_k and
    scale_k move to those of the value targets of the fresh trials, by the learning rate `rate` without the bias of the
    start, and the output layer changes such that no predicted return changes. The loss then has value targets
    (target - mean_k) / scale_k and advantages divided by scale_k. The logged weight is 1 / scale_k.

    Args:
      advantage: estimates advantages from values in units of returns; it must not standardise them.
      rate: learning rate of the statistics per update, in (0, 1].
    """

    def begin(
        params: Params, state: ReturnStatistics, batch: Batch, task: Array
    ) -> tuple[Params, ReturnStatistics, Batch, Options]:
        batch = _in_return_units(batch, state, task)
        last = jax.tree.map(lambda leaf: leaf[:, -1], batch.data.rounds)
        target = jax.vmap(advantage)(last).target
        weight = jnp.where(batch.weight[:, None, None] > 0, last.valid, 0.0)
        after = moved(state, *target_statistics(target, weight, task, num_tasks), rate)
        params = rescaled(params, state, after)
        return params, after, batch, {"return_mean": after.mean[task], "return_scale": after.scale[task]}

    def arguments(params: Params, options: Options, balanced: bool) -> Options:
        options = dict(options)
        mean, scale = options.pop("return_mean"), options.pop("return_scale")

        def normalised(experience: Any) -> rl.Advantage:
            found = advantage(experience)
            return rl.Advantage(found.advantage / scale if balanced else found.advantage, (found.target - mean) / scale)

        # in units of returns, the squared error is larger by the squared scale
        value_weight = options["value_weight"] * (1.0 if balanced else jnp.square(scale))
        return options | {"advantage": normalised, "value_weight": value_weight}

    return Balance(
        num_tasks, lambda: no_statistics(num_tasks), begin, arguments, weight=lambda params, state: 1.0 / state.scale
    )


def _in_return_units(batch: Batch, statistics: ReturnStatistics, task: Array) -> Batch:
    """Converts the stored values of trials from units of their task to returns."""
    rounds = batch.data.rounds
    spread = lambda of_task: of_task[task].reshape(-1, *[1] * (rounds.output.value.ndim - 1))  # noqa: E731
    value = spread(statistics.mean) + spread(statistics.scale) * rounds.output.value
    return batch.replace(data=batch.data.replace(rounds=rounds.replace(output=rounds.output.replace(value=value))))


def target_statistics(target: Array, weight: Array, task: Array, num_tasks: int) -> tuple[Array, Array, Array]:
    """Computes mean and variance of the value targets of every task, over all devices.

    Args:
      target: [n, T, E].
      weight: [n, T, E], 0 for steps that do not count.
      task: index of the task, [n].

    Returns:
      Mean [K], variance [K], and whether there were any targets, bool [K].
    """
    member = jax.nn.one_hot(task, num_tasks, axis=0)

    def mean(values: Array) -> Array:
        total, size = devices.task_sum((member @ (values * weight).sum((1, 2)), member @ weight.sum((1, 2))))
        return total / jnp.maximum(size, 1e-8)

    middle = mean(target)
    # around the mean: the difference of squares would cancel where the mean is large
    return middle, mean(jnp.square(target - middle[task][:, None, None])), mean(jnp.ones_like(target)) > 0


def moved(statistics: ReturnStatistics, mean: Array, variance: Array, seen: Array, rate: float) -> ReturnStatistics:
    """Moves statistics towards those of new data; after the first data they are equal.

    The results are the moments of the mixture of both distributions, with the share rate / (1 - (1 - rate)^count) of
    the new one.
    """
    count = statistics.count + seen
    share = jnp.where(seen, rate / jnp.maximum(1.0 - (1.0 - rate) ** count, rate), 0.0)
    difference = mean - statistics.mean
    spread = (1.0 - share) * (statistics.variance + share * jnp.square(difference)) + share * variance
    return ReturnStatistics(statistics.mean + share * difference, spread, count)


def rescaled(params: Params, before: ReturnStatistics, after: ReturnStatistics) -> Params:
    """Changes the output layer of the values so that mean_k + scale_k n, the predicted returns, stay the same.

    Raises:
      ValueError: if the params have no layer of values per task, see `nets.multi_head`.
    """
    ratio, shift = before.scale / after.scale, (before.mean - after.mean) / after.scale
    is_value = paths.named(params, lambda path: f"{VALUE_HEADS}/" in path)
    is_bias = paths.named(params, lambda path: f"{VALUE_HEADS}/bias" in path)

    def change(leaf: Array, value: bool, bias: bool) -> Array:
        spread = lambda of_task: of_task.reshape(-1, *[1] * (leaf.ndim - 1))  # noqa: E731
        return leaf * spread(ratio) + (spread(shift) if bias else 0.0) if value else leaf

    return jax.tree.map(change, params, is_value, is_bias)


def balance_metrics(
    losses: tuple[Loss, Loss], weight: Array, params: Params, batch: Batch, piece: int | None
) -> Metrics:
    """Computes what a balance does to every task's share of the gradient.

    Args:
      losses: without and with the balance.
      weight: logged weight of every task, [K], without that of the batch.
      batch: visits of one task are neighbours.

    Returns:
      `weight/task_k`, and the norm of the gradient of task k, the mean over its visits, without the balance,
      `grad_norm/unbalanced/task_k`, and with it, `grad_norm/task_k`; empty above `MAX_LOGGED_TASKS` tasks.
    """
    if len(weight) > MAX_LOGGED_TASKS:
        return {}
    trained = jax.tree.leaves(paths.named(params, lambda path: not path.endswith(LOG_VARIANCE)))

    def of_one(one: Batch) -> list[Array]:
        both = lambda params: jnp.stack([loss(params, one.data, one.keys)[0] for loss in losses])  # noqa: E731
        leaves = jax.tree.leaves(jax.jacrev(both)(params))
        kept = [leaf.reshape(2, -1) for leaf, is_trained in zip(leaves, trained, strict=True) if is_trained]
        return guard.zero_unless(one.weight > 0, kept)

    each = devices.chunked_vmap(of_one, batch, piece)
    member = visited(len(batch.weight), len(weight))
    count, total = devices.task_sum((member @ (batch.weight > 0), member @ batch.weight))
    total /= jnp.maximum(count, 1.0)
    by_task = [devices.task_sum(jnp.tensordot(member, leaf, 1)) for leaf in each]
    norms = jnp.sqrt(sum((jnp.sum(jnp.square(leaf), -1) for leaf in by_task), jnp.zeros(())))
    plain, balanced = (norms / jnp.maximum(count, 1.0)[:, None]).T
    named = {"weight": weight * total, "grad_norm/unbalanced": plain, "grad_norm": balanced * total}
    return {f"{name}/task_{index}": value[index] for name, value in named.items() for index in range(len(weight))}
