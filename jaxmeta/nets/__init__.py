"""Networks and their action heads. The only package that imports flax.linen."""

from jaxmeta.nets.coordinatewise import Coordinatewise, coordinatewise_lstm
from jaxmeta.nets.dynamics import (
    Dynamics,
    Prediction,
    RecurrentDynamics,
    dynamics_inputs,
    dynamics_loss,
    dynamics_outputs,
    dynamics_rows,
    dynamics_sizes,
    ensemble,
    gaussian_dynamics,
    prediction_error,
    recurrent_dynamics,
)
from jaxmeta.nets.evidence import Belief, EvidenceEncoder, no_evidence, product_encoder, recurrent_encoder
from jaxmeta.nets.fast_weights import associative_actor_critic
from jaxmeta.nets.heads import Categoricals, Certain, Gaussian, SquashedGaussian, head_for, mostly
from jaxmeta.nets.learned_loss import LearnedLoss, temporal_loss
from jaxmeta.nets.linear_recurrence import linear_recurrent_actor_critic
from jaxmeta.nets.mamba import mamba_actor_critic
from jaxmeta.nets.mlstm import mlstm_actor_critic
from jaxmeta.nets.networks import (
    ACTIVATIONS,
    HEADS,
    VALUE_HEADS,
    Network,
    actor_critic,
    beside,
    encode_input,
    multi_head,
    scale_value,
    separate_value,
    with_context,
)
from jaxmeta.nets.observations import ObservationEncoder, action_vector, encoded, mask_logits, vector_size
from jaxmeta.nets.options import OptionsOutput, options
from jaxmeta.nets.predictors import Predictor, linear, perceptron
from jaxmeta.nets.recurrent import recurrent_actor_critic
from jaxmeta.nets.residual import Mixer, residual_actor_critic
from jaxmeta.nets.rounds import RoundEncoder, round_encoder
from jaxmeta.nets.s5 import s5_actor_critic
from jaxmeta.nets.snail import SnailState, snail_actor_critic
from jaxmeta.nets.soft_actor_critic import SoftActorCritic, SoftActorCriticParams, soft_actor_critic
from jaxmeta.nets.transformer import transformer_actor_critic
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
    "VALUE_HEADS",
    "Belief",
    "BeliefDecoder",
    "BeliefEncoder",
    "Categoricals",
    "Certain",
    "Coordinatewise",
    "Dynamics",
    "EvidenceEncoder",
    "Gaussian",
    "LearnedLoss",
    "Mixer",
    "Network",
    "ObservationEncoder",
    "OptionsOutput",
    "Posterior",
    "Prediction",
    "Predictor",
    "RecurrentDynamics",
    "RoundEncoder",
    "SnailState",
    "SoftActorCritic",
    "SoftActorCriticParams",
    "SquashedGaussian",
    "action_vector",
    "actor_critic",
    "associative_actor_critic",
    "beside",
    "cell_decoder",
    "coordinatewise_lstm",
    "dynamics_inputs",
    "dynamics_loss",
    "dynamics_outputs",
    "dynamics_rows",
    "dynamics_sizes",
    "encode_input",
    "encoded",
    "ensemble",
    "gaussian_dynamics",
    "head_for",
    "linear",
    "linear_recurrent_actor_critic",
    "mamba_actor_critic",
    "mask_logits",
    "mlstm_actor_critic",
    "mostly",
    "multi_head",
    "no_evidence",
    "options",
    "perceptron",
    "prediction_error",
    "product_encoder",
    "recurrent_actor_critic",
    "recurrent_belief",
    "recurrent_dynamics",
    "recurrent_encoder",
    "residual_actor_critic",
    "reward_decoder",
    "round_encoder",
    "s5_actor_critic",
    "scale_value",
    "separate_value",
    "snail_actor_critic",
    "soft_actor_critic",
    "state_decoder",
    "temporal_loss",
    "transformer_actor_critic",
    "vector_size",
    "with_context",
]
