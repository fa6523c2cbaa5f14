"""Aggregates: combine the gradients of the tasks into one.

An aggregate receives the loss of one task and differentiates it itself, so that a mean can be accumulated over the
tasks, while gradient surgery can compare the gradients of all tasks.
"""

from jaxmeta.outer.aggregates.base import (
    Aggregate,
    Gradient,
    Loss,
    combined,
    masked,
    mean,
    mean_of_kept,
    per_task,
    visited,
    weighted_mean,
)
from jaxmeta.outer.aggregates.federated import FederatedMean
from jaxmeta.outer.aggregates.private import PrivateConfig, refuse_private

__all__ = [
    "Aggregate",
    "FederatedMean",
    "Gradient",
    "Loss",
    "PrivateConfig",
    "combined",
    "masked",
    "mean",
    "mean_of_kept",
    "per_task",
    "refuse_private",
    "visited",
    "weighted_mean",
]
