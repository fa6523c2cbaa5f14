"""Inner loops: how an agent adapts to one task."""

from jaxmeta.inner.belief import (
    BeliefCarry,
    BeliefParams,
    ModelParams,
    belief,
    hyper_obs,
    hyper_spec,
    hyper_trials,
    negative_elbo,
    posteriors,
    trajectories,
)
from jaxmeta.inner.context import ContextFast, context
from jaxmeta.inner.gradient import GradientFast, GradientParams, gradient
from jaxmeta.inner.memory import memory
from jaxmeta.inner.updaters import Updater, first_order, sgd

__all__ = [
    "BeliefCarry",
    "BeliefParams",
    "ContextFast",
    "GradientFast",
    "GradientParams",
    "ModelParams",
    "Updater",
    "belief",
    "context",
    "first_order",
    "gradient",
    "hyper_obs",
    "hyper_spec",
    "hyper_trials",
    "memory",
    "negative_elbo",
    "posteriors",
    "sgd",
    "trajectories",
]
