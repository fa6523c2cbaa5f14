"""The two phases of VariBAD's update: what each moves, and what the ring of trials holds."""

from __future__ import annotations

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxmeta as jm
from jaxmeta import outer, tasks
from jaxmeta.outer.variational import model_steps
from jaxmeta.rl import replay
from tests import tiny

GRID = tasks.grid_navigation(tasks.GridConfig(size=3, horizon=4, num_episodes=2))
CONFIG = dataclasses.replace(tiny.ALGOS["varibad"], episodes=2)


@functools.cache
def built(config):
    return jm.varibad(GRID, config)


def updated(config, updates=1, seed=0):
    meta = built(config)
    state = jm.init_state(meta, jax.random.key(seed))
    return jax.device_get(jm.train(meta, state, updates))


@pytest.fixture(scope="module")
def once():
    return updated(CONFIG)


def rows(state, family=GRID):
    """What the ring holds, [C, T, ...]."""
    from jax.flatten_util import ravel_pytree

    unflatten = ravel_pytree(outer.example_trajectory(family, CONFIG.plan(family)))[1]
    # the first of every ring before the second of any
    kept = jnp.swapaxes(jnp.asarray(state.source["trials"].rows), 0, 1)
    return jax.vmap(unflatten)(kept.reshape(-1, kept.shape[-1]))


def test_the_ring_holds_whole_trials_with_rewards_as_paid(once):
    held = rows(once)
    np.testing.assert_array_equal(once.source["trials"].written, [2, 2])
    assert set(np.unique(np.round(held.reward[:4], 3))) <= {np.float32(-0.1), np.float32(1.0)}
    np.testing.assert_array_equal(held.reward[4:], 0.0)
    np.testing.assert_array_equal(held.valid[:4], 1.0)
    assert jnp.issubdtype(held.action.dtype, jnp.integer) and held.action.max() < 5
    # each step begins where the one before it led to, but for the two begins of an episode
    np.testing.assert_array_equal(held.obs[:4, [1, 2, 3, 5, 6, 7]], held.next_obs[:4, [0, 1, 2, 4, 5, 6]])
    np.testing.assert_array_equal(held.obs[:4, [0, 4]], 0.0)


def test_the_oldest_trials_are_overwritten():
    state = updated(CONFIG, updates=3)
    np.testing.assert_array_equal(state.source["trials"].written, [6, 6])
    assert state.source["trials"].rows.shape[:2] == (2, 4)
    assert (rows(state).valid == 1.0).all()


def test_value_scale_does_not_change_the_model(once):
    """Discount, units of values and the policy's step size change the policy, and the model not by one bit."""
    ppo = dataclasses.replace(tiny.PPO, learning_rate=0.1, value_weight=3.0)
    other = updated(dataclasses.replace(CONFIG, discount=0.5, ppo=ppo))
    chex.assert_trees_all_equal(other.params.model, once.params.model)
    moved = jax.tree.map(lambda one, two: (one != two).any(), other.params.policy, once.params.policy)
    assert any(jax.tree.leaves(moved))


def test_model_training_does_not_change_the_policy_in_the_same_update(once):
    other = updated(dataclasses.replace(CONFIG, vae=dataclasses.replace(tiny.VAE, learning_rate=0.1)))
    chex.assert_trees_all_equal(other.params.policy, once.params.policy)
    for before, after in zip(*map(jax.tree.leaves, (once.params.model, other.params.model)), strict=True):
        assert (before != after).any()


@pytest.mark.slow
def test_an_update_does_not_depend_on_the_number_of_devices():
    states = []
    meta = jm.varibad(GRID, CONFIG)
    for devices in (1, 2):
        execution = jm.Execution(devices)
        assert execution.mesh(meta.info.spread).size == devices
        start = jm.init_state(meta, jax.random.key(0), execution=execution)
        states.append(jax.device_get(jm.train(meta, start, 2, execution=execution)))
    one, two = states
    chex.assert_trees_all_equal(one.source["trials"].written, two.source["trials"].written)
    np.testing.assert_allclose(one.source["trials"].rows, two.source["trials"].rows, atol=1e-6)
    chex.assert_trees_all_close(one.params, two.params, atol=2e-4)


