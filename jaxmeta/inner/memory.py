"""Agents whose adaptation lives in the carry: a recurrent state that survives episodes, or nothing at all."""

from __future__ import annotations

from collections.abc import Callable

from jaxmeta.core.learner import Learner
from jaxmeta.nets import Network
from jaxmeta.types import Array, Params, Rollout


def memory(network: Network) -> Learner:
    """Builds an agent that adapts by remembering: nothing changes between rounds.

    With a recurrent network this is the inner loop of RL²; with a memoryless one it is a plain policy.
    """
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
    """Returns the values, [T, E] of a round, of a network that acts without them; None where its output has them."""
    values = network.values
    return values and (lambda params, experience: values(params, experience.inputs, experience.valid))
