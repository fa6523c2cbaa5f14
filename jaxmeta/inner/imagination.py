"""What agents imagine with a model of the dynamics: the next observation and the reward of a step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from jaxmeta import rl
from jaxmeta.core.learner import Learner
from jaxmeta.core.rollout import rollout
from jaxmeta.nets import action_vector
from jaxmeta.nets.dynamics import Dynamics
from jaxmeta.types import Array, Fast, Key, Params, Plan, Spec

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


def imagined_step(spec: Spec, dynamics: Dynamics, reward: Reward | None) -> Callable[..., tuple[Array, Array]]:
    """Builds the function that imagines a step of the environment, as `tasks.Imagine`.

    Args:
      dynamics: a single model.
      reward: None if the reward is the last output of the model.

    Returns:
      A function (statistics, params of a model, observation [O], action, key) -> (next observation [O], reward).
    """

    def imagine(statistics: rl.Statistics, model: Params, obs: Array, action: Array, key: Key) -> tuple[Array, Array]:
        vector, noise = action_vector(action, spec.action), jax.random.normal(key, (1, dynamics.outputs))
        after, paid = imagining(spec, dynamics, statistics, reward)(model, obs[None], vector[None], noise)
        return after[0], paid[0]

    return imagine


class ImaginingParams(struct.PyTreeNode):
    """Params of an agent that learns in the imagination of an ensemble of models."""

    policy: Params
    """Of the agent."""
    model: rl.DynamicsParams
    """The ensemble, leaves [B, ...]."""


def after_imagining(learner: Learner, imagined: Callable[[ImaginingParams], Any], plan: Plan) -> Learner:
    """Builds an agent that starts every task adapted to a random member of its ensemble, as those of MB-MPO do.

    At the start of a task it adapts in all rounds of an imagined trial. As long as the models were fitted to no
    transition, it does not adapt.

    Args:
      learner: the agent that adapts; its params are `ImaginingParams`.
      imagined: params -> the family of imagined tasks.
      plan: layout of the imagined trial; its last round is left out, as nothing adapts to it.
    """

    def start(params: ImaginingParams, key: Key) -> Fast:
        family = imagined(params)
        task_key, start_key, *round_keys = jax.random.split(key, 2 + 2 * plan.rounds)
        task, first = family.sample(task_key), learner.start(params, start_key)
        fast = first
        for act_key, adapt_key in zip(round_keys[::2], round_keys[1::2], strict=True):
            experience = rollout(learner, params, fast, family.env, task, act_key, plan.streams, plan.episodes)
            fast = learner.adapt(params, fast, experience, adapt_key)
        known = params.model.statistics.count > 0
        return jax.tree.map(lambda adapted, initial: jnp.where(known, adapted, initial), fast, first)

    return learner._replace(start=start)
