"""Samplers by their configs."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from jaxmeta.core.learner import MetaLearner
from jaxmeta.outer.meta_update import Sampler, parts_of
from jaxmeta.outer.samplers.buffer import num_replayed
from jaxmeta.outer.samplers.learnability import LearnabilityConfig, sampling_for_learnability
from jaxmeta.outer.samplers.prioritised import PrioritisedConfig, prioritised_replay
from jaxmeta.outer.samplers.progress import ProgressConfig, learning_progress
from jaxmeta.outer.samplers.similarity import NearFarConfig, near_and_far
from jaxmeta.tasks.base import TaskFamily

LOOKED_AT = 64
"""Tasks that are drawn to see whether a family has few."""


@dataclasses.dataclass(frozen=True)
class UniformConfig:
    """The algorithm's own sampler, in most cases i.i.d. tasks: no curriculum."""


SamplerConfig = UniformConfig | PrioritisedConfig | LearnabilityConfig | ProgressConfig | NearFarConfig
BUILDERS: dict[type, Any] = {
    PrioritisedConfig: prioritised_replay,
    LearnabilityConfig: sampling_for_learnability,
    ProgressConfig: learning_progress,
    NearFarConfig: near_and_far,
}


def sampler(config: SamplerConfig, family: TaskFamily, meta: MetaLearner) -> Sampler:
    """Builds the sampler of a config for a meta-learner on a family.

        meta = jm.maml(family)
        meta = outer.with_sampler(meta, outer.sampler(outer.PrioritisedConfig(), family, meta))

    Raises:
      TypeError: if the config is of no sampler, or the meta-learner was not built by `meta_update`.
      ValueError: if the sampler does not suit the algorithm or the tasks.
    """
    parts = parts_of(meta)
    if isinstance(config, UniformConfig):
        return parts.sampler
    if type(config) not in BUILDERS:
        raise TypeError(f"config is a {type(config).__name__}; it must be one of {', '.join(_names())}")
    if parts.sampler.essential:
        raise ValueError(f"sampler cannot be replaced in this algorithm: {parts.sampler.essential}")
    share = config.near + config.far if isinstance(config, NearFarConfig) else config.share
    _check_size(family, num_replayed(meta.info.num_tasks, share))
    return BUILDERS[type(config)](family, meta, config)


def _check_size(family: TaskFamily, needed: int) -> None:
    """Raises a ValueError if a family has fewer tasks than a curriculum chooses for an update."""
    known = family.train_tasks
    if known is not None:
        size = jax.tree.leaves(known)[0].shape[0]
    else:
        tasks = jax.vmap(family.sample)(jax.random.split(jax.random.key(0), LOOKED_AT))
        size = len(jnp.unique(jax.vmap(family.encode)(tasks), axis=0))
        if size > LOOKED_AT // 2:
            return
    if size < max(needed, 3):
        tasks = f"{size} task{'s' if size > 1 else ''}"
        raise ValueError(f"tasks has {tasks}; a curriculum that chooses {needed} of them in every update needs more")


def _names() -> list[str]:
    return [kind.__name__ for kind in (UniformConfig, *BUILDERS)]
