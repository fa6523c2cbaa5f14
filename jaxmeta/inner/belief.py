"""Belief-based agents: the policy is conditioned on a posterior over a latent task variable z (VariBAD)."""

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
    """Params of the variational autoencoder."""

    encoder: Params
    decoders: dict[str, Params]


class BeliefParams(struct.PyTreeNode):
    """Meta-learned params; the two parts share nothing, and each has its own optimiser."""

    policy: Params
    model: ModelParams


class BeliefCarry(struct.PyTreeNode):
    """The agent's state between steps."""

    state: Any
    """The encoder's recurrent state."""
    posterior: Posterior


def belief(policy: Network, encoder: BeliefEncoder, decoders: Mapping[str, BeliefDecoder]) -> Learner:
    """Builds an agent that updates its belief on every transition, also on the last of an episode, and then acts.

    Args:
      policy: a memoryless policy on hyper-states, see `hyper_spec`. Its gradient does not reach the encoder.
      decoders: by name; they are not needed to act, but are trained with the encoder.
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
    """Returns the spec of hyper-states: the observation, concatenated with the belief over z [size]."""
    return dataclasses.replace(spec, observation=(spec.example_input().obs.size + 2 * size,))


def hyper_obs(obs: Array, posterior: Posterior) -> Array:
    """Concatenates an observation and a belief; no gradient flows to the belief."""
    constant = jax.lax.stop_gradient(posterior)
    return jnp.concatenate([obs.reshape(-1), constant.mean, constant.log_var])


def hyper_trials(trials: Trial) -> Trial:
    """Replaces the observations of trials by hyper-states, with the belief at the time.

    A memoryless policy can be trained on them in one batched call, however long the trials are.
    """
    rounds = trials.rounds
    append = hyper_obs
    for _ in rounds.reward.shape:
        append = jax.vmap(append)
    obs = append(rounds.inputs.obs, rounds.output.aux)
    return trials.replace(rounds=rounds.replace(inputs=rounds.inputs.replace(obs=obs)))


def trajectories(experience: Rollout) -> Trajectory:
    """Returns the streams of rounds [..., T, E] as trajectories; E and all axes before T become one leading axis."""
    axis = experience.reward.ndim - 2
    kept = Trajectory(
        experience.inputs.obs, experience.action, experience.reward, experience.next_obs, experience.valid
    )
    length = experience.reward.shape[axis]

    def flat(leaf: Array) -> Array:
        return jnp.moveaxis(leaf, axis, axis + 1).reshape(-1, length, *leaf.shape[axis + 2 :])

    return jax.tree.map(flat, kept)


def posteriors(encoder: BeliefEncoder, params: Params, trajectory: Trajectory) -> Posterior:
    """Computes the posteriors along a trial, [T + 1, L], the prior first. Invalid steps do not change the posterior."""
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
    """Builds the variational loss on one trial: the negative of the evidence lower bound of `rl.elbo_sums`.

    Args:
      weights: weights of the decoders' log-likelihoods.
      kl_weight: weight of the KL divergence of each posterior from the previous one.

    Returns:
      A function (params, trajectory, key) -> (scalar, metrics). The metrics are log-likelihoods per decoded step, and
      the KL divergence summed over the trial.
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
