"""Actor and twin critics of soft actor-critic, conditioned on a latent task variable z."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import struct

from jaxmeta.nets.heads import Gaussian
from jaxmeta.nets.networks import HEADS, check_task_id, one_per_task
from jaxmeta.nets.observations import vector_size
from jaxmeta.types import Array, Continuous, Discrete, Key, Params, Spec

LOG_SCALE_BOUNDS = (-20.0, 2.0)


class SoftActorCritic(NamedTuple):
    """Pure functions with any leading axes, the same for all arguments."""

    init_actor: Callable[[Key], Params]
    init_critics: Callable[[Key], Params]
    actor: Callable[[Params, Array, Array], Gaussian]
    """(params, obs [..., O], z [..., L]) -> Gaussian before tanh, [..., A]."""
    critics: Callable[[Params, Array, Array, Array], tuple[Array, Array]]
    """(params, obs, action [..., A] in units of `action_scale`, z) -> two estimates of the return, [...]."""
    action_scale: float
    """Actions lie in [-action_scale, action_scale]. Losses use actions in units of it, so that the entropy does not
    depend on the unit of actions."""


class SoftActorCriticParams(struct.PyTreeNode):
    """Params of soft actor-critic and of the encoder whose output conditions its networks."""

    encoder: Params
    actor: Params
    critics: Params
    log_temperature: Array
    """Logarithm of the entropy coefficient, scalar; [K] if each of K tasks has its own."""


class _Layers(nn.Module):
    """Dense layers with relu, and a linear output layer with small initial weights, or one such layer per task."""

    hidden: Sequence[int]
    outputs: int

    @nn.compact
    def __call__(self, x: Array, code: Array | None = None) -> Array:
        """Computes outputs [..., outputs] from x [..., D] and, with a layer per task, the one-hot ID [..., K]."""
        for width in self.hidden:
            x = jax.nn.relu(nn.Dense(width)(x))
        if code is None:
            return nn.Dense(self.outputs, kernel_init=_near_zero)(x)
        layers = one_per_task(nn.Dense, code.shape[-1])
        each = layers(self.outputs, kernel_init=_near_zero, name=f"{HEADS}_output")(x)
        return jnp.einsum("...k,k...o->...o", code, each)


def _near_zero(key: Key, shape: Sequence[int], dtype: Any = jnp.float32) -> Array:
    # symmetric: linen's uniform initialiser is positive, which would favour large actions and values
    return jax.random.uniform(key, shape, dtype, -3e-3, 3e-3)


def soft_actor_critic(
    spec: Spec,
    latent_size: int = 0,
    hidden: Sequence[int] = (300, 300, 300),
    action_scale: float | None = None,
    num_heads: int | None = None,
) -> SoftActorCritic:
    """Builds an actor and two critics without shared params.

    With `num_heads` K, each of the three networks has an output layer per task on hidden layers that all tasks share.
    The observation ends with the one-hot task ID, as after `tasks.with_task_id`, which chooses the output layer and is
    no input of the hidden layers. Names of the params of output layers begin with `HEADS`; their leaves are [K, ...].

    Args:
      latent_size: length of z; 0 without conditioning.
      hidden: widths of the hidden layers of each of the three networks.
      action_scale: the actor's actions lie in [-action_scale, action_scale]; by default the environment's limit.
      num_heads: K; None for one output layer and no task ID.

    Raises:
      ValueError: if actions are not continuous, or an observation is not one float32 array, or too short to end with
        the task ID.
    """
    if not isinstance(spec.action, Continuous):
        kind = f"one of {spec.action.num} choices" if isinstance(spec.action, Discrete) else f"{spec.action}"
        raise ValueError(f"tasks.action is {kind}; soft actor-critic needs continuous actions")
    size, obs_size = spec.action.size, vector_size(spec, "soft actor-critic")
    if num_heads is not None:
        check_task_id(spec, num_heads)
    actor, critic = _Layers(tuple(hidden), 2 * size), _Layers(tuple(hidden), 1)
    obs, action, z = jnp.zeros(obs_size), jnp.zeros(size), jnp.zeros(latent_size)

    def joined(obs: Array, *others: Array) -> tuple[Array, Array | None]:
        """Returns the input of the hidden layers and the task ID, if there are heads."""
        if num_heads is None:
            return jnp.concatenate([obs, *others], -1), None
        return jnp.concatenate([obs[..., :-num_heads], *others], -1), obs[..., -num_heads:]

    def run_actor(params: Params, obs: Array, z: Array) -> Gaussian:
        obs = obs.reshape(*z.shape[:-1], obs_size)
        loc, log_scale = jnp.split(cast(Array, actor.apply(params, *joined(obs, z))), 2, axis=-1)
        return Gaussian(loc=loc, log_scale=jnp.clip(log_scale, *LOG_SCALE_BOUNDS))

    def run_critics(params: Params, obs: Array, action: Array, z: Array) -> tuple[Array, Array]:
        obs = obs.reshape(*z.shape[:-1], obs_size)
        seen = joined(obs, action, z)
        first, second = (cast(Array, critic.apply(one, *seen))[..., 0] for one in params)
        return first, second

    def init_critics(key: Key) -> Any:
        seen = joined(obs, action, z)
        return tuple(critic.init(one, *seen) for one in jax.random.split(key))

    return SoftActorCritic(
        init_actor=lambda key: actor.init(key, *joined(obs, z)),
        init_critics=init_critics,
        actor=run_actor,
        critics=run_critics,
        action_scale=spec.action.limit if action_scale is None else action_scale,
    )
