"""Exact meta-gradients, and bias and variance of their estimators, by enumeration of all trials on a small MDP.

The MDP is known and deterministic, so a stream has as many outcomes as there are action sequences, and a round of E
streams as many as there are multisets of E of them. A policy is a table of logits [S, A], adapted by steps of REINFORCE
on plain returns. The exact return after adaptation is a finite sum over rounds, which is differentiated directly.
"""

from __future__ import annotations

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from jaxmeta import inner, outer, rl
from jaxmeta.core.learner import Learner
from jaxmeta.nets import Network, head_for
from jaxmeta.outer.estimators import MetaGradient
from jaxmeta.types import Array, Discrete, Input, Output, Params, Rollout, Spec, Trial

__all__ = ["Quality", "Streams", "exact_gradient", "expected_gradient", "quality", "rounds_of", "small_mdp", "streams"]


class Streams(struct.PyTreeNode):
    """All n outcomes of a stream, [n, H] each."""

    state: Array
    action: Array
    reward: Array


class Quality(struct.PyTreeNode):
    """Bias and deviation of a meta-gradient estimator, relative to the norm of the exact meta-gradient."""

    bias: Array
    """Norm of the difference between its expectation and the exact meta-gradient."""
    deviation: Array
    """Square root of its variance, summed over params."""


def small_mdp() -> Streams:
    """Returns all outcomes on an MDP with two states and two actions, in episodes of three steps from state 0.

    Action 0 stays and action 1 moves to the other state; state 1 has higher rewards, but moving there has a cost.
    """
    return streams(reward=[[0.2, -0.5], [1.0, 0.3]], next_state=[[0, 1], [1, 0]], horizon=3)


def streams(reward, next_state, horizon: int) -> Streams:
    """Enumerates all episodes of a deterministic MDP from state 0.

    Args:
      reward: [S, A].
      next_state: [S, A].
    """
    actions = list(itertools.product(range(len(reward[0])), repeat=horizon))
    states = []
    for sequence in actions:
        moves = itertools.accumulate(sequence[:-1], lambda state, action: next_state[state][action], initial=0)
        states.append(list(moves))
    state, action = np.array(states), np.array(actions)
    paid = np.asarray(reward, np.float32)[state, action]
    return Streams(jnp.asarray(state), jnp.asarray(action), jnp.asarray(paid))


def rounds_of(num_outcomes: int, num_streams: int) -> tuple[Array, Array]:
    """Enumerates all multisets of E outcomes, [M, E], and the number of orders of each, [M]."""
    rounds = list(itertools.combinations_with_replacement(range(num_outcomes), num_streams))
    orders = [
        math.factorial(num_streams) / math.prod(math.factorial(one.count(outcome)) for outcome in set(one))
        for one in rounds
    ]
    return jnp.asarray(rounds), jnp.asarray(orders, jnp.float32)


def exact_gradient(theta: Array, step_size: float, all_streams: Streams, num_streams: int = 1, rounds: int = 1):
    """Differentiates the expected return after `rounds` adaptations, each on `num_streams` fresh streams, [S, A]."""
    outcomes, orders = rounds_of(len(all_streams.action), num_streams)

    def value(theta: Array, rounds: int) -> Array:
        log_prob, score = _log_prob(theta, all_streams), _score(theta, all_streams)
        if rounds == 0:
            return jnp.sum(jnp.exp(log_prob) * all_streams.reward.sum(1))
        adapted = theta + step_size * score[outcomes].mean(1)
        chance = orders * jnp.exp(log_prob[outcomes].sum(1))
        return jnp.sum(chance * jax.vmap(lambda theta: value(theta, rounds - 1))(adapted))

    return jax.grad(value)(theta, rounds)


def _log_prob(theta: Array, all_streams: Streams) -> Array:
    """Computes the log probability of every stream, [n]."""
    return jax.nn.log_softmax(theta)[all_streams.state, all_streams.action].sum(1)


def _score(theta: Array, all_streams: Streams) -> Array:
    """Computes the REINFORCE gradient of every stream: the mean over time of ∇ log π times the return-to-go, [n, S, A].

    The gradient of log-softmax is written out, so that this shares no code with the estimators under test.
    """
    to_go = jnp.cumsum(all_streams.reward[:, ::-1], 1)[:, ::-1]
    here = jax.nn.one_hot(all_streams.state, theta.shape[0])
    gradient = jax.nn.one_hot(all_streams.action, theta.shape[1]) - jax.nn.softmax(theta)[all_streams.state]
    return jnp.einsum("nts,nta,nt->nsa", here, gradient, to_go) / to_go.shape[1]


def expected_gradient(
    theta: Array, step_size: float, all_streams: Streams, by: MetaGradient, num_streams: int = 1, rounds: int = 1
) -> Array:
    """Computes the expectation over all trials of an estimator, the gradient of `outer.meta_loss`, [S, A]."""
    gradient, chance, last = _every_trial(theta, step_size, all_streams, by, num_streams, rounds)
    return jnp.einsum("m,mn,mnsa->sa", chance, last, gradient)


