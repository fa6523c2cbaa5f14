"""Agents that hold a belief about their task, a distribution over a latent z, and act on where they are and on it."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from jaxmeta.core.learner import Learner
from jaxmeta.nets import BeliefDecoder, BeliefEncoder, Network, Posterior
from jaxmeta.nets.blocks import blockwise_vmap
from jaxmeta.rl import Trajectory, chain_kl, elbo_sums
from jaxmeta.types import Array, Input, Key, Metrics, Output, Params, Rollout, Spec, Trial


class ModelParams(struct.PyTreeNode):
    """What the variational phase learns."""

    encoder: Params
    decoders: dict[str, Params]


class BeliefParams(struct.PyTreeNode):
    """What meta-training learns: the two parts share nothing, and each has an optimiser of its own."""

    policy: Params
    model: ModelParams


class BeliefCarry(struct.PyTreeNode):
    """What the agent holds between steps."""

    state: Any
    """The encoder's."""
    posterior: Posterior


def belief(policy: Network, encoder: BeliefEncoder, decoders: Mapping[str, BeliefDecoder]) -> Learner:
    """Builds an agent that updates its belief by every transition, the last of an episode included, and then acts.

    Args:
      policy: a memoryless policy on hyper-states, see `hyper_spec`. No gradient goes from it to the encoder.
      decoders: by name; they do not act, but are learned with the encoder.
    """

    def init(key: Key) -> BeliefParams:
        policy_key, encoder_key, *keys = jax.random.split(key, 2 + len(decoders))
        made = {name: decoder.init(key) for (name, decoder), key in zip(decoders.items(), keys, strict=True)}
        return BeliefParams(policy.init(policy_key), ModelParams(encoder.init(encoder_key), made))

    def reset(params: BeliefParams, fast: tuple[()], key: Key) -> BeliefCarry:
        return BeliefCarry(*encoder.start(params.model.encoder))

    def act(params: BeliefParams, fast: tuple[()], carry: BeliefCarry, inputs: Input) -> tuple[BeliefCarry, Output]:
        transition = (inputs.prev_action, inputs.prev_reward, inputs.prev_next_obs)
        after = BeliefCarry(*encoder.update(params.model.encoder, carry.state, *transition))
        carry = jax.tree.map(lambda old, new: jnp.where(inputs.first > 0, old, new), carry, after)
        hyper_state = inputs.replace(obs=hyper_obs(inputs.obs, carry.posterior))
        _, output = policy.apply(params.policy, (), hyper_state)
        return carry, output.replace(aux=carry.posterior)

    return Learner(
        init=init,
        start=lambda params, key: (),
        reset=reset,
        act=act,
        adapt=lambda params, fast, experience, key: fast,
        head=policy.head,
    )


def hyper_spec(spec: Spec, size: int) -> Spec:
    """Returns what a policy sees: the observation, and the belief over z, [size], about the task (a hyper-state)."""
    return dataclasses.replace(spec, observation=(spec.example_input().obs.size + 2 * size,))


def hyper_obs(obs: Array, posterior: Posterior) -> Array:
    """Appends a belief, as a constant, to an observation."""
    constant = jax.lax.stop_gradient(posterior)
    return jnp.concatenate([obs.reshape(-1), constant.mean, constant.log_var])


def hyper_trials(trials: Trial) -> Trial:
    """Returns trials as the policy saw them: each observation with the belief that was held then.

    The policy can be trained on them as one without memory, in one batched call, however long the trials are.
    """
    rounds = trials.rounds
    append = hyper_obs
    for _ in rounds.reward.shape:
        append = jax.vmap(append)
    obs = append(rounds.inputs.obs, rounds.output.aux)
    return trials.replace(rounds=rounds.replace(inputs=rounds.inputs.replace(obs=obs)))


def trajectories(experience: Rollout) -> Trajectory:
    """Returns the streams of rounds [..., T, E], E and all axes before T as one leading axis."""
    axis = experience.reward.ndim - 2
    kept = Trajectory(
        experience.inputs.obs, experience.action, experience.reward, experience.next_obs, experience.valid
    )
    length = experience.reward.shape[axis]

    def flat(leaf: Array) -> Array:
        return jnp.moveaxis(leaf, axis, axis + 1).reshape(-1, length, *leaf.shape[axis + 2 :])

    return jax.tree.map(flat, kept)


def posteriors(encoder: BeliefEncoder, params: Params, trajectory: Trajectory) -> Posterior:
    """Follows the belief over a trial: [T + 1, L], the prior first. A step that is not valid leaves it as it is."""
    state, prior = encoder.start(params)

    def step(carry, moment):
        action, reward, next_obs, valid = moment
        after = encoder.update(params, carry[0], action, reward, next_obs)
        carry = jax.tree.map(lambda old, new: jnp.where(valid > 0, new, old), carry, after)
        return carry, carry[1]

    moments = (trajectory.action, trajectory.reward, trajectory.next_obs, trajectory.valid)
    _, later = jax.lax.scan(step, (state, prior), moments)
    return jax.tree.map(lambda first, rest: jnp.concatenate([first[None], rest]), prior, later)


def negative_elbo(
    encoder: BeliefEncoder, decoders: Mapping[str, BeliefDecoder], weights: Mapping[str, float], kl_weight: float
) -> Callable[[ModelParams, Trajectory, Key], tuple[Array, Metrics]]:
    """Builds the loss of the variational phase on one trial: minus the bound of `rl.elbo_sums`.

    Args:
      weights: of the log-likelihood that each decoder gives.
      kl_weight: weight of the divergence of each posterior from the one before.

    Returns:
      A function (params, trajectory, key) -> (scalar, metrics). The metrics are per decoded step, and the whole
      divergence of a trial.
    """

    def loss(params: ModelParams, trajectory: Trajectory, key: Key) -> tuple[Array, Metrics]:
        chain = posteriors(encoder, params.encoder, trajectory)
        z = chain.sample(jax.random.normal(key, chain.mean.shape))
        kl = chain_kl(chain.mean, chain.log_var)
        valid = trajectory.valid
        steps = (trajectory.obs, trajectory.action, trajectory.reward, trajectory.next_obs)
        decoded = jnp.sum(valid) * (jnp.sum(valid) + 1.0)
        total, metrics = jnp.zeros(()), {}
        for name, decoder in decoders.items():
            told = functools.partial(decoder.log_likelihood, params.decoders[name])
            each = blockwise_vmap(lambda z, told=told: told(z, *steps), z)
            likelihood, divergence = elbo_sums(each, kl, valid)
            total -= weights[name] * likelihood
            metrics[f"vae/{name}"] = -likelihood / jnp.maximum(decoded, 1.0)
            metrics["vae/kl"] = divergence
        return total + kl_weight * metrics["vae/kl"], metrics

    return loss
