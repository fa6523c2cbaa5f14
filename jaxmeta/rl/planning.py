"""Planning by sampling: sequences of actions are scored in a model, and the plan moves towards the best of them.

A score maps candidates, sequences of H actions, to returns: [P, H, A] -> [P]. `imagined_returns` is one, of a learned
model; so is a simulation of the true dynamics. All is unbatched: one agent plans in one state.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from jaxmeta.types import UNBOUNDED, Action, Array, Continuous, Discrete, Key, MultiDiscrete, Params

Score = Callable[[Array], Array]
"""Candidates [P, H, A] -> returns [P]."""
Imagine = Callable[[Params, Any, Array, Array], tuple[Any, Array]]
"""(params of a model, observations [M, O], actions [M, A], noise [M, D]) -> (next observations, rewards [M])."""
WORST = -1e6
"""The reward of an imagined step whose reward is not finite."""
TRUNCATION = 2.0
"""Largest deviation of CEM's samples, in standard deviations."""


class Particles(NamedTuple):
    """Trajectory sampling: what is imagined of a candidate."""

    kind: Literal["ts-inf", "ts-1"] = "ts-inf"
    """Whether a particle keeps its member of the ensemble up to the horizon, or changes it at every step."""
    spread: int = 1
    """Particles per member."""


class Planner(NamedTuple):
    """A planner of sequences of actions, as pure functions."""

    horizon: int
    """H, steps of a plan."""
    size: int
    """A, numbers of an action."""
    candidates: int
    """P, sequences that are scored in parallel."""
    iterations: int
    """Times that candidates are sampled and scored."""
    improve: Callable[[Score, Array, Key, Any], Array]
    """(score, plan [H, A], key, number of iterations) -> a better plan [H, A]. With 0 iterations, which may be known at
    run time only, nothing is scored and the plan stays as it is."""

    def initial(self) -> Array:
        """Returns the plan at the start of an episode, [H, A], all zero."""
        return jnp.zeros((self.horizon, self.size))


def replan(planner: Planner, score: Score, plan: Array, key: Key, iterations: Any = None) -> tuple[Array, Array]:
    """Improves a plan and takes its first action.

    Args:
      plan: [H, A], as returned for the step before; `planner.initial()` at the start of an episode.
      iterations: as in `Planner.improve`; by default `planner.iterations`.

    Returns:
      The action [A], and the plan for the next step [H, A]: moved by one step, with a zero at the end.
    """
    count = planner.iterations if iterations is None else iterations
    plan = planner.improve(score, plan, key, count)
    return plan[0], jnp.concatenate([plan[1:], jnp.zeros_like(plan[:1])])


def cem(
    action: Action,
    horizon: int = 25,
    candidates: int = 400,
    elites: int = 40,
    iterations: int = 5,
    std: float = 0.5,
    keep: float = 0.1,
) -> Planner:
    """Builds the cross-entropy method of PETS (Chua et al., 2018, arXiv:1805.12114).

    Candidates are samples of a normal distribution, truncated at two standard deviations, which are at most half of the
    distance to the limits of the action. Mean and variance move to those of the elites, and the plan is the mean.

    Args:
      horizon: steps of a plan.
      candidates: samples per iteration.
      elites: candidates with the highest scores that the distribution is fitted to.
      std: initial standard deviation, as a share of the limit.
      keep: share of mean and variance that an iteration keeps.

    Raises:
      ValueError: if actions are discrete, or there are fewer candidates than elites.
    """
    limit = _limit(action, "cem")
    if not 1 <= elites <= candidates:
        raise ValueError(f"elites is {elites}; it must be from 1 to candidates, which is {candidates}")
    shape = (horizon, action.example().shape[0])

    def improve(score: Score, plan: Array, key: Key, iterations: Any) -> Array:
        def one(index: Array, state: tuple[Array, Array]) -> tuple[Array, Array]:
            mean, variance = state
            room = jnp.square(0.5 * jnp.minimum(limit + mean, limit - mean))
            noise = jax.random.truncated_normal(
                jax.random.fold_in(key, index), -TRUNCATION, TRUNCATION, (candidates, *shape)
            )
            actions = jnp.clip(mean + jnp.sqrt(jnp.minimum(room, variance)) * noise, -limit, limit)
            best = actions[jax.lax.top_k(score(actions), elites)[1]]
            moved = lambda old, new: keep * old + (1.0 - keep) * new  # noqa: E731
            return moved(mean, best.mean(0)), moved(variance, best.var(0))

        return _repeated(one, iterations, (plan, jnp.full(shape, (std * limit) ** 2)))[0]

    return Planner(horizon, shape[1], candidates, iterations, improve)


