"""The penalty by which ProMP keeps the policies before the last adaptation where their data was sampled."""

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
"""Factor by which a weight may leave its first value: one that fell to zero could not be doubled any more."""


@dataclasses.dataclass(frozen=True)
class PenalisedConfig(ProximalConfig):
    """PPO with a penalty on the KL divergence of an update, in every round before the last (arXiv:1810.06784)."""

    clip: float | None = 0.3
    kl_target: float = 0.01
    """Mean KL divergence that the penalty aims at, in nats. Its weight is doubled or halved, for each round, when an
    update exceeds 1.5 times the target or stays below 1 / 1.5 of it."""
    kl_weight: float = 5e-4
    """Weight of the penalty at first."""

    def __post_init__(self):
        super().__post_init__()
        checks.positive(self, "kl_target", "kl_weight")
        if self.epochs * self.minibatches == 1:
            raise ValueError(
                f"epochs is {self.epochs}; nothing has moved before the only step, so the penalty needs at least 2"
            )


class PenalisedState(struct.PyTreeNode):
    """An optimiser's state, and what moving the earlier policies costs."""

    optimiser: Any
    kl_weights: Array
    """For every round before the last, [R]."""


def with_kl_penalty(learner: Learner, improve: Improve, rounds: int, config: PenalisedConfig) -> Improve:
    """Adds an adaptive penalty on the divergence of the policies before the last adaptation (arXiv:1810.06784).

    Args:
      improve: from `policy_gradient`; its step also takes `kl_weights`.
      rounds: adaptations of a trial.

    Raises:
      ValueError: if there are none, as no round is before the last then.
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

    return Improve(init, step)


def adapted_weights(weights: Array, moved: Array, config: PenalisedConfig) -> Array:
    """Doubles the weights where more than 1.5 of the target was moved, halves them where less than 1 / 1.5 was."""
    target = config.kl_target
    factor = jnp.where(moved > 1.5 * target, 2.0, jnp.where(moved < target / 1.5, 0.5, 1.0))
    return jnp.clip(weights * factor, config.kl_weight / RANGE, config.kl_weight * RANGE)
