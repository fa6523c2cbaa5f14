"""What an agent of `jm.varibad` believes about its task, as a person can read it: where on a grid the goal may be."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jaxmeta import inner, nets
from jaxmeta.algos.varibad import VariBADConfig, belief_model
from jaxmeta.tasks.base import TaskFamily
from jaxmeta.types import Array, Rollout


def goal_probabilities(
    family: TaskFamily, config: VariBADConfig, params: inner.BeliefParams, carry: inner.BeliefCarry, draws: int = 100
) -> Array:
    """Asks the decoder what the agent expects of every cell of a grid.

    Each cell has a probability of its own: nothing says to the decoder that there is exactly one goal.

    Args:
      family: a family on a grid of cells, such as `jm.tasks.grid_navigation()`.
      config: the one that `jm.varibad` was built with.
      carry: the agent's, at any step.
      draws: of the latent from the posterior; the same ones at every call.

    Returns:
      The probability that the goal is in cell (x, y), [size, size].

    Raises:
      ValueError: if the decoder does not decode cells.
    """
    return _decode(family, config, params, carry.posterior, draws)


def along(
    family: TaskFamily, config: VariBADConfig, params: inner.BeliefParams, experience: Rollout, draws: int = 100
) -> Array:
    """Follows `goal_probabilities` over the stream of a round of one trial, leaves [T, 1, ...].

    Returns:
      [T + 1, size, size]: before the first step, and after each.
    """
    encoder, _ = belief_model(family, config)
    (stream,) = _unstack(inner.trajectories(experience))
    chain = inner.posteriors(encoder, params.model.encoder, stream)
    return jax.vmap(lambda posterior: _decode(family, config, params, posterior, draws))(chain)


def has_cells(family: TaskFamily, config: Any) -> bool:
    """Tells whether an agent has a belief over cells, given the config that it was built with."""
    if not isinstance(config, VariBADConfig):
        return False
    reward = belief_model(family, config)[1].get("reward")
    return reward is not None and reward.cells is not None


def _decode(
    family: TaskFamily, config: VariBADConfig, params: inner.BeliefParams, posterior: nets.Posterior, draws: int
) -> Array:
    if not has_cells(family, config):
        raise ValueError("the agent has no belief over cells; that takes reward_decoder 'cells', on a grid")
    cells = belief_model(family, config)[1]["reward"].cells
    assert cells is not None
    noise = jax.random.normal(jax.random.key(0), (draws, posterior.mean.shape[-1]))
    logits = jax.vmap(lambda noise: cells(params.model.decoders["reward"], posterior.sample(noise)))(noise)
    size = int(logits.shape[-1] ** 0.5)
    return jnp.mean(jax.nn.sigmoid(logits), axis=0).reshape(size, size)


def _unstack(tree: Any) -> list[Any]:
    count = jax.tree.leaves(tree)[0].shape[0]
    return [jax.tree.map(lambda leaf, index=index: leaf[index], tree) for index in range(count)]
