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
from jaxmeta.inner.implicit import implicit, proximal_point
from jaxmeta.inner.memory import memory
from jaxmeta.inner.updaters import (
    Updater,
    adam,
    adapt_only,
    bounded,
    chain,
    first_order,
    fixed,
    per_parameter,
    sgd,
    tally,
)

__all__ = [
    "BeliefCarry",
    "BeliefParams",
    "ContextFast",
    "GradientFast",
    "GradientParams",
    "ModelParams",
    "Updater",
    "adam",
    "adapt_only",
    "belief",
    "bounded",
    "chain",
    "context",
    "first_order",
    "fixed",
    "gradient",
    "hyper_obs",
    "hyper_spec",
    "hyper_trials",
    "implicit",
    "memory",
    "negative_elbo",
    "per_parameter",
    "posteriors",
    "proximal_point",
    "sgd",
    "tally",
    "trajectories",
]
