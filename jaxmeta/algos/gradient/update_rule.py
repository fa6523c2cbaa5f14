"""The update rule of the inner loop, shared by all agents that adapt by gradient steps."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Literal

import jax
import optax

from jaxmeta import inner, nets
from jaxmeta.config import checks
from jaxmeta.core.learner import Learner

FIXED: dict[str, Callable[[float | optax.Schedule], inner.Updater]] = {"sgd": inner.sgd, "adam": inner.adam}
LEARNED: dict[str, Callable[[float], inner.Updater]] = {
    "per-parameter": inner.per_parameter,
    "block-diagonal": inner.block_diagonal,
    "kronecker": inner.kronecker,
    "recurrent": lambda learning_rate: inner.recurrent(nets.coordinatewise_lstm((20,)), inner.sgd(learning_rate)),
}
"""Rules that are meta-learned; each is initialised as sgd."""


@dataclasses.dataclass(frozen=True)
class UpdateRuleConfig:
    """Fields of every agent that adapts by gradient steps."""

    inner_lr: float = 0.1
    """Step size of the adaptation."""
    inner_optimizer: Literal["sgd", "adam", "per-parameter", "block-diagonal", "kronecker", "recurrent"] = "sgd"
    """Optimiser of the adaptation; its state is reset for every task. All but the first two are meta-learned and
    initialised as sgd: step sizes of parameters, preconditioners of layers, or an LSTM that modifies updates."""
    later_lr_scale: float = 1.0
    """Factor on the step size after the first adaptation; MAML's evaluation on navigation takes 0.5."""
    max_inner_step: float | None = None
    """Maximum norm of an inner update, over all params; longer ones are scaled down, and `bounded_steps` in the log is
    their share. None does not clip."""

    def __post_init__(self):
        checks.finite(self)
        checks.not_negative(self, "inner_lr", "later_lr_scale")
        checks.positive(self, "max_inner_step")

    def rule(self) -> inner.Updater:
        """Builds the update rule, with its step-size schedule and clipping."""
        name, later = self.inner_optimizer, {1: self.later_lr_scale}
        if self.later_lr_scale == 1.0:
            return self.bounded((FIXED | LEARNED)[name](self.inner_lr))
        if name in FIXED:
            return self.bounded(FIXED[name](optax.piecewise_constant_schedule(self.inner_lr, later)))
        scaled = optax.scale_by_schedule(optax.piecewise_constant_schedule(1.0, later))
        return self.bounded(inner.chain(LEARNED[name](self.inner_lr), inner.fixed(scaled)))

    def bounded(self, updater: inner.Updater) -> inner.Updater:
        """Clips the norm of inner updates, if `max_inner_step` is given."""
        return updater if self.max_inner_step is None else inner.bounded(updater, self.max_inner_step)


@dataclasses.dataclass(frozen=True)
class DifferentiatedConfig(UpdateRuleConfig):
    """Fields of every agent whose meta-gradient is backpropagated through the inner steps."""

    backward: Literal["plain", "rematerialised", "mixed", "first-order"] = "plain"
    """How meta-gradients are backpropagated through the inner steps. The second and third need less memory with many
    steps; first-order treats the inner gradient as a constant (FOMAML)."""

    def descent(
        self, policy: Learner, loss: inner.Loss, updater: inner.Updater, zero_at_start: tuple[str, ...] = ()
    ) -> Learner:
        """Builds an agent that takes one gradient step after every round; see `inner.descent`."""
        updater = inner.first_order(updater) if self.backward == "first-order" else updater
        differentiate = inner.mixed_mode if self.backward == "mixed" else jax.grad
        learner = inner.descent(policy, loss, updater, zero_at_start, differentiate)
        return inner.rematerialised(learner) if self.backward == "rematerialised" else learner


@dataclasses.dataclass(frozen=True)
class ImplicitConfig(UpdateRuleConfig):
    """The fields of implicit MAML (Rajeswaran et al., 2019, arXiv:1909.04630), for any loss.

    `gradient_norm_ratio` in the log is the gradient norm at the last inner step divided by that at the first. The
    implicit meta-gradient is exact only at the minimum of the inner loss, so this should be small.
    """

    inner_optimizer: Literal["sgd", "adam"] = "sgd"
    """Optimiser of the adaptation. The meta-gradient does not go through its steps, so it cannot be meta-learned."""
    inner_steps: int = 10
    """Gradient steps on the data of every round; memory does not depend on them."""
    strength: float = 2.0
    """λ: weight of half the squared distance to the params before the round."""
    cg_iterations: int = 5
    """Conjugate-gradient iterations for each meta-gradient; 0 is first order."""
    damping: float = 0.0
    """Added to λ in the meta-gradient, against negative curvature; large values approach first order."""

    def __post_init__(self):
        super().__post_init__()
        checks.at_least_one(self, "inner_steps")
        checks.positive(self, "strength")
        checks.not_negative(self, "cg_iterations", "damping")
        if self.later_lr_scale != 1.0:
            raise ValueError(f"later_lr_scale is {self.later_lr_scale}; with implicit gradients it must be 1")

    def proximal_descent(self, policy: Learner, loss: inner.Loss) -> Learner:
        """Builds an agent that minimises a proximal loss after every round; see `inner.implicit`."""
        return inner.implicit(
            policy, loss, self.rule(), self.inner_steps, self.strength, self.cg_iterations, self.damping
        )
