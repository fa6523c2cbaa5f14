"""Hand-designed optimisers, as learners that train a network from scratch on each supervised task."""

from __future__ import annotations

from collections.abc import Sequence

import optax

from jaxmeta import inner
from jaxmeta.algos.gradient.learned_optimizer import optimises
from jaxmeta.core.learner import Learner
from jaxmeta.tasks.few_shot import FewShot

OPTIMISERS = {"sgd": optax.sgd, "momentum": lambda rate: optax.sgd(rate, momentum=0.9), "adam": optax.adam}


def optimiser(
    name: str, learning_rate: float, shots: int, size: int = 1, outputs: int = 1, hidden: Sequence[int] = ()
) -> Learner:
    """Builds an agent that minimises the support loss of a regression task.

    Args:
      name: one of `OPTIMISERS`.
      shots: examples in the support set.
      size: length of an input.
      hidden: widths of the hidden layers of the optimised network, with tanh; () is linear, as in
        `jm.learned_optimizer`.
    """
    env = FewShot(shots, queries=1, size=size, outputs=outputs)
    return optimises(env, inner.fixed(OPTIMISERS[name](learning_rate)), tuple(hidden))
