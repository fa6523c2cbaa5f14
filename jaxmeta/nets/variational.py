"""VariBAD's variational autoencoder: a recurrent encoder of experience, and decoders of rewards and states.

The encoder computes a posterior over a latent task variable z after every transition (action, reward, next
observation). The decoders compute the likelihood of the trial's transitions, past and future, given z.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import struct

from jaxmeta.nets.networks import MLPWithOutput
from jaxmeta.nets.observations import action_vector, vector_size
from jaxmeta.nets.recurrent import CELLS, advance_state
from jaxmeta.types import Array, Key, Params, Spec


class Posterior(struct.PyTreeNode):
    """A diagonal Gaussian over z, [..., L]."""

    mean: Array
    log_var: Array
    """Logarithm of the variance; the standard deviation is exp(log_var / 2)."""

    def sample(self, noise: Array) -> Array:
        """Reparameterises standard normal noise [..., L] to a sample of z."""
        return self.mean + jnp.exp(0.5 * self.log_var) * noise


class BeliefEncoder(NamedTuple):
    """A recurrent encoder, as pure functions, unbatched."""

    size: int
    """L, the length of z."""
    init: Callable[[Key], Params]
    start: Callable[[Params], tuple[Any, Posterior]]
    """The initial state, and the prior computed from it."""
    update: Callable[[Params, Any, Array, Array, Array], tuple[Any, Posterior]]
    """(params, state, action, reward, next_obs) -> (state, posterior) after one more transition."""


class BeliefDecoder(NamedTuple):
    """A decoder, as pure functions of one z [L]."""

    init: Callable[[Key], Params]
    log_likelihood: Callable[[Params, Array, Array, Array, Array, Array], Array]
    """(params, z, obs, action, reward, next_obs), the last four [T, ...] -> log-likelihood of each step, [T]."""
    cells: Callable[[Params, Array], Array] | None = None
    """(params, z) -> the logit of every cell to be the goal, [C]; None for decoders without cells."""


class _Memory(nn.Module):
    """Embeds the parts of a transition and updates the recurrent state with them."""

    action: Any
    hidden: int
    length: int
    embeddings: tuple[int, int, int]

    @nn.compact
    def __call__(self, state: tuple[Array], action: Array, reward: Array, next_obs: Array) -> tuple[Array]:
        parts = (action_vector(action, self.action), reward[None], next_obs.reshape(-1))
        sized = [(part, size) for part, size in zip(parts, self.embeddings, strict=True) if size]
        seen = [jax.nn.relu(nn.Dense(size)(part)) for part, size in sized]
        return cast(tuple[Array], advance_state(CELLS["gru"], self.hidden, self.length, state, jnp.concatenate(seen)))


def recurrent_belief(
    spec: Spec, size: int = 5, hidden: int = 64, embeddings: tuple[int, int, int] = (8, 8, 8), length: int = 1
) -> BeliefEncoder:
    """Builds a GRU over transitions, with linear heads for the mean and the log-variance of z.

    Args:
      size: length of z.
      hidden: size of the recurrent state, which is initially zero.
      embeddings: embedding sizes of action, reward and next observation; 0 leaves the part out.
      length: steps of a trial, the largest initial time constant of the units.

    Raises:
      ValueError: if an observation is not one float32 array.
    """
    vector_size(spec, "a belief that is learned from transitions")
    memory, head = _Memory(spec.action, hidden, length, embeddings), nn.Dense(2 * size)
    nothing, example = (jnp.zeros(hidden),), spec.example_input()

    def read(params: Params, state: tuple[Array]) -> Posterior:
        mean, log_var = jnp.split(cast(Array, head.apply(params["head"], state[0])), 2)
        return Posterior(mean, log_var)

    def init(key: Key) -> Params:
        memory_key, head_key = jax.random.split(key)
        transition = (example.prev_action, example.prev_reward, example.obs)
        return {"memory": memory.init(memory_key, nothing, *transition), "head": head.init(head_key, nothing[0])}

    def update(params: Params, state: tuple[Array], action: Array, reward: Array, next_obs: Array):
        state = cast(tuple[Array], memory.apply(params["memory"], state, action, reward, next_obs))
        return state, read(params, state)

    return BeliefEncoder(size, init, lambda params: (nothing, read(params, nothing)), update)


def reward_decoder(
    spec: Spec, size: int, hidden: Sequence[int] = (32, 32), from_transition: bool = True
) -> BeliefDecoder:
    """Builds a decoder of rewards, with a Gaussian likelihood of unit variance without its constant.

    Args:
      size: length of z.
      hidden: widths of the hidden layers.
      from_transition: whether it is conditioned on observation, action and next observation, or on the last only.
    """
    module, example = MLPWithOutput(tuple(hidden), 1), spec.example_input()

    def told(z: Array, obs: Array, action: Array, next_obs: Array) -> Array:
        before = [obs.reshape(-1), action_vector(action, spec.action)] if from_transition else []
        return jnp.concatenate([z, next_obs.reshape(-1), *before])

    def log_likelihood(params: Params, z: Array, obs: Array, action: Array, reward: Array, next_obs: Array) -> Array:
        predicted = module.apply(params, jax.vmap(told, (None, 0, 0, 0))(z, obs, action, next_obs))
        return -0.5 * jnp.square(reward - cast(Array, predicted)[:, 0])

    seen = (jnp.zeros(size), example.obs, example.prev_action, example.obs)
    return BeliefDecoder(lambda key: module.init(key, told(*seen)), log_likelihood)


def cell_decoder(
    num_cells: int, cell_of: Callable[[Array], Array], size: int, hidden: Sequence[int] = (32, 32)
) -> BeliefDecoder:
    """Builds a decoder that predicts for all cells of a grid at once, from z alone, whether the goal is there.

    The likelihood of a reward is Bernoulli: whether it is positive, given the cell of the next observation.

    Args:
      cell_of: returns the index of the cell of an observation.
      size: length of z.
      hidden: widths of the hidden layers.
    """
    module = MLPWithOutput(tuple(hidden), num_cells)

    def cells(params: Params, z: Array) -> Array:
        return cast(Array, module.apply(params, z))

    def log_likelihood(params: Params, z: Array, obs: Array, action: Array, reward: Array, next_obs: Array) -> Array:
        # a product with one-hot rows: its derivative is a product too, where that of a gather is a slow scatter
        logit = jax.nn.one_hot(jax.vmap(cell_of)(next_obs), num_cells) @ cells(params, z)
        return jax.nn.log_sigmoid(jnp.where(reward > 0, logit, -logit))

    return BeliefDecoder(lambda key: module.init(key, jnp.zeros(size)), log_likelihood, cells)


def state_decoder(spec: Spec, size: int, hidden: Sequence[int] = (32, 32)) -> BeliefDecoder:
    """Builds a decoder of next observations, with a Gaussian likelihood of unit variance without its constant.

    Args:
      size: length of z.
      hidden: widths of the hidden layers.
    """
    example = spec.example_input()
    module = MLPWithOutput(tuple(hidden), example.obs.size)

    def told(z: Array, obs: Array, action: Array) -> Array:
        return jnp.concatenate([z, obs.reshape(-1), action_vector(action, spec.action)])

    def log_likelihood(params: Params, z: Array, obs: Array, action: Array, reward: Array, next_obs: Array) -> Array:
        predicted = cast(Array, module.apply(params, jax.vmap(told, (None, 0, 0))(z, obs, action)))
        return -0.5 * jnp.sum(jnp.square(next_obs.reshape(predicted.shape) - predicted), axis=-1)

    seen = (jnp.zeros(size), example.obs, example.prev_action)
    return BeliefDecoder(lambda key: module.init(key, told(*seen)), log_likelihood)
