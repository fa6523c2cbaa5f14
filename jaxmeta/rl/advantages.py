"""Advantage estimators, from the stored experience of one round.

An estimator is a function of one round, `Rollout [T, E] -> Advantage`, without learned parameters; no gradient flows
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
"""Memory limit of the linear baseline's normal equations, in bytes per task and round."""
TOLERANCE = 1e-4
"""Relative excess of a fitted baseline's squared error over that of a zero baseline, from which the ridge is raised."""


class Advantage(NamedTuple):
    """The estimates for one round."""

    advantage: Array
    """[T, E], zero at invalid steps."""
    target: Array
    """[T, E], the regression target of a value function."""


Estimator = Callable[[Rollout], Advantage]


def discounts(experience: Rollout, discount: float, across_episodes: bool) -> Array:
    """Returns the discount of each step's future, [T, E].

    Args:
      across_episodes: whether returns continue past the end of an episode, as for recurrent agents on whole trials.
    """
    if across_episodes:
        return jnp.full_like(experience.reward, discount)
    return discount * (1.0 - experience.done)


def standardize(advantage: Array, valid: Array, epsilon: float = 1e-8) -> Array:
    """Standardises to zero mean and unit standard deviation over valid steps; invalid steps stay zero."""
    mean = masked_mean(advantage, valid)
    variance = masked_mean(jnp.square(advantage - mean), valid)
    return (advantage - mean) / (jnp.sqrt(variance) + epsilon) * valid


def masked_mean(values: Array, valid: Array) -> Array:
    """Averages over valid entries; zero if there are none."""
    return jnp.sum(values * valid) / jnp.maximum(jnp.sum(valid), 1.0)


def plain_returns(discount: float = 1.0, across_episodes: bool = False) -> Estimator:
    """Uses the discounted return without a baseline (REINFORCE, Williams, 1992)."""

    def estimate(experience: Rollout) -> Advantage:
        returns = _returns(experience, discount, across_episodes)
        return Advantage(returns * experience.valid, returns)

    return estimate


