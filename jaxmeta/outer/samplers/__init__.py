"""Samplers: which tasks an update visits."""

from jaxmeta.outer.samplers.choose import SamplerConfig, UniformConfig, sampler
from jaxmeta.outer.samplers.fixed import MAX_LOGGED_TASKS, every, revisit, uniform
from jaxmeta.outer.samplers.learnability import LearnabilityConfig, sampling_for_learnability
from jaxmeta.outer.samplers.prioritised import PrioritisedConfig, ReplayConfig, prioritised_replay
from jaxmeta.outer.samplers.progress import ProgressConfig, learning_progress
from jaxmeta.outer.samplers.similarity import Embedding, NearFarConfig, near_and_far

__all__ = [
    "MAX_LOGGED_TASKS",
    "Embedding",
    "LearnabilityConfig",
    "NearFarConfig",
    "PrioritisedConfig",
    "ProgressConfig",
    "ReplayConfig",
    "SamplerConfig",
    "UniformConfig",
    "every",
    "learning_progress",
    "near_and_far",
    "prioritised_replay",
    "revisit",
    "sampler",
    "sampling_for_learnability",
    "uniform",
]
