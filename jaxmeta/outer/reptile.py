"""Reptile's outer loop: moves params towards the adapted params, without a meta-gradient."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxmeta.config import checks
from jaxmeta.core.learner import Learner, adaptation_metrics
from jaxmeta.core.rollout import replay_fast
from jaxmeta.outer.aggregates import Aggregate, masked
from jaxmeta.outer.descend import descend, optimiser
from jaxmeta.outer.meta_update import Improve
from jaxmeta.outer.regularise import RegularisationConfig
from jaxmeta.types import Array, Key, Metrics, Params, Trial


@dataclasses.dataclass(frozen=True)
class ReptileConfig:
    """Steps towards the adapted params (Nichol et al., 2018, arXiv:1803.02999)."""

    step_size: float = 0.1
    """ε, the step size towards the mean of the adapted params."""
    anneal_over: int | None = None
    """Meta-updates over which ε is annealed linearly to zero; None keeps it."""
    regularise: RegularisationConfig = RegularisationConfig()
    """Regularisation of the params, in proportion to ε."""

    def __post_init__(self):
        checks.finite(self)
        checks.positive(self, "step_size")
        checks.at_least_one(self, "anneal_over")


def reptile(
    adapted: Callable[[Params, Any, Key], tuple[Params, Metrics]],
    config: ReptileConfig = ReptileConfig(),
    piece: Callable[[Params, Any], int | None] = lambda params, data: None,
    *,
    aggregate: Aggregate = masked(),
    tx: optax.GradientTransformation | None = None,
) -> Improve:
    """Moves the params by ε towards the mean of the tasks' adapted params.

    That is a gradient step on half the squared distance to them. Tasks with non-finite adapted params are left out.

    Args:
      adapted: (params, data of one task, key) -> (adapted params, with the structure of params, metrics); it is not
        differentiated.
      piece: as in `descend`.
      aggregate: combines the tasks' gradients, which are their displacements with the sign reversed.
      tx: the optimiser; by default gradient descent with the step size ε.
    """

    def distance(params: Params, one: Any, key: Key) -> tuple[Array, Metrics]:
        end, metrics = jax.lax.stop_gradient(adapted(params, one, key))
        apart = jax.tree.map(jnp.subtract, params, end)
        return 0.5 * optax.tree.norm(apart, squared=True), metrics

    tx = tx or optimiser(config.step_size, config.anneal_over, rule=optax.sgd, regularise=config.regularise)
    return descend(distance, tx, aggregate, piece=piece)


def with_policy(params: Params, fast: Any) -> Params:
    """Returns the params with the adapted policy, for agents that adapt all params of their policy."""
    return params.replace(policy=fast.policy)


def after_last_round(learner: Learner, policy_of: Callable[[Params, Any], Params] = with_policy) -> Callable[..., Any]:
    """Builds the `adapted` of `reptile` for trials: the agent adapts to all rounds, the last one included.

    Args:
      policy_of: (params, fast) -> params with the policy of `fast`.
    """

    def adapted(params: Params, trial: Trial, key: Key) -> tuple[Params, Metrics]:
        fast, last = jax.tree.map(lambda leaf: leaf[-1], (replay_fast(learner, params, trial), trial.rounds))
        fast = learner.adapt(params, fast, last, key)
        return policy_of(params, fast), adaptation_metrics(fast)

    return adapted
