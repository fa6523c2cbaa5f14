"""ProMP's KL penalty, which keeps the pre-adaptation policies close to the behaviour policies."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from jaxmeta import devices
from jaxmeta.config import checks
from jaxmeta.core import guard
from jaxmeta.core.learner import Learner
from jaxmeta.core.rollout import replay
from jaxmeta.outer.loss import divergence, gradient_chunk
from jaxmeta.outer.meta_update import Batch, Improve
from jaxmeta.outer.policy_gradient import ProximalConfig
from jaxmeta.types import Array, Metrics, Params, Trial

RANGE = 2.0**20
"""Largest factor between a weight and its initial value: a weight of zero could never be doubled again."""


@dataclasses.dataclass(frozen=True)
class PenalisedConfig(ProximalConfig):
    """PPO with a penalty on the KL divergence of an update, in every round before the last (arXiv:1810.06784)."""

    clip: float | None = 0.3
    kl_target: float = 0.01
    """Target of the mean KL divergence of an update, in nats. Each round's weight is doubled above 1.5 targets, and
    halved below target / 1.5."""
    kl_weight: float = 5e-4
    """Initial weight of the penalty."""

    def __post_init__(self):
        super().__post_init__()
        checks.positive(self, "kl_target", "kl_weight")
        if self.epochs * self.minibatches == 1:
            raise ValueError(f"epochs is {self.epochs}; with a single step the KL divergence is 0, so take at least 2")

    def why_not_private(self) -> str | None:
        """Returns why the privacy of updates cannot be accounted for."""
        return f"kl_target is {self.kl_target}; the weights adapt to the clients' KL divergence, which is not noised"


class PenalisedState(struct.PyTreeNode):
    """An optimiser's state, and the weights of the KL penalty."""

    optimiser: Any
    kl_weights: Array
    """One weight per round before the last, [R]."""


def with_kl_penalty(learner: Learner, improve: Improve, rounds: int, config: PenalisedConfig) -> Improve:
    """Adds an adaptive KL penalty on the policies before the last adaptation (ProMP, arXiv:1810.06784).

    Args:
      improve: from `policy_gradient`; its step also takes `kl_weights`.
      rounds: adaptations of a trial.

    Raises:
      ValueError: if there is no adaptation, and so no round before the last.
    """
    if rounds < 1:
        raise ValueError(f"rounds is {rounds}; the KL penalty is for rounds before the last, so it needs at least 1")
    penalised_step: Callable[..., tuple[Params, Any, Metrics]] = improve.step

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
        params, optimiser, metrics = penalised_step(
            params, state.optimiser, batch, updates, kl_weights=state.kl_weights
        )
        moved = earlier_divergence(params, batch)
        for index in range(rounds):
            metrics |= {f"kl/round_{index}": moved[index], f"kl_weight/round_{index}": state.kl_weights[index]}
        return params, PenalisedState(optimiser, adapted_weights(state.kl_weights, moved, config)), metrics

    return Improve(init, step, improve.values)


def adapted_weights(weights: Array, moved: Array, config: PenalisedConfig) -> Array:
    """Doubles the weights where the KL divergence exceeds 1.5 targets, halves them where it is below target / 1.5."""
    target = config.kl_target
    factor = jnp.where(moved > 1.5 * target, 2.0, jnp.where(moved < target / 1.5, 0.5, 1.0))
    return jnp.clip(weights * factor, config.kl_weight / RANGE, config.kl_weight * RANGE)
