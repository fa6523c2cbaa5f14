"""Reinforcement-learning mathematics: plain functions with closed-form tests."""

from jaxmeta.rl.advantages import (
    Advantage,
    Estimator,
    fit_linear_baseline,
    linear_baseline,
    masked_mean,
    plain_returns,
    standardize,
    value_baseline,
)
from jaxmeta.rl.objectives import Objective, clipped, dice, log_prob, ratio
from jaxmeta.rl.returns import discounted_return, generalized_advantage

__all__ = [
    "Advantage",
    "Estimator",
    "Objective",
    "clipped",
    "dice",
    "discounted_return",
    "fit_linear_baseline",
    "generalized_advantage",
    "linear_baseline",
    "log_prob",
    "masked_mean",
    "plain_returns",
    "ratio",
    "standardize",
    "value_baseline",
]
