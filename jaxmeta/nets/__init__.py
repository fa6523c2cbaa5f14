"""Networks and their action heads. The only folder that knows flax.linen."""

from jaxmeta.nets.heads import Gaussian, head_for
from jaxmeta.nets.linear_recurrence import linear_recurrent_actor_critic
from jaxmeta.nets.networks import ACTIVATIONS, Network, actor_critic, encode_input, scale_value, separate_value
from jaxmeta.nets.recurrent import recurrent_actor_critic
from jaxmeta.nets.snail import SnailState, snail_actor_critic

__all__ = [
    "ACTIVATIONS",
    "Gaussian",
    "Network",
    "SnailState",
    "actor_critic",
    "encode_input",
    "head_for",
    "linear_recurrent_actor_critic",
    "recurrent_actor_critic",
    "scale_value",
    "separate_value",
    "snail_actor_critic",
]
