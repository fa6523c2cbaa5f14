"""Agents whose adaptation lives in the carry: a recurrent state that survives episodes, or nothing at all."""

from __future__ import annotations

from jaxmeta.core.learner import Learner
from jaxmeta.nets import Network


def memory(network: Network) -> Learner:
    """Builds an agent that adapts by remembering: nothing changes between rounds.

    With a recurrent network this is the inner loop of RL²; with a memoryless one it is a plain policy.
    """
    parallel, network_values = network.unroll, network.values

    def unroll(params, fast, carry, experience):
        assert parallel is not None
        return parallel(params, carry, experience.inputs, experience.valid)

    def values(params, fast, experience):
        assert network_values is not None
        return network_values(params, experience.inputs, experience.valid)

    return Learner(
        init=network.init,
        start=lambda params, key: (),
        reset=lambda params, fast, key: network.initial_state(),
        act=lambda params, fast, carry, inputs: network.apply(params, carry, inputs),
        adapt=lambda params, fast, experience, key: fast,
        head=network.head,
        unroll=None if parallel is None else unroll,
        values=None if network_values is None else values,
    )
