"""Supervised learners: predictors, and their loss on the support set."""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp

from jaxmeta.core.learner import Learner
from jaxmeta.inner.gradient import Loss
from jaxmeta.nets import Certain, Predictor
from jaxmeta.types import Array, Carry, Examples, Fast, Input, Output, Params, Rollout


def predictor(network: Predictor, split: Callable[[Array], tuple[Examples, Array]]) -> Learner:
    """Builds an agent that predicts the targets of a query set, and does not adapt.

    Args:
      split: splits an observation into the support set and the inputs of the query set.
    """

    def act(params: Params, fast: Fast, carry: Carry, inputs: Input) -> tuple[Carry, Output]:
        _, query = split(inputs.obs)
        return carry, Output(dist=network.apply(params, query).reshape(-1), value=jnp.zeros(()))

    return Learner(
        init=network.init,
        start=lambda params, key: (),
        reset=lambda params, fast, key: (),
        act=act,
        adapt=lambda params, fast, experience, key: fast,
        head=lambda output: Certain(output.dist),
    )


def support_loss(
    network: Predictor, split: Callable[[Array], tuple[Examples, Array]], loss: Callable[[Array, Array], Array]
) -> Loss:
    """Builds the inner loss of supervised tasks, the loss on the support set; see `descent`."""

    def of_experience(theta: Params, experience: Rollout) -> Array:
        support, _ = split(experience.inputs.obs[0, 0])
        return loss(network.apply(theta, support.inputs), support.targets)

    return of_experience
