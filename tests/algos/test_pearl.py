"""What PEARL and SAC learn, and how they are judged."""

from __future__ import annotations

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxmeta as jm
from jaxmeta import outer, tasks
from jaxmeta.core.rollout import replay_fast
from jaxmeta.types import Continuous, Spec, Step
from tests import tiny


@dataclasses.dataclass(frozen=True)
class Aim:
    """One action, paid by how near it comes to a place that the observation does not tell: -(a - task)²."""

    @property
    def spec(self):
        return Spec((1,), Continuous(1), horizon=1, terminates=True)

    def reset(self, key, task):
        return jnp.zeros(()), jnp.zeros(1)

    def step(self, key, state, action, task):
        return state, Step(obs=jnp.zeros(1), reward=-jnp.square(action[0] - task), terminated=jnp.array(True))


def aims(*places):
    """A family of some places, all of which are trained and tested."""
    every = jnp.array(places)

    def sample(key):
        return every[jax.random.randint(key, (), 0, len(places))]

    return tasks.TaskFamily(Aim(), sample, sample, lambda task: task[None], train_tasks=every)


FAST = outer.OffPolicyConfig(
    learning_rate=3e-3, gradient_steps=50, meta_batch=2, batch_size=32, target_rate=0.05, temperature=0.02
)
SAC = jm.SACConfig(tasks_per_update=2, streams=8, hidden=(32,), sac=FAST)


def trained(make, family, config, updates=12):
    """Trains, and returns a function (tasks [N]) -> returns [N, R + 1, E, K]."""
    meta = make(family, config)
    state = jm.train(meta, jm.init_state(meta, jax.random.key(0)), updates, chunk=updates)
    return lambda task: np.asarray(
        jm.evaluate(meta.learner, state.params, family.env, task, jax.random.key(1), meta.plan).returns
    )


@pytest.mark.parametrize("temperature", [0.02, None], ids=["fixed", "learned"])
def test_sac_finds_the_best_action(temperature):
    config = dataclasses.replace(SAC, sac=dataclasses.replace(FAST, temperature=temperature))
    returns = trained(jm.sac, aims(0.3), config)(jnp.full(1, 0.3))
    assert returns.mean() > -0.01


@pytest.mark.slow
def test_sac_solves_opposite_tasks_only_with_the_task_revealed():
    """Told nothing, the best for both places is the middle, half a unit from each."""
    places = jnp.array([0.5, -0.5])
    told = trained(jm.sac, tasks.reveal(aims(0.5, -0.5)), SAC)(places)
    assert told.min() > -0.02
    untold = trained(jm.sac, aims(0.5, -0.5), SAC)(places)
    np.testing.assert_allclose(untold.mean(), -0.25, atol=0.05)


def test_pearl_infers_which_of_two_opposite_tasks_it_is_on():
    """No agent that knows nothing gets more than -0.25; the one with z from the belief after four episodes knows."""
    config = jm.PEARLConfig(
        tasks_per_update=2,
        streams=8,
        latent=2,
        hidden=(32,),
        encoder_hidden=(32,),
        context_batch=8,
        prior_episodes=4,
        episodes=5,
        # noise, for the middle between the places tells nothing about them
        sac=dataclasses.replace(FAST, temperature=0.1, reward_scale=10.0, kl_weight=0.01),
    )
    returns = trained(jm.pearl, aims(0.5, -0.5), config, updates=40)(jnp.tile(jnp.array([0.5, -0.5]), 50))
    *early, last = returns[:, :, 0, 0].mean(0)
    assert last > -0.1
    assert max(early) < -0.2


def test_evaluation_has_the_requested_episodes_and_starts_from_the_prior():
    """The belief of the first episodes is not used, whatever was seen; later ones use all that was seen before."""
    config = dataclasses.replace(tiny.ALGOS["pearl"], prior_episodes=2, episodes=4)
    meta, family = jm.pearl(tiny.family(), config), tiny.family()
    params = meta.learner.init(jax.random.key(0))
    trial = jax.jit(lambda key: jm.collect(meta.learner, params, family.env, family.sample(key), key, meta.plan))(
        jax.random.key(1)
    )
    assert trial.rounds.reward.shape == (4, 4, 1)
    fast = replay_fast(meta.learner, params, trial)
    key = jax.random.key(2)
    z = jax.vmap(lambda fast: meta.learner.reset(params, fast, key))(fast)
    prior = jax.random.normal(key, (2,))
    np.testing.assert_allclose(z[:2], jnp.stack([prior, prior]), rtol=1e-6)
    assert np.abs(z[2] - prior).max() > 0.05
    counts = np.cumsum([0, *trial.rounds.valid.sum((1, 2))[:-1]])
    np.testing.assert_array_equal(fast.evidence.count, counts)
    # the belief narrows with what it is told
    assert (fast.evidence.precision[2] > fast.evidence.precision[1]).all()


def test_evaluation_is_deterministic_by_default():
    meta = tiny.algo("pearl")
    output = jm.types.Output(dist=jm.nets.Gaussian(jnp.array([0.3, -2.0]), jnp.zeros(2)), value=jnp.zeros(()))
    for key in jax.random.split(jax.random.key(0), 3):
        # in the box that the environment's moves are clipped to
        np.testing.assert_allclose(meta.learner.head(output).sample(seed=key), 0.1 * np.tanh([0.3, -2.0]), rtol=1e-6)


def test_evaluation_needs_only_params_and_held_out_tasks():
    """Meta-testing has no replay to read: it is handed learner, params and tasks, and nothing of the train state."""
    family = tasks.finite(tiny.family(), num_train=4, num_test=3, key=jax.random.key(0))
    meta = tiny.algo("pearl", family)
    state = jm.init_state(meta, jax.random.key(0))
    assert (state.source["transitions"].written == 0).all()
    held_out = jax.vmap(family.sample_test)(jax.random.split(jax.random.key(1), 6))

    def judged(state):
        run = jm.evaluate(meta.learner, state.params, family.env, held_out, jax.random.key(2), meta.plan)
        return jax.device_get(run)

    before = judged(state)
    assert before.returns.shape == (6, 3, 1, 1) and np.isfinite(before.returns).all()
    state = jm.train(meta, state, 3)
    known = np.asarray(state.sampler[0].goal)
    assert not any((goal == known).all(1).any() for goal in np.asarray(held_out.goal))
    sampler, source = jax.tree.map(jnp.zeros_like, (state.sampler, state.source))
    forgetful = state.replace(sampler=sampler, source=source)
    chex.assert_trees_all_equal(judged(state), judged(forgetful))
    assert np.abs(judged(state).returns - before.returns).max() > 0
