"""Agents that do not adapt between rounds: memoryless policies, and recurrent agents, which adapt through the carry."""

from __future__ import annotations

from collections.abc import Callable

import jax

from jaxmeta.core.learner import Learner
from jaxmeta.nets import Network
from jaxmeta.types import Array, Params, Rollout


def policy(network: Network) -> Learner:
    """Builds a memoryless policy from a feed-forward network: the policy that `gradient` adapts, or a baseline.

    Raises:
      ValueError: if the network is recurrent.
    """
    if jax.tree.leaves(jax.eval_shape(network.initial_state)):
        raise ValueError("inner.policy needs a network without a recurrent state; use inner.memory")
    return _without_adaptation(network)


def memory(network: Network) -> Learner:
    """Builds an agent that adapts through its recurrent state, as RL² does."""
    return _without_adaptation(network)


def _without_adaptation(network: Network) -> Learner:
    parallel = network.unroll

    def unroll(params, fast, carry, experience):
        assert parallel is not None
        return parallel(params, carry, experience.inputs, experience.valid)

    return Learner(
        init=network.init,
        start=lambda params, key: (),
        reset=lambda params, fast, key: network.initial_state(),
        act=lambda params, fast, carry, inputs: network.apply(params, carry, inputs),
        adapt=lambda params, fast, experience, key: fast,
        head=network.head,
        unroll=None if parallel is None else unroll,
    )


def critic(network: Network) -> Callable[[Params, Rollout], Array] | None:
    """Returns a function for the values [T, E] of a round if the network computes them separately, else None."""
    values = network.values
    return values and (lambda params, experience: values(params, experience.inputs, experience.valid))
