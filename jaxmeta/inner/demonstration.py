"""Inner losses on demonstrations: an agent adapts to what somebody else did on the task."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxmeta.core.learner import Learner
from jaxmeta.core.rollout import unroll
from jaxmeta.inner.gradient import Loss
from jaxmeta.inner.memory import policy
from jaxmeta.nets import LearnedLoss, Network, action_vector, vector_size
from jaxmeta.rl import masked_mean
from jaxmeta.types import Action, Array, Continuous, Input, Output, Params, Rollout, Spec


def cloning_loss(agent: Learner, action: Action) -> Loss:
    """Builds the inner loss on demonstrated actions (Finn et al., 2017, arXiv:1709.04905), a mean over valid steps.

    For continuous actions it is the squared error of the policy's mode, summed over coordinates, in units of the action
    limit; for discrete ones the negative log-likelihood.

    Args:
      agent: a learner that does not adapt between rounds.
      action: the action space.
    """

    def loss(theta: Params, experience: Rollout) -> Array:
        dist = agent.head(unroll(agent, theta, (), experience))
        if isinstance(action, Continuous):
            error = jnp.square((dist.mode() - experience.action) / action.limit).sum(-1)
        else:
            error = -dist.log_prob(experience.action)
        return masked_mean(error, experience.valid)

    return loss


def observing(network: Network, criterion: LearnedLoss, spec: Spec) -> tuple[Learner, Loss]:
    """Builds a policy, and an inner loss without actions that is learned (Yu et al., 2018, arXiv:1802.01557).

    The loss receives the demonstrated observations and the policy's output on them. The demonstrator's actions and
    rewards do not reach it. The params are `{"policy": ..., "loss": ...}`; use
    `inner.adapt_only(updater, "policy")`, so that an adaptation does not change the loss.

    Args:
      network: a memoryless policy.
      criterion: the learned loss of `feature_size(spec)` features.
      spec: observations must be one float32 array.
    """

    def init(key: Array) -> Params:
        policy_key, loss_key = jax.random.split(key)
        return {"policy": network.init(policy_key), "loss": criterion.init(loss_key)}

    agent = policy(
        network._replace(
            init=init,
            apply=lambda params, carry, inputs: network.apply(params["policy"], carry, inputs),
            unroll=None,
            values=None,
        )
    )

    def loss(theta: Params, experience: Rollout) -> Array:
        inputs = _observations_only(experience.inputs)
        output = unroll(agent, theta, (), experience.replace(inputs=inputs))
        steps, streams = experience.valid.shape
        obs = inputs.obs.reshape(steps, streams, -1)
        features = jnp.concatenate([obs, _decision(agent, output, spec.action)], axis=-1)
        over_streams = jax.vmap(criterion.apply, (None, 1, 1), 1)
        return masked_mean(over_streams(theta["loss"], features, experience.valid), experience.valid)

    return agent, loss


def feature_size(spec: Spec) -> int:
    """Returns the number of features at a step that a loss learned from observations receives, see `observing`.

    Raises:
      ValueError: if an observation is not one float32 array.
    """
    decision = action_vector(spec.action.example(), spec.action)
    return vector_size(spec, "a loss learned from observations") + decision.size


def _observations_only(inputs: Input) -> Input:
    """Sets the actions and rewards among the inputs of a policy to zero."""
    zero = jnp.zeros_like
    return inputs.replace(prev_action=zero(inputs.prev_action), prev_reward=zero(inputs.prev_reward))


def _decision(agent: Learner, output: Output, action: Action) -> Array:
    """Returns the policy's mode in units of the action limit, or its logits, [T, E, ...]."""
    if isinstance(action, Continuous):
        return agent.head(output).mode() / action.limit
    return output.dist
