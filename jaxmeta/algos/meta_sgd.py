"""Meta-SGD: learn, beside the params to start from, a step size for each of them."""

from __future__ import annotations

import dataclasses

import optax

from jaxmeta import inner
from jaxmeta.algos.gradient_steps import GradientStepsConfig, by_gradient_steps
from jaxmeta.core.learner import MetaLearner
from jaxmeta.tasks.base import TaskFamily


@dataclasses.dataclass(frozen=True)
class MetaSGDConfig(GradientStepsConfig):
    """MAML with learned step sizes (Li et al., 2017, arXiv:1707.09835), which are `inner_lr` at first."""


def meta_sgd(family: TaskFamily, config: MetaSGDConfig = MetaSGDConfig()) -> MetaLearner:
    """Builds an agent that adapts by θ' = θ - α ⊙ ∇L(θ); the outer loop improves θ and α alike."""
    later = optax.scale_by_schedule(optax.piecewise_constant_schedule(1.0, {1: config.later_lr_scale}))
    updater = inner.chain(inner.per_parameter(config.inner_lr), inner.fixed(later))
    return by_gradient_steps(config.policy(family), updater, family, config)
