"""ProMP's KL penalty, which keeps the pre-adaptation policies close to the behaviour policies."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from flax import struct

from jaxmeta import devices
from jaxmeta.core import guard
from jaxmeta.core.learner import Learner
from jaxmeta.core.rollout import replay
from jaxmeta.outer.loss import divergence, gradient_chunk
from jaxmeta.outer.meta_update import Batch, Improve
from jaxmeta.types import Array, Metrics, Params, Trial

if TYPE_CHECKING:
    from jaxmeta.outer.policy_gradient import PolicyGradientConfig

RANGE = 2.0**20
"""Largest factor between a weight and its initial value: a weight of zero could never be doubled again."""


class PenalisedState(struct.PyTreeNode):
    """An optimiser's state, and the weights of the KL penalty."""

    optimiser: Any
    kl_weights: Array
    """One weight per round before the last, [R]."""


def with_kl_penalty(learner: Learner, improve: Improve, rounds: int, config: PolicyGradientConfig) -> Improve:
    """Adds an adaptive KL penalty on the pre-adaptation policies (ProMP, arXiv:1810.06784).

    Args:
      improve: its step also takes `kl_weights`.
      rounds: number of adaptations in a trial.
    """
    target = config.kl_target
    assert target is not None

    def init(params: Params) -> PenalisedState:
        return PenalisedState(improve.init(params), jnp.full(rounds, config.kl_weight))

    def earlier_divergence(params: Params, batch: Batch) -> Array:
        def of_one(trial: Trial) -> Array:
            outputs, stored = jax.tree.map(lambda leaf: leaf[:-1], (replay(learner, params, trial), trial.rounds))
            return divergence(learner, outputs, stored)

        each = devices.chunked_vmap(of_one, batch.data, gradient_chunk(learner, batch.data))
        weight = batch.weight * guard.is_finite(each, leading=1)
        each = jnp.where(weight[:, None] > 0, each, 0.0)
        total, share = devices.task_mean((jnp.mean(each * weight[:, None], 0), jnp.mean(weight)))
        return total / jnp.where(share > 0, share, 1.0)

    def step(params: Params, state: PenalisedState, batch: Batch, updates: Array) -> tuple[Params, Any, Metrics]:
        params, optimiser, metrics = improve.step(params, state.optimiser, batch, updates, kl_weights=state.kl_weights)
        moved = earlier_divergence(params, batch)
        for index in range(rounds):
            metrics |= {f"kl/round_{index}": moved[index], f"kl_weight/round_{index}": state.kl_weights[index]}
        return params, PenalisedState(optimiser, adapted_weights(state.kl_weights, moved, target, config)), metrics

    return Improve(init, step)


def adapted_weights(weights: Array, moved: Array, target: float, config: PolicyGradientConfig) -> Array:
    """Doubles the weights where the KL divergence exceeds 1.5 targets, halves them where it is below target / 1.5."""
    factor = jnp.where(moved > 1.5 * target, 2.0, jnp.where(moved < target / 1.5, 0.5, 1.0))
    return jnp.clip(weights * factor, config.kl_weight / RANGE, config.kl_weight * RANGE)
