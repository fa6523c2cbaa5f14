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
from jaxmeta.inner.implicit import implicit, proximal_point, proximal_term
from jaxmeta.inner.lead import GeneratedParams, LeadFast, LeadParams, Led, generated, lead, own_steps
from jaxmeta.inner.learned import block_diagonal, kronecker, recurrent
from jaxmeta.inner.memory import critic, memory, policy
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
    "EvidenceFast",
    "GeneratedParams",
    "GradientFast",
    "GradientParams",
    "HierarchyCarry",
    "HierarchyParams",
    "LeadFast",
    "LeadParams",
    "Led",
    "Library",
    "Loss",
    "ModelParams",
    "OptionsCarry",
    "OptionsDist",
    "ProximalConfig",
    "Similarity",
    "Updater",
    "WarmFast",
    "adam",
    "adapt_only",
    "belief",
    "block_diagonal",
    "bounded",
    "chain",
    "cloning_loss",
    "critic",
    "deciding",
    "deliberating",
    "descent",
    "exploring",
    "feature_size",
    "first_order",
    "fixed",
    "from_scratch",
    "generated",
    "gradient",
    "hierarchy",
    "hyper_obs",
    "hyper_spec",
    "hyper_trials",
    "implicit",
    "kronecker",
    "lead",
    "memory",
    "mixed_mode",
    "negative_elbo",
    "normalised",
    "observing",
    "one_option",
    "options",
    "own_steps",
    "per_parameter",
    "policy",
    "policy_loss",
    "posterior_sampling",
    "posteriors",
    "predictor",
    "proximal",
    "proximal_point",
    "proximal_term",
    "recurrent",
    "rematerialised",
    "repeated",
    "sgd",
    "support_loss",
    "trajectories",
    "warm_start",
]
