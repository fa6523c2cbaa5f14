"""An encoder of rounds: experience on one task, any number of streams and steps, to a vector of length 1."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxmeta.nets.networks import MLP, MLPWithOutput
from jaxmeta.nets.observations import ObservationEncoder, action_vector
from jaxmeta.types import Array, Key, Params, Rollout, Spec


class RoundEncoder(NamedTuple):
    """An encoder of rounds, as pure functions."""

    init: Callable[[Key], Params]
    apply: Callable[[Params, Rollout], Array]
    """(params, round with leaves [T, E, ...]) -> [D], of length 1."""


class _Transition(nn.Module):
    """Features of one transition."""

    spec: Spec
    hidden: Sequence[int]

    @nn.compact
    def __call__(self, obs: Any, action: Array, reward: Array, next_obs: Any) -> Array:
        encode = ObservationEncoder(self.spec)
        parts = (encode(obs), action_vector(action, self.spec.action), reward[None], encode(next_obs))
        return MLP(tuple(self.hidden), "relu", 2.0**0.5)(jnp.concatenate(parts))


def round_encoder(spec: Spec, size: int = 16, hidden: Sequence[int] = (32, 32)) -> RoundEncoder:
    """Builds an encoder that averages the features of valid transitions, over steps and streams.

    It does not depend on the order of transitions. Observations of any form are encoded as for policies, see
    `ObservationEncoder`.

    Args:
      size: length of the result, D.
      hidden: widths of the hidden layers, before and after the average.
    """
    each, together = _Transition(spec, tuple(hidden)), MLPWithOutput(tuple(hidden), size)
    example = spec.example_input()
    nothing = (example.obs, example.prev_action, example.prev_reward, example.obs)

    def init(key: Key) -> Params:
        each_key, together_key = jax.random.split(key)
        params = each.init(each_key, *nothing)
        features = jax.eval_shape(lambda: each.apply(params, *nothing))
        return {"transition": params, "round": together.init(together_key, jnp.zeros(cast(Any, features).shape))}

    def apply(params: Params, experience: Rollout) -> Array:
        run = jax.vmap(jax.vmap(lambda *parts: cast(Array, each.apply(params["transition"], *parts))))
        features = run(experience.inputs.obs, experience.action, experience.reward, experience.next_obs)
        valid = experience.valid[..., None]
        mean = jnp.sum(features * valid, (0, 1)) / jnp.maximum(jnp.sum(valid), 1.0)
        vector = cast(Array, together.apply(params["round"], mean))
        # the derivative of a norm at zero is NaN
        return vector * jax.lax.rsqrt(jnp.sum(jnp.square(vector)) + 1e-12)

    return RoundEncoder(init, apply)
