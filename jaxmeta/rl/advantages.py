"""Advantage estimators: how good the actions of one round were, from the stored experience alone.

An estimator is a function of one round, `Rollout [T, E] -> Advantage`, without parameters to learn; no gradient flows
through it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxmeta.rl.returns import discounted_return, generalized_advantage
from jaxmeta.types import Array, Rollout, Spec

BYTES_PER_NUMBER = 4
LARGEST_EQUATIONS = 2**28
"""Bytes that the normal equations of the linear baseline may take, per task and round."""
TOLERANCE = 1e-4
"""How much worse than no baseline at all a fitted one may be, relative, before its ridge is raised."""


class Advantage(NamedTuple):
    """What an estimator says of a round."""

    advantage: Array
    """[T, E], zero at invalid steps."""
    target: Array
    """[T, E], what a value function should have predicted."""


Estimator = Callable[[Rollout], Advantage]


def discounts(experience: Rollout, discount: float, across_episodes: bool) -> Array:
    """Returns what each step's future is worth, [T, E].

    Args:
      across_episodes: whether the future goes on after an episode ended, as for agents that remember within a trial.
    """
    if across_episodes:
        return jnp.full_like(experience.reward, discount)
    return discount * (1.0 - experience.done)


def standardize(advantage: Array, valid: Array, epsilon: float = 1e-8) -> Array:
    """Shifts and scales to zero mean and unit deviation over valid steps; invalid steps stay zero."""
    mean = masked_mean(advantage, valid)
    variance = masked_mean(jnp.square(advantage - mean), valid)
    return (advantage - mean) / (jnp.sqrt(variance) + epsilon) * valid


def masked_mean(values: Array, valid: Array) -> Array:
    """Averages over valid entries; zero if there are none."""
    return jnp.sum(values * valid) / jnp.maximum(jnp.sum(valid), 1.0)


def plain_returns(discount: float = 1.0, across_episodes: bool = False) -> Estimator:
    """Takes the discounted return itself, without a baseline (REINFORCE, Williams, 1992)."""

    def estimate(experience: Rollout) -> Advantage:
        returns = _returns(experience, discount, across_episodes)
        return Advantage(returns * experience.valid, returns)

    return estimate


def linear_baseline(discount: float = 0.99, trace: float = 1.0, normalize: bool = True) -> Estimator:
    """Fits a linear time-feature baseline to the round itself (Duan et al., 2016, arXiv:1604.06778).

    Args:
      discount: γ; nothing is discounted across the end of an episode.
      trace: λ of GAE.
      normalize: whether to standardise advantages over the round.
    """

    def estimate(experience: Rollout) -> Advantage:
        returns = _returns(experience, discount, across_episodes=False)
        value = fit_linear_baseline(experience, returns)
        advantage = _gae(experience, value, discounts(experience, discount, False), trace)
        return Advantage(standardize(advantage, experience.valid) if normalize else advantage, returns)

    return estimate


def value_baseline(
    discount: float = 0.99, trace: float = 0.95, normalize: bool = True, across_episodes: bool = False
) -> Estimator:
    """Uses the values that the behaviour policy predicted, by GAE.

    Within an episode nothing is bootstrapped where it ends, be it by termination, truncation or the horizon; across
    episodes the value at the start of the next one is.
    """

    def estimate(experience: Rollout) -> Advantage:
        value = experience.output.value
        advantage = _gae(experience, value, discounts(experience, discount, across_episodes), trace)
        scaled = standardize(advantage, experience.valid) if normalize else advantage
        return Advantage(scaled, advantage + value)

    return estimate


def fit_linear_baseline(experience: Rollout, returns: Array, ridge: float = 1e-5) -> Array:
    """Predicts returns [T, E] by ridge regression on observation, its square, and a cubic in time.

    The time is that of the episode, in hundreds of steps. Invalid steps do not count in the fit. Where features are so
    collinear that float32 cannot solve the equations, the ridge is raised tenfold until it can (Duan et al., 2016).

    Raises:
      ValueError: if an observation has too many numbers, see `check_linear_baseline`.
    """
    length, streams = returns.shape
    obs = _observed_numbers(experience)
    _check_size(obs.shape[-1])
    time = _time_in_episode(experience)[..., None] / 100.0
    features = jnp.concatenate([obs, obs**2, time, time**2, time**3, jnp.ones_like(time)], axis=-1)
    # unit columns keep the normal equations solvable in float32
    weighted = features * experience.valid[..., None]
    scale = jnp.sqrt(jnp.mean(jnp.square(weighted), (0, 1))) + 1e-6
    weighted, features = (x.reshape(length * streams, -1) / scale for x in (weighted, features))
    coefficients = _ridge_regression(weighted, returns.reshape(-1), ridge)
    return (features @ coefficients).reshape(length, streams)


def check_linear_baseline(spec: Spec) -> None:
    """Raises a ValueError where observations have too many numbers to fit a linear baseline to."""
    _check_size(sum(math.prod(form.shape) for form in jax.tree.leaves(spec.observation_form())))


def _check_size(size: int) -> None:
    needed = BYTES_PER_NUMBER * (2 * size + 4) ** 2  # the normal equations of features and their squares
    if needed > LARGEST_EQUATIONS:
        raise ValueError(
            f"baseline is 'linear'; for an observation of {size} numbers it would need {needed / 2**30:.1f} GiB per"
            " task and round, so take baseline none"
        )


def _observed_numbers(experience: Rollout) -> Array:
    """Lays observations out as [T, E, D], clipped to ±10; bytes count in units of 255."""
    batch = experience.reward.shape

    def numbers(leaf: Array) -> Array:
        unit = 255.0 if leaf.dtype == jnp.uint8 else 1.0
        flat = leaf.reshape(*batch, -1)
        return flat if jnp.issubdtype(leaf.dtype, jnp.floating) else flat.astype(jnp.float32) / unit

    parts = [numbers(leaf) for leaf in jax.tree.leaves(experience.inputs.obs)]
    return jnp.clip(parts[0] if len(parts) == 1 else jnp.concatenate(parts, axis=-1), -10.0, 10.0)


def _ridge_regression(features: Array, targets: Array, ridge: float) -> Array:
    """Solves min_w |targets - features w|² / M + ridge |w|² for features [M, F], with as small a ridge as works.

    A solution works if it is finite and no worse than w = 0, as the exact one is; if none does, w is 0.
    """
    count, size = features.shape
    features, targets = jax.lax.stop_gradient((features, targets))  # there is no gradient of the loop below
    gram = features.T @ features / count

    def solve(ridge: Array) -> Array:
        factor = jax.scipy.linalg.cho_factor(gram + ridge * jnp.eye(size))
        coefficients = jnp.zeros(size)
        for _ in range(2):  # the second time solves for what rounding left, which the ill-conditioned equations enlarge
            residual = features.T @ (targets - features @ coefficients) / count - ridge * coefficients
            coefficients += jax.scipy.linalg.cho_solve(factor, residual)
        return coefficients

    def attempt(state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        ridge = state[0]
        coefficients = solve(ridge)
        worst = (1.0 + TOLERANCE) * jnp.mean(jnp.square(targets))
        return 10.0 * ridge, coefficients, jnp.mean(jnp.square(targets - features @ coefficients)) <= worst

    # the first attempt stands outside: a loop that is hardly ever entered costs nothing
    state = attempt((jnp.asarray(ridge, gram.dtype), jnp.zeros(size), jnp.array(False)))
    _, coefficients, works = jax.lax.while_loop(lambda state: ~state[2] & (state[0] < 10.0), attempt, state)
    return jnp.where(works, coefficients, 0.0)


def _time_in_episode(experience: Rollout) -> Array:
    """Counts steps since the episode began, [T, E]."""

    def step(time, moment):
        prev_done, valid = moment
        time = jnp.where(prev_done * valid > 0, 0.0, time)
        return time + 1.0, time

    start = jnp.zeros(experience.reward.shape[1])
    return jax.lax.scan(step, start, (experience.inputs.prev_done, experience.valid))[1]


def _returns(experience: Rollout, discount: float, across_episodes: bool) -> Array:
    """Computes discounted returns with gaps skipped, [T, E]; invalid steps pay nothing and cost no discount."""
    factor = jnp.where(experience.valid > 0, discounts(experience, discount, across_episodes), 1.0)
    return jax.vmap(discounted_return, (1, 1), 1)(experience.reward, factor)


def _gae(experience: Rollout, value: Array, discount: Array, trace: float) -> Array:
    """Applies GAE to every stream; nothing follows the trial, so the bootstrap is zero. [T, E]."""
    value = jnp.concatenate([value, jnp.zeros_like(value[:1])])
    per_stream = jax.vmap(generalized_advantage, (1, 1, 1, None, 1), 1)
    return per_stream(experience.reward, value, discount, trace, experience.valid)
