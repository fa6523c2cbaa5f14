"""Outer loops: how experience over many tasks improves an agent."""

from jaxmeta.outer.estimators import META_GRADIENTS, MetaGradient
from jaxmeta.outer.loss import Credit, meta_loss, no_credit, standardized_credit, trial_loss, unbiased_credit
from jaxmeta.outer.off_policy import OffPolicyConfig, off_policy
from jaxmeta.outer.on_policy import on_policy
from jaxmeta.outer.policy_gradient import PolicyGradientConfig, policy_gradient
from jaxmeta.outer.reptile import ReptileConfig, towards_adapted
from jaxmeta.outer.supervised import SupervisedConfig, adapted, query_loss, supervised, supervised_reptile
from jaxmeta.outer.trust_region import TrustRegionConfig, trust_region
from jaxmeta.outer.unrolled import UnrolledConfig, unrolled
from jaxmeta.outer.variational import VariationalConfig, variational

__all__ = [
    "META_GRADIENTS",
    "Credit",
    "MetaGradient",
    "OffPolicyConfig",
    "PolicyGradientConfig",
    "ReptileConfig",
    "SupervisedConfig",
    "TrustRegionConfig",
    "UnrolledConfig",
    "VariationalConfig",
    "adapted",
    "meta_loss",
    "no_credit",
    "off_policy",
    "on_policy",
    "policy_gradient",
    "query_loss",
    "standardized_credit",
    "supervised",
    "supervised_reptile",
    "towards_adapted",
    "trial_loss",
    "trust_region",
    "unbiased_credit",
    "unrolled",
    "variational",
]
