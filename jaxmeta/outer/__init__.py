"""The outer loop: one meta-update, and its parts: samplers, sources, aggregates and improvements."""

from jaxmeta.core.learner import Info
from jaxmeta.outer import surgery
from jaxmeta.outer.aggregates import Aggregate, Gradient, combined, masked, mean, per_task
from jaxmeta.outer.descend import Minibatches, after, by_part, descend, optimiser, shuffled, whole
from jaxmeta.outer.estimators import META_GRADIENTS, MetaGradient
from jaxmeta.outer.kl_penalty import PenalisedConfig, with_kl_penalty
from jaxmeta.outer.loss import (
    Credit,
    Critic,
    gradient_chunk,
    meta_loss,
    no_credit,
    standardized_credit,
    trial_loss,
    unbiased_credit,
)
from jaxmeta.outer.meta_update import Batch, Draw, Improve, Sampler, Seen, Source, meta_update
from jaxmeta.outer.normalisation import with_scaled_rewards, with_statistics
from jaxmeta.outer.off_policy import Visits, off_policy
from jaxmeta.outer.policy_gradient import ActorCriticConfig, PolicyGradientConfig, ProximalConfig, policy_gradient
from jaxmeta.outer.regularise import RegularisationConfig, elastic_net, weight_decay
from jaxmeta.outer.reptile import ReptileConfig, after_last_round, reptile
from jaxmeta.outer.samplers import every, revisit, uniform
from jaxmeta.outer.soft_actor_critic import EvidenceConfig, OffPolicyConfig, SoftActorCriticConfig
from jaxmeta.outer.sources import Ring, examples, fresh, replay
from jaxmeta.outer.supervised import SupervisedConfig, adapted, after_batches, few_rows, follow_query, query_loss
from jaxmeta.outer.trust_region import RegionConfig, TrustRegionConfig, TrustRegionCriticConfig, trust_region
from jaxmeta.outer.unrolled import UnrolledConfig, unrolled
from jaxmeta.outer.variational import VariationalConfig, example_trajectory, trajectory_ring, variational

__all__ = [
    "META_GRADIENTS",
    "ActorCriticConfig",
    "Aggregate",
    "Batch",
    "Credit",
    "Critic",
    "Draw",
    "EvidenceConfig",
    "Gradient",
    "Improve",
    "Info",
    "MetaGradient",
    "Minibatches",
    "OffPolicyConfig",
    "PenalisedConfig",
    "PolicyGradientConfig",
    "ProximalConfig",
    "RegionConfig",
    "RegularisationConfig",
    "ReptileConfig",
    "Ring",
    "Sampler",
    "Seen",
    "SoftActorCriticConfig",
    "Source",
    "SupervisedConfig",
    "TrustRegionConfig",
    "TrustRegionCriticConfig",
    "UnrolledConfig",
    "VariationalConfig",
    "Visits",
    "adapted",
    "after",
    "after_batches",
    "after_last_round",
    "by_part",
    "combined",
    "descend",
    "elastic_net",
    "every",
    "example_trajectory",
    "examples",
    "few_rows",
    "follow_query",
    "fresh",
    "gradient_chunk",
    "masked",
    "mean",
    "meta_loss",
    "meta_update",
    "no_credit",
    "off_policy",
    "optimiser",
    "per_task",
    "policy_gradient",
    "query_loss",
    "replay",
    "reptile",
    "revisit",
    "shuffled",
    "standardized_credit",
    "surgery",
    "trajectory_ring",
    "trial_loss",
    "trust_region",
    "unbiased_credit",
    "uniform",
    "unrolled",
    "variational",
    "weight_decay",
    "whole",
    "with_kl_penalty",
    "with_scaled_rewards",
    "with_statistics",
]
