"""Agents that adapt by inferring which task they are on, and act as if a draw of it were the truth."""

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
    """What an agent knows of its task."""

    evidence: Any
    rounds: Array
    """Rounds that were added, int32 scalar."""


def posterior_sampling(
    networks: SoftActorCritic, encoder: EvidenceEncoder, use_next_obs: bool = False, prior_rounds: int = 1
) -> Learner:
    """Builds an agent that draws z at the begin of every stream and holds it to the end (posterior sampling).

    Args:
      encoder: turns experience into a belief about z.
      use_next_obs: whether the encoder sees what a step led to; needed where tasks differ in their dynamics.
      prior_rounds: rounds in which z comes from the prior whatever was seen, as PEARL's first episodes.
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
        # stream after stream, each in the order of time
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
