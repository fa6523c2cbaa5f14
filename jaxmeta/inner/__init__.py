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
from jaxmeta.inner.derivatives import held_back, mixed_mode, rematerialised
from jaxmeta.inner.gradient import GradientFast, GradientParams, Loss, descent, from_scratch, gradient, surrogate
from jaxmeta.inner.implicit import implicit, proximal_point, settled
from jaxmeta.inner.learned import block_diagonal, kronecker, recurrent
from jaxmeta.inner.memory import memory
from jaxmeta.inner.supervised import predictor, support_loss
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
    "Loss",
    "ModelParams",
    "Updater",
    "adam",
    "adapt_only",
    "belief",
    "block_diagonal",
    "bounded",
    "chain",
    "context",
    "descent",
    "first_order",
    "fixed",
    "from_scratch",
    "gradient",
    "held_back",
    "hyper_obs",
    "hyper_spec",
    "hyper_trials",
    "implicit",
    "kronecker",
    "memory",
    "mixed_mode",
    "negative_elbo",
    "per_parameter",
    "posteriors",
    "predictor",
    "proximal_point",
    "recurrent",
    "rematerialised",
    "settled",
    "sgd",
    "support_loss",
    "surrogate",
    "tally",
    "trajectories",
]
