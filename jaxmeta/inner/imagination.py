"""What agents imagine with a model of the dynamics: the next observation and the reward of a step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxmeta import rl
from jaxmeta.nets.dynamics import Dynamics
from jaxmeta.types import Array, Params, Spec

Reward = Callable[[Any, Array, Any], Array]
"""(observation, action, next observation) -> reward, unbatched, as `TaskFamily.planning_reward`."""


def imagining(spec: Spec, dynamics: Dynamics, statistics: rl.Statistics, reward: Reward | None) -> rl.Imagine:
    """Builds the function that imagines one step of M particles, for `rl.imagined_returns`.

    Next observations are clipped, see `rl.within_reach`.

    Args:
      dynamics: a single model; its params are the first argument of the result.
      statistics: of the model's inputs and outputs.
      reward: None if the reward is the last output of the model.
    """
    size = spec.observation[0]

    def imagine(model: Params, obs: Array, action: Array, noise: Array) -> tuple[Array, Array]:
        prediction = dynamics.apply(model, rl.normalised_inputs(statistics, jnp.concatenate([obs, action], -1)))
        drawn = prediction.sample(noise) if dynamics.probabilistic else prediction.mean
        outputs = rl.original_outputs(statistics, drawn)
        after = rl.within_reach(statistics, obs + outputs[..., :size])
        if reward is None:
            return after, outputs[..., size]
        taken = jax.vmap(lambda vector: rl.chosen(spec.action, vector))(action)
        return after, jax.vmap(reward)(obs, taken, after)

    return imagine
