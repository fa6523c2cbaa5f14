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
from jaxmeta.inner.hierarchy import Deciding, HierarchyCarry, HierarchyParams, deciding, exploring, hierarchy
from jaxmeta.inner.imagination import (
    imagining,
)
from jaxmeta.inner.implicit import implicit, proximal_point, proximal_term
from jaxmeta.inner.lead import GeneratedParams, LeadFast, LeadParams, Led, generated, lead, own_steps
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
from jaxmeta.inner.options import OptionsCarry, OptionsDist, deliberating, one_option, options
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
    "Deciding",
    "EnsembleFast",
    "EvidenceFast",
    "FitConfig",
    "FitData",
    "Fitted",
    "GeneratedParams",
    "GradientFast",
    "GradientParams",
    "HierarchyCarry",
    "HierarchyParams",
    "Imagination",
    "LeadFast",
    "LeadParams",
    "Led",
    "Library",
    "Loss",
    "ModelParams",
    "OptionsCarry",
    "OptionsDist",
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
    "deciding",
    "deliberating",
    "descent",
    "exploring",
    "feature_size",
    "first_order",
    "fitted",
    "fixed",
    "from_scratch",
    "generated",
    "gradient",
    "hierarchy",
    "hyper_obs",
    "hyper_spec",
    "hyper_trials",
    "imagining",
    "implicit",
    "kronecker",
    "lead",
    "memory",
    "mixed_mode",
    "model_predictive",
    "negative_elbo",
    "normalised",
    "observing",
    "one_option",
    "options",
    "own_steps",
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
