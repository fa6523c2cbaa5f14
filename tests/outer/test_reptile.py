from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxmeta as jm
from jaxmeta import outer, rl
from jaxmeta.core.rollout import collect
from tests import tiny

FAMILY = tiny.family()


def flat(tree):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


def update_and_trials(num_tasks, step_size):
    """One update of Reptile with a single inner step, and the trials that it saw."""
    config = jm.ReptileConfig(
        num_tasks=num_tasks, streams=4, hidden=(4,), rounds=0, inner_lr=0.5, outer=outer.ReptileConfig(step_size)
    )
    meta = jm.reptile(FAMILY, config)
    state = meta.init(jax.random.key(0))
    after, metrics = jax.jit(meta.update)(state)
    task_keys, collect_keys, _ = tiny.keys_of(state, num_tasks)
    tasks = jax.vmap(FAMILY.sample)(task_keys)
    run = jax.vmap(lambda task, key: collect(meta.learner, state.params, FAMILY.env, task, key, meta.plan))
    trials = jax.jit(run)(tasks, collect_keys)
    last = trials.rounds.reward[:, -1].sum(1).mean()
    np.testing.assert_allclose(metrics["return/last"], last, rtol=1e-5)
    return meta, state.params, after.params, trials


@pytest.mark.parametrize(("num_tasks", "step_size"), [(2, 0.1), (1, 1.0)])
def test_one_inner_step_is_descent_on_the_mean_loss(num_tasks, step_size):
    """θ moves by ε α of the plain policy gradient; with one task and ε = 1 it is that task's adapted params."""
    meta, before, after, trials = update_and_trials(num_tasks, step_size)
    loss = outer.meta_loss(meta.learner, rl.ratio, rl.linear_baseline())
    # the outer loss is per step of the horizon, the inner one per valid step: here no episode ends early
    assert jnp.all(trials.rounds.valid == 1.0)
    gradient = jax.jit(jax.grad(loss))(before, trials)
    np.testing.assert_allclose(flat(after) - flat(before), -step_size * 0.5 * flat(gradient), rtol=2e-3, atol=1e-6)
    assert np.abs(flat(after) - flat(before)).max() > 1e-3


def test_log_has_the_share_of_clipped_steps_and_no_masked_tasks():
    config = jm.ReptileConfig(num_tasks=2, streams=4, hidden=(4,), rounds=1, max_inner_step=1e-3)
    meta = jm.reptile(FAMILY, config)
    _, metrics = jax.jit(meta.update)(jm.init_state(meta, jax.random.key(0)))
    assert (metrics["bounded_steps"], metrics["nonfinite_tasks"]) == (1.0, 0.0)
    assert 0.0 < metrics["grad_norm"] <= 2.001e-3  # two steps of that length; tasks go their own ways


def test_a_task_whose_adaptation_is_not_finite_is_left_out_and_counted():
    """Where the last step alone overflows, the trial itself is finite."""
    agent, plan = tiny.algo("reptile").learner, jm.Plan(rounds=1, streams=3)
    end = outer.after_last_round(agent, lambda params, fast: params.replace(policy=fast.policy))
    source, info = outer.fresh(agent, FAMILY, plan), outer.Info(2, plan, spread=2)

    def build(adapted):
        improve = outer.reptile(adapted, outer.ReptileConfig(1.0))
        return outer.meta_update(agent, plan, outer.uniform(FAMILY), source, improve, info)

    start = build(end).init(jax.random.key(0))
    _, _, keys = tiny.keys_of(start, 2)

    def spoiled(params, trial, key):
        spoil = jnp.all(jax.random.key_data(key) == jax.random.key_data(keys[0]))
        there, metrics = end(params, trial, key)
        return jax.tree.map(lambda leaf: jnp.where(spoil, jnp.inf, leaf), there), metrics

    def alone(params, trial, key):
        """The spoiled task stays where it is, so that the mean goes half of the way of the other."""
        spoil = jnp.all(jax.random.key_data(key) == jax.random.key_data(keys[0]))
        there, metrics = end(params, trial, key)
        return jax.tree.map(lambda leaf, begin: jnp.where(spoil, begin, leaf), there, params), metrics

    after, metrics = jax.jit(build(spoiled).update)(start)
    half, _ = jax.jit(build(alone).update)(start)
    way = 2.0 * (flat(half.params) - flat(start.params))
    assert np.abs(way).max() > 1e-3
    np.testing.assert_allclose(flat(after.params) - flat(start.params), way, rtol=1e-4, atol=1e-6)
    assert metrics["nonfinite_tasks"] == 1.0


def test_step_size_must_be_positive():
    with pytest.raises(ValueError, match="step_size is 0.0; it must be positive"):
        outer.ReptileConfig(step_size=0.0)
