"""Posterior sampling: infer a posterior over a latent task variable z, and act on a sample of it (PEARL)."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from jaxmeta.core.learner import Learner
from jaxmeta.nets import EvidenceEncoder, SoftActorCritic, SoftActorCriticParams, SquashedGaussian
from jaxmeta.rl.replay import evidence_rows, stored
from jaxmeta.types import Array, Carry, Input, Key, Output, Rollout


class EvidenceFast(struct.PyTreeNode):
    """The evidence about a task."""

    evidence: Any
    rounds: Array
    """Number of rounds that were added, int32 scalar."""


def posterior_sampling(
    networks: SoftActorCritic, encoder: EvidenceEncoder, use_next_obs: bool = False, prior_rounds: int = 1
) -> Learner:
    """Builds an agent that samples z at the start of every stream and keeps it to the end.

    Args:
      encoder: infers the belief over z from experience.
      use_next_obs: whether the encoder's input includes the next observation; needed where tasks differ in dynamics.
      prior_rounds: number of rounds at the start that sample z from the prior, as PEARL's first episodes.
    """

    def start(params: SoftActorCriticParams, key: Key) -> EvidenceFast:
        return EvidenceFast(evidence=encoder.start(), rounds=jnp.zeros((), jnp.int32))

    def reset(params: SoftActorCriticParams, fast: EvidenceFast, key: Key) -> Carry:
        early = fast.rounds < prior_rounds
        nothing, seen = (encoder.belief(params.encoder, evidence) for evidence in (encoder.start(), fast.evidence))
        return jax.tree.map(lambda prior, posterior: jnp.where(early, prior, posterior), nothing, seen).sample(key)

    def act(params: SoftActorCriticParams, fast: EvidenceFast, z: Carry, inputs: Input) -> tuple[Carry, Output]:
        return z, Output(dist=networks.actor(params.actor, inputs.obs.reshape(-1), z), value=jnp.zeros(()))

    def adapt(params: SoftActorCriticParams, fast: EvidenceFast, experience: Rollout, key: Key) -> EvidenceFast:
        # the streams one after the other, each in time order
        rows, valid = jax.tree.map(
            lambda leaf: jnp.swapaxes(leaf, 0, 1).reshape(-1, *leaf.shape[2:]),
            (evidence_rows(stored(experience), use_next_obs), experience.valid),
        )
        return EvidenceFast(encoder.add(params.encoder, fast.evidence, rows, valid), fast.rounds + 1)

    def unroll(params: SoftActorCriticParams, fast: EvidenceFast, z: Carry, experience: Rollout) -> Output:
        reward = experience.reward
        obs = experience.inputs.obs.reshape(*reward.shape, -1)
        return Output(
            dist=networks.actor(params.actor, obs, jnp.broadcast_to(z, (*reward.shape, encoder.size))),
            value=jnp.zeros_like(reward),
        )

    def init(key: Key) -> SoftActorCriticParams:
        encoder_key, actor_key, critics_key = jax.random.split(key, 3)
        return SoftActorCriticParams(
            encoder=encoder.init(encoder_key),
            actor=networks.init_actor(actor_key),
            critics=networks.init_critics(critics_key),
            log_temperature=jnp.zeros(()),
        )

    return Learner(
        init=init,
        start=start,
        reset=reset,
        act=act,
        adapt=adapt,
        head=lambda output: SquashedGaussian(output.dist, networks.action_scale),
        unroll=unroll,
    )
