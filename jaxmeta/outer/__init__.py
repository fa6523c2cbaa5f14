"""Outer loops: how experience over many tasks improves an agent."""

from jaxmeta.outer.loss import meta_loss, trial_loss
from jaxmeta.outer.on_policy import on_policy
from jaxmeta.outer.policy_gradient import PolicyGradientConfig, policy_gradient
from jaxmeta.outer.trust_region import TrustRegionConfig, trust_region

__all__ = [
    "PolicyGradientConfig",
    "TrustRegionConfig",
    "meta_loss",
    "on_policy",
    "policy_gradient",
    "trial_loss",
    "trust_region",
]
