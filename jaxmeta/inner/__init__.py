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
from jaxmeta.inner.demonstration import cloning_loss, feature_size, observing
from jaxmeta.inner.derivatives import mixed_mode, rematerialised
from jaxmeta.inner.fitting import (
    FitConfig,
    FitData,
    Fitted,
    bootstrap,
    fitted,
)
from jaxmeta.inner.gradient import (
    GradientFast,
    GradientParams,
    Loss,
    descent,
    from_scratch,
    gradient,
    policy_loss,
    repeated,
)
from jaxmeta.inner.imagination import (
    imagining,
)
from jaxmeta.inner.implicit import implicit, proximal_point, proximal_term
from jaxmeta.inner.learned import block_diagonal, kronecker, recurrent
from jaxmeta.inner.memory import critic, memory, policy
from jaxmeta.inner.model_predictive import (
    EnsembleFast,
    Imagination,
    PlanCarry,
    decided,
    model_predictive,
    planning_head,
    random_vector,
)
from jaxmeta.inner.normalised import normalised
from jaxmeta.inner.posterior_sampling import EvidenceFast, posterior_sampling
from jaxmeta.inner.ppo import ProximalConfig, proximal
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
)
from jaxmeta.inner.warm_start import Library, Similarity, WarmFast, warm_start

__all__ = [
    "BeliefCarry",
    "BeliefParams",
    "EnsembleFast",
    "EvidenceFast",
    "FitConfig",
    "FitData",
    "Fitted",
    "GradientFast",
    "GradientParams",
    "Imagination",
    "Library",
    "Loss",
    "ModelParams",
    "PlanCarry",
    "ProximalConfig",
    "Similarity",
    "Updater",
    "WarmFast",
    "adam",
    "adapt_only",
    "belief",
    "block_diagonal",
    "bootstrap",
    "bounded",
    "chain",
    "cloning_loss",
    "critic",
    "decided",
    "descent",
    "feature_size",
    "first_order",
    "fitted",
    "fixed",
    "from_scratch",
    "gradient",
    "hyper_obs",
    "hyper_spec",
    "hyper_trials",
    "imagining",
    "implicit",
    "kronecker",
    "memory",
    "mixed_mode",
    "model_predictive",
    "negative_elbo",
    "normalised",
    "observing",
    "per_parameter",
    "planning_head",
    "policy",
    "policy_loss",
    "posterior_sampling",
    "posteriors",
    "predictor",
    "proximal",
    "proximal_point",
    "proximal_term",
    "random_vector",
    "recurrent",
    "rematerialised",
    "repeated",
    "sgd",
    "support_loss",
    "trajectories",
    "warm_start",
]