def quality(
    theta: Array, step_size: float, all_streams: Streams, by: MetaGradient, num_streams: int = 1, rounds: int = 1
) -> Quality:
    """Computes bias and standard deviation of a meta-gradient estimator, exactly.

    Args:
      theta: logits of the policy before adaptation, [S, A].
      step_size: of the inner steps.
      all_streams: all outcomes of a stream, see `streams`.
      by: the estimator, one of `outer.META_GRADIENTS`.
      num_streams: streams per round, also after the last adaptation.
      rounds: adaptations.
    """
    gradient, chance, last = _every_trial(theta, step_size, all_streams, by, num_streams, rounds)
    exact = exact_gradient(theta, step_size, all_streams, num_streams, rounds)
    given = jnp.einsum("mn,mnsa->msa", last, gradient)  # in expectation over the last round
    mean = jnp.einsum("m,msa->sa", chance, given)
    between = jnp.einsum("m,msa->", chance, jnp.square(given - mean))
    # the gradient is a mean over i.i.d. streams of the last round, which were enumerated one by one
    within = jnp.einsum("m,mn,mnsa->", chance, last, jnp.square(gradient - given[:, None])) / num_streams
    scale = jnp.linalg.norm(exact)
    return Quality(jnp.linalg.norm(mean - exact) / scale, jnp.sqrt(between + within) / scale)


def _every_trial(
    theta: Array, step_size: float, all_streams: Streams, by: MetaGradient, num_streams: int, rounds: int
) -> tuple[Array, Array, Array]:
    """Differentiates `outer.meta_loss` on every trial.

    A trial has one of m outcomes of the adaptation rounds and one of n outcomes of the last round, the same for all its
    streams.

    Returns:
      Gradients of the return [m, n, S, A], probabilities of the adaptation outcomes [m], and, given these, of the
      outcomes of the last round [m, n].
    """
    agent = _agent(theta, by, step_size)
    loss = outer.meta_loss(agent, rl.ratio, rl.plain_returns(), sampling_correction=by.sampling_correction)
    params = inner.GradientParams(policy=theta, updater=())
    horizon = all_streams.action.shape[1]

    def of_one(outcomes: Array, last: Array) -> Array:
        trial = _trial(agent, params, all_streams, outcomes, last)
        one = jax.tree.map(lambda leaf: leaf[None], trial)
        # the loss is the negative return per step of the horizon
        return -horizon * jax.grad(loss)(params, one).policy

    def chances(outcomes: Array) -> tuple[Array, Array]:
        policy, chance = theta, jnp.ones(())
        for one in outcomes:
            chance *= jnp.exp(_log_prob(policy, all_streams)[one].sum())
            policy += step_size * _score(policy, all_streams)[one].mean(0)
        return chance, jnp.exp(_log_prob(policy, all_streams))

    some, orders = rounds_of(len(all_streams.action), num_streams)
    ways = jnp.stack(jnp.meshgrid(*[jnp.arange(len(some))] * rounds, indexing="ij"), -1).reshape(-1, rounds)
    chance, last = jax.vmap(chances)(some[ways])
    over_last = jax.vmap(of_one, (None, 0))
    gradient = jax.lax.map(
        lambda one: over_last(one, jnp.arange(len(all_streams.action))), some[ways], batch_size=min(512, len(ways))
    )
    return gradient, chance * jnp.prod(orders[ways], 1), last


def _agent(theta: Array, by: MetaGradient, step_size: float) -> Learner:
    network = Network(
        init=lambda key: theta,
        apply=lambda theta, carry, inputs: (carry, Output(dist=inputs.obs @ theta, value=jnp.zeros(()))),
        initial_state=lambda: (),
        head=head_for(Discrete(theta.shape[1])),
    )
    updater = inner.sgd(step_size)
    updater = inner.first_order(updater) if by.first_order else updater
    return inner.gradient(inner.policy(network), by.objective, updater, rl.plain_returns())


def _trial(agent: Learner, params: Params, all_streams: Streams, outcomes: Array, last: Array) -> Trial:
    """Builds a trial as `collect` would: rounds with outcomes [R, E], and a last one with identical streams."""
    key, fast, rounds = jax.random.key(0), agent.start(params, jax.random.key(0)), []
    for one in (*outcomes, jnp.full(outcomes.shape[1], last)):
        rounds.append(_rollout(fast.policy, jax.tree.map(lambda leaf, one=one: leaf[one].T, all_streams)))
        fast = agent.adapt(params, fast, rounds[-1], key)
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *rounds)
    return Trial(rounds=stacked, start_key=key, adapt_keys=jax.random.split(key, len(outcomes)))


def _rollout(theta: Array, happened: Streams) -> Rollout:
    """Builds the rollout of streams [T, E] under a policy."""
    horizon, num_streams = happened.action.shape
    blank = Spec((theta.shape[0],), Discrete(theta.shape[1]), horizon).example_input()
    inputs: Input = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (horizon, num_streams, *leaf.shape)), blank)
    ends = jnp.zeros((horizon, num_streams)).at[-1].set(1.0)
    inputs = inputs.replace(obs=jax.nn.one_hot(happened.state, theta.shape[0]))
    return Rollout(
        inputs=inputs,
        action=happened.action,
        next_obs=inputs.obs,
        reward=happened.reward,
        valid=jnp.ones_like(ends),
        done=ends,
        terminated=jnp.zeros_like(ends),
        output=Output(dist=theta[happened.state], value=jnp.zeros_like(ends)),
        reset_key=jax.random.split(jax.random.key(0), num_streams),
        success=jnp.zeros_like(ends, bool),
        fault=jnp.zeros_like(ends, jnp.int8),
    )
