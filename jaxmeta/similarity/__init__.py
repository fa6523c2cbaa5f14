"""How alike tasks are: measures of similarity, libraries of known tasks, and a learned embedding of tasks."""

from jaxmeta.inner.warm_start import Library, Similarity
from jaxmeta.similarity.contrastive import (
    ContrastiveConfig,
    ContrastiveParams,
    contrastive,
    info_nce,
    learned_embedding,
)
from jaxmeta.similarity.kinds import (
    adaptation_steps,
    adapted_functions,
    adapted_params,
    beliefs,
    common_inputs,
    cosine,
    meta_gradients,
    negative_distance,
)
from jaxmeta.similarity.tasks import describe, embedding, first_rounds, library, matrix, rank_correlation

__all__ = [
    "ContrastiveConfig",
    "ContrastiveParams",
    "Library",
    "Similarity",
    "adaptation_steps",
    "adapted_functions",
    "adapted_params",
    "beliefs",
    "common_inputs",
    "contrastive",
    "cosine",
    "describe",
    "embedding",
    "first_rounds",
    "info_nce",
    "learned_embedding",
    "library",
    "matrix",
    "meta_gradients",
    "negative_distance",
    "rank_correlation",
]