def linear_baseline(discount: float = 0.99, trace: float = 1.0, normalize: bool = True) -> Estimator:
    """Fits a linear time-feature baseline to the round itself (Duan et al., 2016, arXiv:1604.06778).

    Args:
      discount: γ, within an episode; returns do not extend past its end.
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
    discount: float = 0.99,
    trace: float = 0.95,
    normalize: bool = True,
    across_episodes: bool = False,
    per_step: bool = False,
) -> Estimator:
    """Computes GAE with the values that the behaviour policy predicted.

    Without `across_episodes` there is no bootstrap at the end of an episode, be it by termination, truncation or the
    horizon; with it, the value at the start of the next episode is the bootstrap.

    Args:
      per_step: whether invalid steps count as time within an episode: if the next valid step is k steps later, the
        discount is γ^k. For decisions of different lengths, see `decision_steps`.
    """

    def estimate(experience: Rollout) -> Advantage:
        value = experience.output.value
        factor = discounts(experience, discount, across_episodes)
        if per_step:
            factor *= discount ** (_steps_to_next(experience.valid) - 1.0)
        advantage = _gae(experience, value, factor, trace)
        scaled = standardize(advantage, experience.valid) if normalize else advantage
        return Advantage(scaled, advantage + value)

    return estimate


def fit_linear_baseline(experience: Rollout, returns: Array, ridge: float = 1e-5) -> Array:
    """Predicts returns [T, E] by ridge regression on the observation, its square, and a cubic in time.

    Time is measured within the episode, in hundreds of steps. Invalid steps are left out of the fit. If float32 cannot
    solve the normal equations because features are collinear, the ridge is raised tenfold until it can (Duan et al.,
    2016).

    Raises:
      ValueError: if observations are too large, see `check_linear_baseline`.
    """
    length, streams = returns.shape
    obs = _observed_numbers(experience)
    _check_size(obs.shape[-1])
    time = _time_in_episode(experience)[..., None] / 100.0
    features = jnp.concatenate([obs, obs**2, time, time**2, time**3, jnp.ones_like(time)], axis=-1)
    # columns are normalised so that float32 can solve the normal equations
    weighted = features * experience.valid[..., None]
    scale = jnp.sqrt(jnp.mean(jnp.square(weighted), (0, 1))) + 1e-6
    weighted, features = (x.reshape(length * streams, -1) / scale for x in (weighted, features))
    coefficients = _ridge_regression(weighted, returns.reshape(-1), ridge)
    return (features @ coefficients).reshape(length, streams)


def check_linear_baseline(spec: Spec) -> None:
    """Raises a ValueError if observations are too large to fit a linear baseline to."""
    _check_size(sum(math.prod(form.shape) for form in jax.tree.leaves(spec.observation_form())))


def _check_size(size: int) -> None:
    needed = BYTES_PER_NUMBER * (2 * size + 4) ** 2  # the normal equations of features and their squares
    if needed > LARGEST_EQUATIONS:
        raise ValueError(
            f"baseline is 'linear'; for an observation of {size} numbers it would need {needed / 2**30:.1f} GiB per"
            " task and round (try baseline none)"
        )


def _observed_numbers(experience: Rollout) -> Array:
    """Flattens observations to [T, E, D], clipped to ±10; uint8 is divided by 255."""
    batch = experience.reward.shape

    def numbers(leaf: Array) -> Array:
        unit = 255.0 if leaf.dtype == jnp.uint8 else 1.0
        flat = leaf.reshape(*batch, -1)
        return flat if jnp.issubdtype(leaf.dtype, jnp.floating) else flat.astype(jnp.float32) / unit

    parts = [numbers(leaf) for leaf in jax.tree.leaves(experience.inputs.obs)]
    return jnp.clip(parts[0] if len(parts) == 1 else jnp.concatenate(parts, axis=-1), -10.0, 10.0)


def _ridge_regression(features: Array, targets: Array, ridge: float) -> Array:
    """Solves min_w |targets - features w|² / M + ridge |w|² for features [M, F], with the smallest ridge that works.

    A solution works if it is finite and no worse than w = 0, as the exact one would be; if none works, w is 0.
    """
    count, size = features.shape
    features, targets = jax.lax.stop_gradient((features, targets))  # reverse mode cannot differentiate the loop below
    gram = features.T @ features / count

    def solve(ridge: Array) -> Array:
        factor = jax.scipy.linalg.cho_factor(gram + ridge * jnp.eye(size))
        coefficients = jnp.zeros(size)
        for _ in range(2):  # one step of iterative refinement: rounding errors are large if ill-conditioned
            residual = features.T @ (targets - features @ coefficients) / count - ridge * coefficients
            coefficients += jax.scipy.linalg.cho_solve(factor, residual)
        return coefficients

    def attempt(state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        ridge = state[0]
        coefficients = solve(ridge)
        worst = (1.0 + TOLERANCE) * jnp.mean(jnp.square(targets))
        return 10.0 * ridge, coefficients, jnp.mean(jnp.square(targets - features @ coefficients)) <= worst

    # the first attempt is outside the loop, which is hardly ever entered
    state = attempt((jnp.asarray(ridge, gram.dtype), jnp.zeros(size), jnp.array(False)))
    _, coefficients, works = jax.lax.while_loop(lambda state: ~state[2] & (state[0] < 10.0), attempt, state)
    return jnp.where(works, coefficients, 0.0)


def _time_in_episode(experience: Rollout) -> Array:
    """Counts steps since the start of the episode, [T, E]."""

    def step(time, moment):
        prev_done, valid = moment
        time = jnp.where(prev_done * valid > 0, 0.0, time)
        return time + 1.0, time

    start = jnp.zeros(experience.reward.shape[1])
    return jax.lax.scan(step, start, (experience.inputs.prev_done, experience.valid))[1]


def _steps_to_next(valid: Array) -> Array:
    """Counts the steps from each step to the next valid one, [T, E]; after the last, to the end of the round."""

    def step(distance, valid):
        return jnp.where(valid > 0, 1.0, distance + 1.0), distance

    return jax.lax.scan(step, jnp.ones_like(valid[0]), valid, reverse=True)[1]


def _returns(experience: Rollout, discount: float, across_episodes: bool) -> Array:
    """Computes discounted returns, [T, E]; invalid steps have no reward and no discount."""
    factor = jnp.where(experience.valid > 0, discounts(experience, discount, across_episodes), 1.0)
    return jax.vmap(discounted_return, (1, 1), 1)(experience.reward, factor)


def _gae(experience: Rollout, value: Array, discount: Array, trace: float) -> Array:
    """Computes GAE for every stream, [T, E]; the bootstrap after the last step is zero."""
    value = jnp.concatenate([value, jnp.zeros_like(value[:1])])
    per_stream = jax.vmap(generalized_advantage, (1, 1, 1, None, 1), 1)
    return per_stream(experience.reward, value, discount, trace, experience.valid)
