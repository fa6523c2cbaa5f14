"""Reinforcement-learning mathematics: plain functions with closed-form tests."""

from jaxmeta.rl.advantages import (
    Advantage,
    Estimator,
    check_linear_baseline,
    fit_linear_baseline,
    linear_baseline,
    masked_mean,
    plain_returns,
    standardize,
    value_baseline,
)
from jaxmeta.rl.macro import Decision, decision_steps, macro_spec, macro_steps
from jaxmeta.rl.normalisation import (
    CLIP,
    NormalisedParams,
    Statistics,
    clipped_share,
    initial_statistics,
    merged,
    return_scale,
    returns_so_far,
    standardised,
    standardised_rounds,
    statistics_of,
)
from jaxmeta.rl.objectives import Objective, clipped, dice, loaded_dice, log_prob, ratio
from jaxmeta.rl.returns import discounted_return, generalized_advantage
from jaxmeta.rl.variational import Trajectory, chain_kl, elbo_sums, gaussian_kl

__all__ = [
    "CLIP",
    "Advantage",
    "Decision",
    "Estimator",
    "NormalisedParams",
    "Objective",
    "Statistics",
    "Trajectory",
    "chain_kl",
    "check_linear_baseline",
    "clipped",
    "clipped_share",
    "decision_steps",
    "dice",
    "discounted_return",
    "elbo_sums",
    "fit_linear_baseline",
    "gaussian_kl",
    "generalized_advantage",
    "initial_statistics",
    "linear_baseline",
    "loaded_dice",
    "log_prob",
    "macro_spec",
    "macro_steps",
    "masked_mean",
    "merged",
    "plain_returns",
    "ratio",
    "return_scale",
    "returns_so_far",
    "standardised",
    "standardised_rounds",
    "standardize",
    "statistics_of",
    "value_baseline",
]
