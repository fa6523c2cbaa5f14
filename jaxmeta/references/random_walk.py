"""The chain with a hidden end that pays (`random-walk`): exact returns.

A slip below 1/2 changes no optimal action, so it does not matter whether the agent knows it:

* An agent that knows the end that pays goes towards it; its return is K.
* For one that does not, both ends pay with probability 1/2 and either reveals the side, so it goes to the nearest; it
  reaches one with probability r in an episode. An episode that reaches none reveals nothing.

K and r are computed by value iteration. The expected return of episode j = 1, 2, ... of the Bayes-optimal agent is
(1 - (1 - r)^(j-1)) K + (1 - r)^(j-1) r / 2.
"""

from __future__ import annotations

import jax.numpy as jnp

from jaxmeta.core.learner import Learner
from jaxmeta.references.base import best, check_sizes, reference
from jaxmeta.references.tabular import optimal_value
from jaxmeta.types import Array, Input

__all__ = ["bayes_optimal", "bayes_optimal_returns", "oracle", "oracle_return", "transitions", "unlimited_return"]


def transitions(slip: Array | float, num_states: int = 5) -> Array:
    """Computes the probabilities of the next place, [num_states + 2, 2, num_states + 2]; the ends are absorbing."""
    check_sizes(num_states=num_states)
    stay, left, right = (jnp.eye(num_states + 2, k=offset) for offset in (0, -1, 1))
    moves = jnp.stack([(1 - slip) * left + slip * right, slip * left + (1 - slip) * right], axis=1)
    inside = (jnp.arange(num_states + 2) % (num_states + 1) != 0)[:, None, None]
    return jnp.where(inside, moves, stay[:, None])


def oracle_return(slip: Array | float, num_states: int = 5, horizon: int = 20) -> Array:
    """Computes the expected return of an episode of an agent that knows the end that pays, and acts optimally."""
    return _reach(slip, num_states, horizon, jnp.arange(num_states + 2) == num_states + 1)


def unlimited_return(slip: Array | float, num_states: int = 5) -> Array:
    """Computes `oracle_return` without a horizon, for a slip below 1/2: the gambler's ruin.

    It is 1 / (1 + (slip / (1 - slip))^m), m the distance from the start to the ends.
    """
    return 1.0 / (1.0 + (slip / (1.0 - jnp.asarray(slip))) ** ((num_states + 1) // 2))


def bayes_optimal_returns(slip: Array | float, num_states: int = 5, horizon: int = 20, episodes: int = 5) -> Array:
    """Computes the expected return of each episode under a Bayes-optimal policy, [episodes].

    Args:
      slip: below 1/2, which the agent knows; its value does not matter to it.
    """
    ends = jnp.arange(num_states + 2) % (num_states + 1) == 0
    known, reached = oracle_return(slip, num_states, horizon), _reach(slip, num_states, horizon, ends)
    unknown = (1.0 - reached) ** jnp.arange(episodes)
    return (1.0 - unknown) * known + unknown * reached / 2


def oracle(num_states: int = 5) -> Learner:
    """Builds the optimal agent that knows the end that pays, for `jm.tasks.reveal(family)` and slips below 1/2."""

    def act(params, carry: tuple[()], inputs: Input):
        return carry, _go(inputs.obs[num_states + 2] > 0)

    return reference(2, lambda key: (), act)


def bayes_optimal(num_states: int = 5) -> Learner:
    """Builds the Bayes-optimal agent, for slips below 1/2."""
    middle = (num_states + 1) // 2

    def act(params, side: Array, inputs: Input):
        place, before = jnp.argmax(inputs.obs), jnp.argmax(inputs.prev_next_obs)
        ended = (inputs.prev_done > 0) & (before % (num_states + 1) == 0)
        reached = jnp.where(before > 0, 1, -1)
        side = jnp.where(ended, jnp.where(inputs.prev_reward > 0, reached, -reached), side)
        return side, _go(jnp.where(side == 0, place >= middle, side > 0))

    return reference(2, lambda key: jnp.zeros((), jnp.int32), act)


def _go(right: Array) -> Array:
    """Returns logits [2] of going to the right or to the left."""
    return best(jnp.array([1.0, -1.0]) * jnp.where(right, -1.0, 1.0))


def _reach(slip: Array | float, num_states: int, horizon: int, paying: Array) -> Array:
    """Computes the highest probability of reaching a paying place, bool [num_states + 2], within an episode."""
    transition = transitions(slip, num_states)
    inside = jnp.arange(num_states + 2) % (num_states + 1) != 0
    reward = inside[:, None] * jnp.einsum("sat,t->sa", transition, paying.astype(jnp.float32))
    return optimal_value(reward, transition, horizon, start=(num_states + 1) // 2)
