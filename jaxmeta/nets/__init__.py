"""Networks and their action heads. The only package that imports flax.linen."""

from jaxmeta.nets.coordinatewise import Coordinatewise, coordinatewise_lstm
from jaxmeta.nets.evidence import Belief, EvidenceEncoder, no_evidence, product_encoder, recurrent_encoder
from jaxmeta.nets.fast_weights import associative_actor_critic
from jaxmeta.nets.heads import Categoricals, Certain, Gaussian, SquashedGaussian, head_for
from jaxmeta.nets.linear_recurrence import linear_recurrent_actor_critic
from jaxmeta.nets.networks import (
    ACTIVATIONS,
    HEADS,
    Network,
    actor_critic,
    encode_input,
    multi_head,
    scale_value,
    separate_value,
    with_context,
)
from jaxmeta.nets.observations import ObservationEncoder, action_vector, encoded, mask_logits, vector_size
from jaxmeta.nets.predictors import Predictor, linear, perceptron
from jaxmeta.nets.recurrent import recurrent_actor_critic
from jaxmeta.nets.rounds import RoundEncoder, round_encoder
from jaxmeta.nets.snail import SnailState, snail_actor_critic
from jaxmeta.nets.soft_actor_critic import SoftActorCritic, SoftActorCriticParams, soft_actor_critic
from jaxmeta.nets.variational import (
    BeliefDecoder,
    BeliefEncoder,
    Posterior,
    cell_decoder,
    recurrent_belief,
    reward_decoder,
    state_decoder,
)

__all__ = [
    "ACTIVATIONS",
    "HEADS",
    "Belief",
    "BeliefDecoder",
    "BeliefEncoder",
    "Categoricals",
    "Certain",
    "Coordinatewise",
    "EvidenceEncoder",
    "Gaussian",
    "Network",
    "ObservationEncoder",
    "Posterior",
    "Predictor",
    "RoundEncoder",
    "SnailState",
    "SoftActorCritic",
    "SoftActorCriticParams",
    "SquashedGaussian",
    "action_vector",
    "actor_critic",
    "associative_actor_critic",
    "cell_decoder",
    "coordinatewise_lstm",
    "encode_input",
    "encoded",
    "head_for",
    "linear",
    "linear_recurrent_actor_critic",
    "mask_logits",
    "multi_head",
    "no_evidence",
    "perceptron",
    "product_encoder",
    "recurrent_actor_critic",
    "recurrent_belief",
    "recurrent_encoder",
    "reward_decoder",
    "round_encoder",
    "scale_value",
    "separate_value",
    "snail_actor_critic",
    "soft_actor_critic",
    "state_decoder",
    "vector_size",
    "with_context",
]