def mppi(
    action: Action,
    horizon: int = 25,
    candidates: int = 400,
    iterations: int = 1,
    std: float = 0.5,
    temperature: float = 0.05,
    smoothing: float = 0.6,
) -> Planner:
    """Builds model predictive path integral control (Williams et al., 2017, arXiv:1707.02342).

    The plan is the mean of the candidates, weighted by `mppi_weights` of their mean reward.

    Args:
      horizon: steps of a plan.
      candidates: samples per iteration, around the plan.
      std: standard deviation of the samples, as a share of the limit.
      temperature: in units of the reward of a step.
      smoothing: correlation of the noise of neighbouring steps, from 0 to below 1.

    Raises:
      ValueError: if actions are discrete.
    """
    limit = _limit(action, "mppi")
    shape = (horizon, action.example().shape[0])

    def correlated(key: Key) -> Array:
        def step(before: Array, fresh: Array) -> tuple[Array, Array]:
            now = smoothing * before + math.sqrt(1.0 - smoothing**2) * fresh
            return now, now

        noise = jax.random.normal(key, (horizon, candidates, shape[1]))
        _, later = jax.lax.scan(step, noise[0], noise[1:])
        return jnp.moveaxis(jnp.concatenate([noise[:1], later]), 0, 1)

    def improve(score: Score, plan: Array, key: Key, iterations: Any) -> Array:
        def one(index: Array, plan: Array) -> Array:
            noise = std * limit * correlated(jax.random.fold_in(key, index))
            actions = jnp.clip(plan + noise, -limit, limit)
            return jnp.tensordot(mppi_weights(score(actions) / horizon, temperature), actions, 1)

        return _repeated(one, iterations, plan)

    return Planner(horizon, shape[1], candidates, iterations, improve)


def mppi_weights(values: Array, temperature: float) -> Array:
    """Returns the weights of candidates with these values, both [P]: exp(value / temperature), divided by their sum."""
    return jax.nn.softmax(values / temperature)


def random_shooting(action: Action, horizon: int = 25, candidates: int = 400) -> Planner:
    """Builds a planner that takes the best of uniformly random sequences, as in GrBAL (arXiv:1803.11347).

    Discrete actions are one-hot vectors; `chosen` returns the action of such a vector.

    Args:
      horizon: steps of a plan.
      candidates: random sequences.

    Raises:
      ValueError: if actions are real-valued without a limit.
    """
    size = action_size(action)
    limit = _limit(action, "random") if isinstance(action, Continuous) else 0.0

    def sample(key: Key) -> Array:
        shape = (candidates, horizon)
        if isinstance(action, Continuous):
            return jax.random.uniform(key, (*shape, size), minval=-limit, maxval=limit)
        nums = (action.num,) if isinstance(action, Discrete) else action.nums
        keys = jax.random.split(key, len(nums))
        drawn = [jax.random.randint(key, shape, 0, num) for key, num in zip(keys, nums, strict=True)]
        return jnp.concatenate([jax.nn.one_hot(one, num) for one, num in zip(drawn, nums, strict=True)], axis=-1)

    def improve(score: Score, plan: Array, key: Key, iterations: Any) -> Array:
        def one(index: Array, plan: Array) -> Array:
            actions = sample(jax.random.fold_in(key, index))
            return actions[jnp.argmax(score(actions))]

        return _repeated(one, iterations, plan)

    return Planner(horizon, size, candidates, 1, improve)


