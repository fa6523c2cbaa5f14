"""The belief of VariBAD: what it is learned from, what it has seen when, and what must not touch it."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxmeta as jm
from jaxmeta import inner, nets, outer, rl, tasks
from jaxmeta.algos.inference.varibad import belief_model
from jaxmeta.core.rollout import collect, rollout, unroll
from jaxmeta.nets import blocks
from jaxmeta.types import Discrete, Spec
from tests import tiny

KEY = jax.random.key(0)
HORIZON, EPISODES = 4, 3
GRID = tasks.grid_navigation(tasks.GridConfig(size=3, horizon=HORIZON, num_episodes=EPISODES))
CONFIG = tiny.ALGOS["varibad"]


@pytest.fixture(scope="module")
def agent():
    meta = jm.varibad(GRID, CONFIG)
    return meta, jax.jit(meta.learner.init)(KEY)


@pytest.fixture(scope="module")
def trial(agent):
    meta, params = agent
    return jax.jit(lambda: collect(meta.learner, params, GRID.env, GRID.sample(KEY), KEY, meta.plan))()


def trajectory(trial):
    return jax.tree.map(lambda leaf: leaf[0], inner.trajectories(trial.rounds))


def chain_of(encoder, params, trajectory):
    return jax.jit(lambda params, trajectory: inner.posteriors(encoder, params, trajectory))(params, trajectory)


def model(weights=None, kl_weight=0.01):
    encoder, decoders = belief_model(GRID, CONFIG)
    return encoder, decoders, inner.negative_elbo(encoder, decoders, weights or {"reward": 1.0}, kl_weight)


def test_the_belief_of_collection_is_the_chain_of_posteriors(agent, trial):
    """What the agent holds when it acts at step t is the posterior after t transitions, the prior at the first."""
    encoder, _ = belief_model(GRID, CONFIG)
    chain = chain_of(encoder, agent[1].model.encoder, trajectory(trial))
    held = jax.tree.map(lambda leaf: leaf[0, :, 0], trial.rounds.output.aux)
    np.testing.assert_allclose(chain.mean[:-1], held.mean, atol=1e-6)
    np.testing.assert_allclose(chain.log_var[:-1], held.log_var, atol=1e-6)


def test_posteriors_that_decode_in_blocks_give_the_loss_and_gradient_of_all_at_once(agent, trial, monkeypatch):
    params, seen = agent[1].model, trajectory(trial)

    def value_and_gradient():
        loss = model()[2]
        return jax.jit(jax.value_and_grad(lambda params: loss(params, seen, KEY)[0]))(params)

    whole = value_and_gradient()
    monkeypatch.setattr(blocks, "BLOCK", 5)
    in_blocks = value_and_gradient()
    for one, other in zip(jax.tree.leaves(whole), jax.tree.leaves(in_blocks), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_the_first_belief_is_the_prior(agent):
    """The prior depends on no observation, previous action or reward: the encoder is not fed."""
    meta, params = agent
    learner, example = meta.learner, GRID.env.spec.example_input()
    carry = learner.reset(params, (), KEY)
    noise = jax.tree.map(lambda leaf: leaf + 1, example).replace(first=jnp.ones(()))
    (_, said), (_, other) = (learner.act(params, (), carry, one) for one in (example.replace(first=1.0), noise))
    np.testing.assert_array_equal(said.aux.mean, other.aux.mean)
    np.testing.assert_array_equal(said.aux.mean, carry.posterior.mean)


@pytest.mark.parametrize("field", ["prev_reward", "prev_next_obs"])
def test_the_last_transition_of_an_episode_is_known_before_the_next_one_begins(agent, trial, field):
    meta, params = agent
    experience = jax.tree.map(lambda leaf: leaf[0], trial.rounds)
    inputs = experience.inputs

    @jax.jit
    def beliefs(change):
        changed = inputs.replace(**{field: getattr(inputs, field).at[HORIZON].add(change)})
        return unroll(meta.learner, params, (), experience.replace(inputs=changed)).aux.mean

    before, after = beliefs(0.0), beliefs(1.0)
    np.testing.assert_array_equal(before[:HORIZON], after[:HORIZON])
    assert (before[HORIZON] != after[HORIZON]).any()


def test_the_final_observation_differs_from_the_next_episodes_first(trial):
    inputs = jax.tree.map(lambda leaf: leaf[0, HORIZON, 0], trial.rounds.inputs)
    np.testing.assert_array_equal(inputs.obs, 0.0)
    np.testing.assert_array_equal(inputs.prev_next_obs, trial.rounds.next_obs[0, HORIZON - 1, 0])


def test_steps_after_an_early_end_do_not_change_the_belief():
    encoder, _ = belief_model(GRID, CONFIG)
    params = encoder.init(KEY)
    steps = [jax.random.normal(jax.random.fold_in(KEY, index), (5, *shape)) for index, shape in enumerate([(), (2,)])]
    action, valid = jnp.arange(5), jnp.array([1.0, 1.0, 0.0, 0.0, 1.0])
    full = rl.Trajectory(steps[1], action, steps[0], steps[1], valid)
    without = jax.tree.map(lambda leaf: leaf[np.array([0, 1, 4])], full)
    chain, short = (chain_of(encoder, params, one) for one in (full, without))
    np.testing.assert_allclose(chain.mean[np.array([0, 1, 2, 5])], short.mean, atol=1e-6)
    np.testing.assert_array_equal(chain.mean[3], chain.mean[2])


def test_the_posterior_stores_log_variances():
    posterior = nets.Posterior(jnp.ones(2), jnp.log(jnp.array([4.0, 9.0])))
    np.testing.assert_allclose(posterior.sample(jnp.ones(2)), [3.0, 4.0], rtol=1e-6)


def test_the_loss_equals_a_loop(agent, trial):
    """With the same noise: every posterior, the prior included, decodes every step, past and future."""
    _, params = agent
    encoder, decoders, loss = model(kl_weight=0.3)
    steps, chain = trajectory(trial), chain_of(encoder, params.model.encoder, trajectory(trial))
    noise = np.asarray(jax.random.normal(KEY, chain.mean.shape))
    mean, log_var = np.asarray(chain.mean, np.float64), np.asarray(chain.log_var, np.float64)
    cells = decoders["reward"].cells
    assert cells is not None
    total, kl = 0.0, 0.0
    old_mean, old_log_var = np.zeros(mean.shape[1]), np.zeros(mean.shape[1])
    for t in range(EPISODES * HORIZON + 1):
        z = mean[t] + np.sqrt(np.exp(log_var[t])) * noise[t]
        logits = np.asarray(cells(params.model.decoders["reward"], jnp.asarray(z, jnp.float32)))
        for obs, reward in zip(np.asarray(steps.next_obs, int), np.asarray(steps.reward), strict=True):
            chance = 1.0 / (1.0 + np.exp(-logits[3 * obs[0] + obs[1]]))
            total -= np.log(chance if reward == 1.0 else 1.0 - chance)
        distance = (mean[t] - old_mean) ** 2
        kl += 0.5 * np.sum((np.exp(log_var[t]) + distance) / np.exp(old_log_var) - 1 + old_log_var - log_var[t])
        old_mean, old_log_var = mean[t], log_var[t]
    value, metrics = jax.jit(loss)(params.model, steps, KEY)
    np.testing.assert_allclose(value, total + 0.3 * kl, rtol=1e-4)
    np.testing.assert_allclose(metrics["vae/kl"], kl, rtol=1e-3)


@pytest.mark.parametrize("step", [0, EPISODES * HORIZON - 1])
def test_every_posterior_is_learned_from_every_reward(agent, trial, step):
    """The prior from those to come, the last posterior from the first: each gradient depends on each reward."""
    _, decoders, _ = model()
    length = EPISODES * HORIZON

    def posterior(means, time):
        return time, nets.Posterior(means[time], jnp.zeros(CONFIG.latent))

    # an encoder whose params are the posterior means themselves
    stub = nets.BeliefEncoder(
        CONFIG.latent,
        init=lambda key: 0.1 * jax.random.normal(key, (length + 1, CONFIG.latent)),
        start=lambda means: posterior(means, jnp.zeros((), jnp.int32)),
        update=lambda means, time, *transition: posterior(means, time + 1),
    )
    loss = inner.negative_elbo(stub, decoders, {"reward": 1.0}, kl_weight=0.01)
    params, steps = inner.ModelParams(stub.init(KEY), agent[1].model.decoders), trajectory(trial)

    @jax.jit
    def gradient(reward):
        other = steps.replace(reward=steps.reward.at[step].set(reward))
        return jax.grad(lambda params: loss(params, other, KEY)[0])(params).encoder

    assert (gradient(1.0) != gradient(-0.1)).any(-1).all()


def test_no_gradient_of_the_return_reaches_the_encoder(agent, trial):
    meta, params = agent
    loss = outer.trial_loss(meta.learner, rl.ratio, CONFIG.advantage(), value_weight=0.5, entropy_weight=0.1)
    gradient = jax.jit(jax.grad(lambda params: loss(params, trial)[0]))(params)
    assert all((leaf == 0.0).all() for leaf in jax.tree.leaves(gradient.model))
    assert any((leaf != 0.0).any() for leaf in jax.tree.leaves(gradient.policy))


def test_the_policy_is_trained_on_the_beliefs_of_collection(agent, trial):
    """A policy without memory on hyper-states says what the agent said; no scan is needed."""
    _, params = agent
    spec = inner.hyper_spec(GRID.env.spec, CONFIG.latent)
    assert spec.observation == (2 + 2 * CONFIG.latent,)
    network = nets.actor_critic(spec, CONFIG.hidden, CONFIG.activation, value=True)
    seen = jax.tree.map(lambda leaf: leaf[0], inner.hyper_trials(trial).rounds)
    said = jax.jit(lambda: unroll(inner.policy(network), params.policy, (), seen))()
    np.testing.assert_allclose(said.dist, trial.rounds.output.dist[0], atol=1e-6)


def test_decoders_of_transitions():
    spec = Spec(observation=(2,), action=Discrete(3), horizon=4)
    z, obs, action, reward = jnp.ones(2), jnp.ones((4, 2)), jnp.arange(4) % 3, jnp.arange(4.0)
    for decoder, target in (
        (nets.reward_decoder(spec, 2, (8,)), reward[:, None]),
        (nets.reward_decoder(spec, 2, (8,), from_transition=False), reward[:, None]),
        (nets.state_decoder(spec, 2, (8,)), 2.0 * obs),
    ):
        params = decoder.init(KEY)
        params = jax.tree.map(jnp.zeros_like, params)  # predicts zero
        likelihood = decoder.log_likelihood(params, z, obs, action, reward, 2.0 * obs)
        np.testing.assert_allclose(likelihood, -0.5 * np.square(target).sum(-1), rtol=1e-6)


def test_the_next_obs_reward_decoder_does_not_receive_the_action():
    spec = Spec(observation=(2,), action=Discrete(3), horizon=4)
    for from_transition in (True, False):
        decoder = nets.reward_decoder(spec, 2, (8,), from_transition)
        params = decoder.init(KEY)
        says = lambda action, decoder=decoder, params=params: decoder.log_likelihood(  # noqa: E731
            params, jnp.ones(2), jnp.ones((1, 2)), action, jnp.ones(1), jnp.ones((1, 2))
        )
        assert bool((says(jnp.array([0])) != says(jnp.array([2]))).all()) == from_transition


def test_streams_become_trajectories(agent):
    meta, params = agent
    run = jax.jit(lambda task: rollout(meta.learner, params, (), GRID.env, task, KEY, streams=2, episodes=EPISODES))
    experience = run(GRID.sample(KEY))
    both = inner.trajectories(jax.tree.map(lambda leaf: leaf[None], experience.replace(reset_key=())))
    assert both.next_obs.shape == (2, EPISODES * HORIZON, 2)
    np.testing.assert_array_equal(both.reward[1], experience.reward[:, 1])
