"""When z is drawn, from which belief, and what that belief has seen."""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxmeta as jm
from jaxmeta import inner, nets
from jaxmeta.core.learner import deterministic
from jaxmeta.core.rollout import replay, replay_fast
from jaxmeta.rl.replay import Transition, evidence_rows, evidence_size, stored
from tests import tiny

FAMILY = tiny.family()
SPEC = FAMILY.env.spec
LATENT = 2
NETWORKS = nets.soft_actor_critic(SPEC, LATENT, (8,), action_scale=0.1)
SIZE = evidence_size(SPEC, use_next_obs=True)
ENCODERS = {"product": nets.product_encoder(SIZE, LATENT, (8,)), "recurrent": nets.recurrent_encoder(SIZE, LATENT, 8)}
PLAN = jm.Plan(rounds=2, streams=3)


def agent(encoder="product", prior_rounds=1):
    return inner.posterior_sampling(NETWORKS, ENCODERS[encoder], use_next_obs=True, prior_rounds=prior_rounds)


def params_of(learner):
    """Networks that heed z, unlike those at the start."""
    params = learner.init(jax.random.key(0))
    leaves, structure = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    return structure.unflatten(
        [leaf + 0.3 * jax.random.normal(key, leaf.shape) for key, leaf in zip(keys, leaves, strict=True)]
    )


def trial_of(learner):
    params, task = params_of(learner), FAMILY.sample(jax.random.key(3))
    run = jax.jit(lambda key: jm.collect(learner, params, FAMILY.env, task, key, PLAN))
    return params, run(jax.random.key(2))


def spoken(params, z, rounds):
    """What an actor says that holds z [R, E, L] over all of [R, T, E]."""
    held = jnp.broadcast_to(z[:, None], (*rounds.reward.shape, LATENT))
    return NETWORKS.actor(params.actor, rounds.inputs.obs, held)


def drawn(learner, params, trial):
    """The z of every stream, [R, E, L], one belief per round."""
    fast = jax.jit(lambda: replay_fast(learner, params, trial))()
    return jax.vmap(jax.vmap(learner.reset, (None, None, 0)), (None, 0, 0))(params, fast, trial.rounds.reset_key)


def rows_of(experience):
    """The transitions of a round, stream after stream, by a loop: only those that count."""
    rows = np.asarray(evidence_rows(stored(experience), True))
    return [rows[t, e] for e in range(rows.shape[1]) for t in range(rows.shape[0]) if experience.valid[t, e] > 0]


def test_z_is_constant_within_an_episode_and_resampled_for_the_next():
    learner = agent()
    params, trial = trial_of(learner)
    z = drawn(learner, params, trial)
    chex.assert_trees_all_close(trial.rounds.output.dist, spoken(params, z, trial.rounds), rtol=1e-4, atol=1e-5)
    flat = np.asarray(z).reshape(-1, LATENT)
    assert len(np.unique(flat[:, 0])) == len(flat) == 9


def test_every_stream_is_replayed_with_its_own_z():
    learner = agent()
    params, trial = trial_of(learner)
    again = jax.jit(lambda: replay(learner, params, trial))()
    chex.assert_trees_all_close(again, trial.rounds.output, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("prior_rounds", [1, 2])
def test_z_comes_from_the_prior_in_the_first_rounds_and_then_from_the_belief(prior_rounds):
    learner, encoder = agent(prior_rounds=prior_rounds), ENCODERS["product"]
    params, trial = trial_of(learner)
    z = drawn(learner, params, trial)
    seen = []
    for index in range(PLAN.rounds + 1):
        noise = jax.vmap(lambda key: jax.random.normal(key, (LATENT,)))(trial.rounds.reset_key[index])
        if index < prior_rounds:
            np.testing.assert_allclose(z[index], noise, rtol=1e-6)
        else:
            rows = jnp.stack(seen)
            belief = encoder.belief(
                params.encoder, encoder.add(params.encoder, encoder.start(), rows, jnp.ones(len(rows)))
            )
            np.testing.assert_allclose(z[index], belief.mean + np.sqrt(belief.variance) * noise, rtol=1e-3, atol=1e-5)
            assert np.abs(z[index] - noise).max() > 0.01
        seen += rows_of(jax.tree.map(lambda leaf, index=index: leaf[index], trial.rounds))


@pytest.mark.parametrize("encoder", ENCODERS)
def test_evidence_has_all_streams_in_order_without_steps_after_an_end(encoder):
    learner = agent(encoder)
    params, trial = trial_of(learner)
    experience = jax.tree.map(lambda leaf: leaf[0], trial.rounds)
    experience = experience.replace(valid=jnp.array([[1.0, 1, 1], [1, 0, 1], [1, 0, 1], [0, 0, 1]]))
    rows = rows_of(experience)
    coder, adapt = ENCODERS[encoder], jax.jit(learner.adapt)
    fast = adapt(params, learner.start(params, jax.random.key(0)), experience, jax.random.key(0))
    evidence = coder.add(params.encoder, coder.start(), jnp.stack(rows), jnp.ones(len(rows)))
    chex.assert_trees_all_close(fast.evidence, evidence, rtol=1e-4, atol=1e-5)
    assert fast.rounds == 1
    dead = experience.valid == 0
    wild = experience.replace(reward=jnp.where(dead, 1e3, experience.reward))
    again = adapt(params, learner.start(params, jax.random.key(0)), wild, jax.random.key(0))
    chex.assert_trees_all_equal(again.evidence, fast.evidence)


def test_the_encoder_does_not_receive_episode_ends():
    obs, next_obs, action = jax.random.normal(jax.random.key(0), (3, 5, 2))
    kept = Transition(obs, action, jnp.arange(5.0), next_obs, terminated=jnp.zeros(5))
    ended = kept.replace(terminated=jnp.ones(5))
    for use_next_obs, more in ((False, []), (True, [next_obs])):
        parts = [obs, action, jnp.arange(5.0)[:, None], *more]
        rows = evidence_rows(kept, use_next_obs)
        np.testing.assert_array_equal(rows, np.concatenate(parts, axis=1))
        np.testing.assert_array_equal(rows, evidence_rows(ended, use_next_obs))
        assert rows.shape[1] == evidence_size(SPEC, use_next_obs)


def test_a_deterministic_agent_acts_by_the_squashed_mean():
    """Given z, and so the keys of the streams, what it does is the pressed mean of its Gaussian."""
    learner = deterministic(agent())
    params, trial = trial_of(learner)
    z = drawn(learner, params, trial)
    dist = spoken(params, z, trial.rounds)
    np.testing.assert_allclose(trial.rounds.action, 0.1 * np.tanh(dist.loc), rtol=1e-4, atol=1e-6)
