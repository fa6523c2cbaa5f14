"""Bernoulli bandits with uniform arms: classical algorithms as learners, and the value of the Bayes-optimal policy.

The algorithms are the baselines of RL² (Duan et al., 2016, arXiv:1611.02779). All use the uniform prior: an arm with s
successes and f failures has the posterior Beta(1 + s, 1 + f).
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from jaxmeta.core.learner import Learner
from jaxmeta.nets.heads import mostly
from jaxmeta.references.base import best, check_epsilon, check_sizes, gamma, random, reference
from jaxmeta.types import Array, Input, Key, Params

__all__ = [
    "Belief",
    "bayes_optimal_value",
    "best_arm_probability",
    "epsilon_greedy",
    "gittins",
    "gittins_index",
    "greedy",
    "optimistic_thompson",
    "oracle",
    "probability_matching",
    "random",
    "thompson",
    "ucb1",
]


class Belief(struct.PyTreeNode):
    """The statistics of a stream's pulls."""

    successes: Array
    """Number of pulls with reward 1, [num_arms]."""
    failures: Array
    """Number of pulls with reward 0, [num_arms]."""
    key: Key

    @property
    def pulls(self) -> Array:
        """Number of pulls of each arm, [num_arms]."""
        return self.successes + self.failures

    @property
    def mean(self) -> Array:
        """Posterior mean of each arm, [num_arms]."""
        return (self.successes + 1.0) / (self.pulls + 2.0)

    def update(self, inputs: Input) -> Belief:
        """Counts the previous pull, from `inputs`."""
        pulled = jax.nn.one_hot(inputs.prev_action, self.successes.shape[0]) * (1.0 - inputs.first)
        return Belief(
            successes=self.successes + pulled * inputs.prev_reward,
            failures=self.failures + pulled * (1.0 - inputs.prev_reward),
            key=self.key,
        )


def best_arm_probability(successes: Array, failures: Array, num_nodes: int = 128) -> Array:
    """Computes the posterior probability that each arm is the best, for uniform priors.

    Thompson sampling pulls each arm with this probability. It is the integral of the density of an arm times the
    distribution functions of the others. All are polynomials, integrated by Gauss-Legendre quadrature. So it is exact,
    up to rounding, if no arm was pulled more than `num_nodes` - 2 times and all together at most 2 `num_nodes` - A
    times, and very close far beyond.

    Args:
      successes: number of pulls with reward 1, [A].
      failures: number of pulls with reward 0, [A].

    Returns:
      [A]; it sums to 1.
    """
    rate, weight, below = (jnp.asarray(table, jnp.float32) for table in _quadrature(num_nodes))
    log_density = successes[:, None] * jnp.log(rate) + failures[:, None] * jnp.log1p(-rate)
    density = jnp.exp(log_density - log_density.max(1, keepdims=True))
    density /= (density @ weight)[:, None]
    log_lower = jnp.log(jnp.clip(density @ below.T, 1e-30, 1.0))
    others = log_lower.sum(0) - log_lower
    chance = (density * jnp.exp(others)) @ weight
    return chance / chance.sum()


