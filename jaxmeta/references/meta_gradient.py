"""Exact meta-gradients, and the bias and variance of what estimates them, by enumeration of all trials on a small MDP.

The MDP is known and deterministic, so a stream has as many outcomes as there are action sequences, and a round of E
streams as many as there are multisets of E of them. A policy is a table of logits [S, A], adapted by steps of REINFORCE
on plain returns: the exact return after adaptation is a finite sum over rounds, which is differentiated as it stands.
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
    """All that can happen to one stream, [n, H] each."""

    state: Array
    action: Array
    reward: Array


class Quality(struct.PyTreeNode):
    """How an estimator of the meta-gradient does, in units of the length of the exact one."""

    bias: Array
    """Length of the difference of its expectation from the exact meta-gradient."""
    deviation: Array
    """Root of its variance, summed over params."""


def small_mdp() -> Streams:
    """Returns what can happen on an MDP of two states and two actions, in episodes of three steps from state 0.

    Action 0 stays and action 1 goes to the other state; state 1 pays more, but it costs to get there.
    """
    return streams(reward=[[0.2, -0.5], [1.0, 0.3]], next_state=[[0, 1], [1, 0]], horizon=3)


def streams(reward, next_state, horizon: int) -> Streams:
    """Lists all episodes of a deterministic MDP from state 0.

    Args:
      reward: of every state and action, [S, A].
      next_state: likewise.
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
    """Lists all rounds of some streams up to their order: outcomes [M, E], and in how many orders each comes, [M]."""
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
    """Computes the step on every stream alone: the mean over time of ∇ log π times the return from there, [n, S, A].

    The gradient of a log-softmax is written out, so that nothing here shares code with what is measured.
    """
    to_go = jnp.cumsum(all_streams.reward[:, ::-1], 1)[:, ::-1]
    here = jax.nn.one_hot(all_streams.state, theta.shape[0])
    gradient = jax.nn.one_hot(all_streams.action, theta.shape[1]) - jax.nn.softmax(theta)[all_streams.state]
    return jnp.einsum("nts,nta,nt->nsa", here, gradient, to_go) / to_go.shape[1]


def expected_gradient(
    theta: Array, step_size: float, all_streams: Streams, by: MetaGradient, num_streams: int = 1, rounds: int = 1
) -> Array:
    """Averages an estimator over all trials: the gradient of the real `outer.meta_loss`, [S, A]."""
    gradient, chance, last = _every_trial(theta, step_size, all_streams, by, num_streams, rounds)
    return jnp.einsum("m,mn,mnsa->sa", chance, last, gradient)


def quality(
    theta: Array, step_size: float, all_streams: Streams, by: MetaGradient, num_streams: int = 1, rounds: int = 1
) -> Quality:
    """Computes bias and deviation of an estimator that adapts on `num_streams` streams and is measured on as many."""
    gradient, chance, last = _every_trial(theta, step_size, all_streams, by, num_streams, rounds)
    exact = exact_gradient(theta, step_size, all_streams, num_streams, rounds)
    given = jnp.einsum("mn,mnsa->msa", last, gradient)  # in expectation over the last round
    mean = jnp.einsum("m,msa->sa", chance, given)
    between = jnp.einsum("m,msa->", chance, jnp.square(given - mean))
    # the gradient is a mean over the streams of the last round, which were enumerated one by one
    within = jnp.einsum("m,mn,mnsa->", chance, last, jnp.square(gradient - given[:, None])) / num_streams
    scale = jnp.linalg.norm(exact)
    return Quality(jnp.linalg.norm(mean - exact) / scale, jnp.sqrt(between + within) / scale)


def _every_trial(
    theta: Array, step_size: float, all_streams: Streams, by: MetaGradient, num_streams: int, rounds: int
) -> tuple[Array, Array, Array]:
    """Differentiates `outer.meta_loss` on every trial.

    A trial is one of m ways to adapt and one of n streams after it, taken by all streams of the last round alike.

    Returns:
      Gradients of the return [m, n, S, A], probabilities of the ways to adapt [m], and of the streams then [m, n].
    """
    agent = _agent(theta, by, step_size)
    loss = outer.meta_loss(agent, rl.ratio, rl.plain_returns(), sampling_correction=by.sampling_correction)
    params = inner.GradientParams(policy=theta, updater=())
    horizon = all_streams.action.shape[1]

    def of_one(outcomes: Array, last: Array) -> Array:
        trial = _trial(agent, params, all_streams, outcomes, last)
        one = jax.tree.map(lambda leaf: leaf[None], trial)
        # the loss is per step of the horizon, and falls where the return rises
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
    """Stores a trial as the engine would: rounds with outcomes [R, E], and one more whose streams are all alike."""
    key, fast, rounds = jax.random.key(0), agent.start(params, jax.random.key(0)), []
    for one in (*outcomes, jnp.full(outcomes.shape[1], last)):
        rounds.append(_rollout(fast.policy, jax.tree.map(lambda leaf, one=one: leaf[one].T, all_streams)))
        fast = agent.adapt(params, fast, rounds[-1], key)
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *rounds)
    return Trial(rounds=stacked, start_key=key, adapt_keys=jax.random.split(key, len(outcomes)))


def _rollout(theta: Array, happened: Streams) -> Rollout:
    """Makes the record of streams [T, E] by a policy."""
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
