"""Networks and their action heads. The only folder that knows flax.linen."""

from jaxmeta.nets.heads import Gaussian, head_for
from jaxmeta.nets.networks import ACTIVATIONS, Network, actor_critic, encode_input, recurrent_actor_critic

__all__ = [
    "ACTIVATIONS",
    "Gaussian",
    "Network",
    "actor_critic",
    "encode_input",
    "head_for",
    "recurrent_actor_critic",
]