@functools.lru_cache(maxsize=4)
def _quadrature(num_nodes: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns nodes [Q] and weights [Q] on [0, 1], and the matrix [Q, Q] of integrals from 0 up to each node."""
    node, weight = np.polynomial.legendre.leggauss(num_nodes)
    values = np.polynomial.legendre.legvander(node, num_nodes)  # P_k at each node, up to k = Q
    k = np.arange(1, num_nodes)
    # the integral of P_k from -1 is (P_{k + 1} - P_{k - 1}) / (2 k + 1), and node + 1 for k = 0
    integrals = np.concatenate([(node + 1)[:, None], (values[:, 2:] - values[:, :-2]) / (2 * k + 1)], axis=1)
    coefficients = (np.arange(num_nodes) + 0.5)[:, None] * values[:, :-1].T * weight
    return (node + 1) / 2, weight / 2, integrals @ coefficients / 2


def probability_matching(num_arms: int) -> Learner:
    """Pulls each arm with the posterior probability that it is the best: Thompson sampling without its samples.

    Its logits are the logarithms of these probabilities, what a decision-pretrained agent should predict.
    """

    def rule(params, belief, key):
        return jnp.log(best_arm_probability(belief.successes, belief.failures) + 1e-12)

    return _rule(num_arms, rule)


def oracle(num_arms: int) -> Learner:
    """Pulls the best arm, which it knows: for `jm.tasks.reveal(family)`."""
    return reference(num_arms, lambda key: (), lambda params, carry, inputs: (carry, best(inputs.obs[1:])))


def greedy(num_arms: int) -> Learner:
    """Pulls an arm with the highest posterior mean."""
    return _rule(num_arms, lambda params, belief, key: best(belief.mean))


def epsilon_greedy(num_arms: int, epsilon: float = 0.05) -> Learner:
    """Pulls an arm with the highest posterior mean, and with probability `epsilon` a uniformly random arm."""
    check_epsilon(epsilon)
    return _rule(num_arms, lambda params, belief, key: mostly(best(belief.mean), epsilon))


def ucb1(num_arms: int, exploration: float = 0.2) -> Learner:
    """Pulls an arm with the highest upper confidence bound (Auer, Cesa-Bianchi and Fischer, 2002).

    The prior counts as two pulls of each arm, as in RL²: else it would pull every arm once first, which fills trials
    shorter than the number of arms.

    Args:
      exploration: factor of the width of the bound; 1 is the original, whose guarantee is for long trials and which
        explores too much in short ones.
    """

    def rule(params, belief, key):
        width = jnp.sqrt(2.0 * jnp.log(belief.pulls.sum() + 1.0) / (belief.pulls + 2.0))
        return best(belief.mean + exploration * width)

    return _rule(num_arms, rule)


def thompson(num_arms: int) -> Learner:
    """Pulls the best arm of a posterior sample (Thompson sampling; Thompson, 1933)."""
    return _rule(num_arms, lambda params, belief, key: best(_posterior_draw(belief, key)))


def optimistic_thompson(num_arms: int, num_draws: int = 1) -> Learner:
    """Thompson sampling with samples clipped from below at the posterior mean (May et al., 2012).

    Args:
      num_draws: samples that are averaged for each arm; more samples explore less, which helps in short trials. With 3
        its return is close to the one in RL²'s paper, except on 50 arms, where it is higher.
    """
    check_sizes(num_draws=num_draws)

    def rule(params, belief, key):
        draws = jax.vmap(_posterior_draw, (None, 0))(belief, jax.random.split(key, num_draws))
        return best(jnp.maximum(draws.mean(0), belief.mean))

    return _rule(num_arms, rule)


def gittins(num_arms: int, num_pulls: int) -> Learner:
    """Pulls an arm with the highest Gittins index for the remaining pulls of `num_pulls`.

    It is exactly optimal only for infinite discounted trials, and nearly optimal here. Its params are `gittins_index`.
    """
    check_sizes(num_pulls=num_pulls)

    def rule(table, belief, key):
        # trials longer than `num_pulls` use the last entries of the table
        remaining = jnp.clip(num_pulls - belief.pulls.sum(), 1, num_pulls).astype(jnp.int32)
        successes, failures = (
            jnp.minimum(count, num_pulls - 1).astype(jnp.int32) for count in (belief.successes, belief.failures)
        )
        return best(table[successes, failures, remaining])

    return _rule(num_arms, rule, init=lambda key: jnp.asarray(gittins_index(num_pulls)))


@functools.lru_cache(maxsize=4)
def gittins_index(num_pulls: int, num_rates: int = 101) -> np.ndarray:
    """Computes the Gittins index of a Bernoulli arm over a finite horizon, by calibration (Gittins, 1979).

    The index is the success rate of a known arm at which pulling the unknown arm next and pulling the known arm in all
    remaining pulls are equally good. The optimal stopping problem is solved by dynamic programming for every rate of a
    grid; the index is where the linearly interpolated gain of pulling crosses zero.

    Args:
      num_rates: points of the grid on [0, 1].

    Returns:
      Indices [successes, failures, remaining], [num_pulls, num_pulls, num_pulls + 1]; zero where successes + failures
      + remaining is far above `num_pulls`, which no trial reaches.
    """
    check_sizes(num_pulls=num_pulls)
    rate = np.linspace(0.0, 1.0, num_rates)
    table = np.zeros((num_pulls, num_pulls, num_pulls + 1), np.float32)
    value = np.zeros((num_rates, num_pulls + 1, num_pulls + 1))  # [rate, successes, failures]
    for remaining in range(1, num_pulls + 1):
        size = num_pulls - remaining + 1
        successes, failures = np.ogrid[:size, :size]
        mean = (successes + 1.0) / (successes + failures + 2.0)
        pull = mean * (1.0 + value[:, 1:, :size]) + (1.0 - mean) * value[:, :size, 1:]
        stop = (rate * remaining)[:, None, None]
        table[:size, :size, remaining] = _zero_crossing(rate, pull - stop)
        value = np.maximum(pull, stop)
    return table


def bayes_optimal_value(num_arms: int, num_pulls: int) -> float:
    """Computes the expected total reward of the Bayes-optimal policy in a trial, by dynamic programming.

    Arms with the same counts are exchangeable. So the state is the multiset of the (successes, failures) of the arms
    that were pulled, whatever the number of arms: 2,139 states after 10 pulls, and about twice as many per further
    pull. Practical up to about 16 pulls.
    """
    check_sizes(num_arms=num_arms, num_pulls=num_pulls)

    @functools.cache
    def value(pulled: tuple[tuple[int, int], ...], remaining: int) -> float:
        if remaining == 0:
            return 0.0
        choices = [(arm, index) for index, arm in enumerate(pulled) if index == 0 or arm != pulled[index - 1]]
        if len(pulled) < num_arms:
            choices.append(((0, 0), len(pulled)))
        return max(pull(pulled, arm, index, remaining) for arm, index in choices)

    def pull(pulled, arm, index, remaining):
        successes, failures = arm
        others = pulled[:index] + pulled[index + 1 :]
        paid = value(tuple(sorted((*others, (successes + 1, failures)))), remaining - 1)
        not_paid = value(tuple(sorted((*others, (successes, failures + 1)))), remaining - 1)
        mean = (successes + 1) / (successes + failures + 2)
        return mean * (1.0 + paid) + (1.0 - mean) * not_paid

    return value((), num_pulls)


def _rule(
    num_arms: int,
    rule: Callable[[Params, Belief, Key], Array],
    init: Callable[[Key], Params] = lambda key: (),
) -> Learner:
    """Builds a learner from a rule (params, belief, key) -> logits [num_arms]."""
    check_sizes(num_arms=num_arms)

    def act(params, belief, inputs):
        belief = belief.update(inputs)
        key = jax.random.fold_in(belief.key, belief.pulls.sum().astype(jnp.int32))
        return belief, rule(params, belief, key)

    def reset(key):
        return Belief(successes=jnp.zeros(num_arms), failures=jnp.zeros(num_arms), key=key)

    return reference(num_arms, reset, act, init)


def _posterior_draw(belief: Belief, key: Key) -> Array:
    up, down = gamma(key, jnp.stack([belief.successes, belief.failures]) + 1.0)
    return up / (up + down)


def _zero_crossing(points: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Returns where values [G, ...], decreasing along points [G], cross zero, by linear interpolation."""
    left = np.clip((values > 0.0).sum(0) - 1, 0, len(points) - 2)[None]
    before, after = np.take_along_axis(values, left, 0)[0], np.take_along_axis(values, left + 1, 0)[0]
    return points[left[0]] + (points[1] - points[0]) * before / (before - after)