def action_size(action: Action) -> int:
    """Returns the length of an action as a vector: real numbers, or one-hot codes of the choices."""
    if isinstance(action, Continuous):
        return action.size
    return action.num if isinstance(action, Discrete) else sum(action.nums)


def chosen(action: Action, vector: Array) -> Array:
    """Returns the action that a vector [A] stands for: the vector itself, or the largest entries of one-hot codes."""
    if isinstance(action, Continuous):
        return vector
    nums = (action.num,) if isinstance(action, Discrete) else action.nums
    ends = [sum(nums[: index + 1]) for index in range(len(nums))]
    picked = [jnp.argmax(part).astype(jnp.int32) for part in jnp.split(vector, ends[:-1])]
    return jnp.stack(picked) if isinstance(action, MultiDiscrete) else picked[0]


def imagined_returns(
    imagine: Imagine,
    members: Params,
    obs: Array,
    actions: Array,
    key: Key,
    remaining: Any,
    outputs: int,
    particles: Particles = Particles(),
) -> Array:
    """Computes the mean return of candidates over particles that an ensemble of B models imagines from one state.

    All candidates share the noise, so that differences between them do not come from it. With "ts-1" the particles of a
    candidate are dealt to the members again at every step, as many to each. A reward that is not finite counts as
    `WORST`.

    Args:
      members: params of the models, leaves [B, ...].
      obs: the state, [O].
      actions: candidates, [P, H, A].
      remaining: number of steps up to the end of the episode, int32 scalar; later rewards do not count.
      outputs: D, numbers of noise per step.

    Returns:
      [P].
    """
    count, horizon, _ = actions.shape
    spread = particles.spread
    size = jax.tree.leaves(members)[0].shape[0]
    noise_key, deal_key = jax.random.split(key)
    noise = jax.random.normal(noise_key, (horizon, size, spread, 1, outputs))

    def step(state: Array, moment: tuple[Array, Array, Array]) -> tuple[Array, Array]:
        time, action, noise = moment
        if particles.kind == "ts-1" and size > 1:
            order = jax.random.permutation(jax.random.fold_in(deal_key, time), size * spread)
            state = state.reshape(size * spread, count, -1)[order].reshape(state.shape)
        acted = jnp.broadcast_to(action, (size, spread, *action.shape))
        noise = jnp.broadcast_to(noise, (size, spread, count, outputs))
        flat = [leaf.reshape(size, spread * count, leaf.shape[-1]) for leaf in (state, acted, noise)]
        after, reward = jax.vmap(imagine)(members, *flat)
        reward = jnp.where(jnp.isfinite(reward), reward, WORST)
        counted = jnp.where(time < remaining, reward.reshape(size * spread, count).mean(0), 0.0)
        return after.reshape(state.shape), counted

    start = jnp.broadcast_to(obs, (size, spread, count, obs.shape[-1]))
    moments = (jnp.arange(horizon), jnp.swapaxes(actions, 0, 1), noise)
    return jnp.sum(jax.lax.scan(step, start, moments)[1], axis=0)


def check_horizon(planner: Planner, episode: int) -> None:
    """Raises a ValueError if a plan is longer than an episode, which has `episode` steps."""
    if planner.horizon > episode:
        raise ValueError(f"horizon is {planner.horizon}; a plan must not be longer than an episode, {episode} steps")


def _repeated(one: Callable[[Array, Any], Any], iterations: Any, start: Any) -> Any:
    """Repeats a step with its index; the number of steps may be an array, such as 0 while an agent explores."""
    if isinstance(iterations, int) and iterations == 1:  # avoids the overhead of a loop
        return one(jnp.int32(0), start)
    return jax.lax.fori_loop(0, iterations, one, start)


def _limit(action: Action, name: str) -> float:
    """Returns the limit of real-valued actions, between which a planner samples."""
    if not isinstance(action, Continuous):
        kind = f"{type(action).__name__} actions"
        raise ValueError(f"planner is {name!r}, which needs real-valued actions; the tasks have {kind} (try 'random')")
    if action.limit >= UNBOUNDED:
        raise ValueError(f"planner is {name!r}; it samples actions within a limit, but the tasks have none")
    return action.limit