# the schedule is that of every optimiser, which tests/outer/test_policy_gradient.py looks at
@pytest.mark.slow
def test_the_step_size_of_the_model_falls_to_zero():
    config = dataclasses.replace(CONFIG, vae=dataclasses.replace(tiny.VAE, anneal_over=2))
    two, three = updated(config, updates=2), updated(config, updates=3)
    chex.assert_trees_all_equal(two.params.model, three.params.model)
    moved = jax.tree.map(lambda one, other: (one != other).any(), two.params.policy, three.params.policy)
    assert any(jax.tree.leaves(moved))


def test_the_ring_must_hold_an_update():
    config = dataclasses.replace(CONFIG, vae=dataclasses.replace(tiny.VAE, capacity=3))
    with pytest.raises(ValueError, match="capacity is 3; the ring must hold the 4 trials of an update"):
        jm.varibad(GRID, config)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"reward_weight": 0.0}, "reward_weight and state_weight are 0"),
        ({"action_embedding": 0, "reward_embedding": 0, "obs_embedding": 0}, "the encoder has no input"),
        ({"latent": 0}, "latent is 0; it must be at least 1"),
        ({"kl_weight": -1.0}, "kl_weight is -1.0; it must not be negative"),
        ({"decoder_hidden": (0,)}, r"decoder_hidden is \(0,\); a layer needs at least 1 unit"),
    ],
)
def test_configs_without_anything_to_learn_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        jm.VariBADConfig(**fields)


def test_cell_decoder_needs_a_grid_of_cells():
    config = dataclasses.replace(CONFIG, reward_decoder="cells")
    with pytest.raises(ValueError, match="reward_decoder is 'cells'; that needs tasks on a grid"):
        jm.varibad(tasks.bandit(), config)


def learned_mean(valid):
    """What a model of one number learns from one ring for each row of `valid`; rewards are all 3 where they count."""
    from jax.flatten_util import ravel_pytree

    strata, _ = valid.shape
    example = jax.tree.map(lambda leaf: leaf[0], rows_of(jnp.zeros((1, 3))))
    config = outer.VariationalConfig(steps=200, batch_size=4, capacity=4)

    def loss(mean, one, key):
        return jnp.mean((one.reward - mean) ** 2), {"loss": jnp.zeros(())}

    improve = outer.descend(loss, optax.adam(0.1), minibatches=model_steps(example, config, strata))
    fresh = jax.vmap(lambda one: ravel_pytree(one)[0])(rows_of(jnp.full((2, 3), 3.0)))
    empty = replay.empty_rings(strata, 4 // strata, fresh.shape[1])
    kept = replay.write(empty, jnp.arange(strata), jnp.stack([fresh] * strata), valid)
    batch = outer.Batch(((), {"trials": kept}), jax.random.split(jax.random.key(0), strata), jnp.ones(strata))
    params = jnp.zeros(())
    return jax.jit(improve.step)(params, improve.init(params), batch, 0)[0]


def test_the_model_learns_the_mean_reward_of_the_ring():
    """A model of one number learns the mean reward of the trials in the ring."""
    np.testing.assert_allclose(learned_mean(jnp.ones((1, 2))), 3.0, atol=0.05)


def test_an_empty_ring_is_not_learned_from():
    """All trials of one stratum were non-finite: the mean is that of the other."""
    np.testing.assert_allclose(learned_mean(jnp.array([[0.0, 0.0], [1.0, 1.0]])), 3.0, atol=0.05)


def rows_of(reward):
    from jaxmeta import rl

    return rl.Trajectory(reward[..., None], reward.astype(jnp.int32), reward, reward[..., None], jnp.ones_like(reward))


def test_weights_reach_the_loss(monkeypatch):
    import importlib

    given = []
    recipe = importlib.import_module("jaxmeta.algos.inference.varibad")
    monkeypatch.setattr(recipe.inner, "negative_elbo", lambda *rest: given.append(rest))
    jm.varibad(GRID, dataclasses.replace(CONFIG, reward_weight=2.0, state_weight=3.0, kl_weight=0.7))
    ((_, decoders, weights, kl_weight),) = given
    assert decoders.keys() == {"reward", "state"} and weights == {"reward": 2.0, "state": 3.0} and kl_weight == 0.7


def test_fields_without_effect_are_refused():
    with pytest.raises(ValueError, match="reward_decoder is 'cells', but reward_weight is 0"):
        dataclasses.replace(CONFIG, reward_decoder="cells", reward_weight=0.0, state_weight=1.0)
    with pytest.raises(ValueError, match=r"rounds is 0; the KL penalty is for rounds before the last"):
        outer.with_kl_penalty(None, None, 0, outer.PenalisedConfig())
