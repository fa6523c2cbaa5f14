"""Tasks that only an adapting agent can solve, small enough to learn in a test."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest

import jaxmeta as jm
from jaxmeta import outer, tasks


def coin_bandit():
    """One of two arms always pays, the other never: one pull tells which."""

    def sample(key):
        return tasks.BanditTask(probability=jnp.eye(2)[jax.random.randint(key, (), 0, 2)])

    family = tasks.bandit(tasks.BanditConfig(num_arms=2, num_pulls=3))
    return family._replace(sample=sample, sample_test=sample)


def test_rl2_remembers_which_arm_pays():
    family = coin_bandit()
    ppo = outer.ActorCriticConfig(learning_rate=1e-2, epochs=4, minibatches=2, value_weight=0.5, entropy_weight=0.01)
    meta = jm.rl2(family, jm.RL2Config(num_tasks=128, hidden=16, ppo=ppo))
    state = jm.train(meta, jm.init_state(meta, jax.random.key(0)), 40, chunk=20)
    task = jax.vmap(family.sample_test)(jax.random.split(jax.random.key(1), 512))
    report = jm.evaluate(meta.learner, state.params, family.env, task, jax.random.key(2), meta.plan)
    first, second, third = (episode["mean"] for episode in report.by_round_and_episode()[0])
    # without a look at the task nobody does better than chance at the first pull
    assert 0.4 < first < 0.6
    assert second > 0.9 and third > 0.9


@pytest.mark.slow
def test_ppo_solves_the_probe_only_with_the_task_revealed():
    """Without memory no policy is right more often than by chance, unless it sees which arm pays."""
    family = coin_bandit()
    optimiser = outer.ActorCriticConfig(learning_rate=1e-2, epochs=4, value_weight=0.5, entropy_weight=0.01)
    config = jm.PPOConfig(num_tasks=32, streams=4, hidden=(8,), ppo=optimiser)
    returns = {}
    for name, shown in (("multi-task", family), ("oracle", tasks.reveal(family))):
        meta = jm.ppo(shown, config)
        state = jm.train(meta, jm.init_state(meta, jax.random.key(0)), 40, chunk=20)
        task = jax.vmap(shown.sample_test)(jax.random.split(jax.random.key(1), 256))
        report = jm.evaluate(meta.learner, state.params, shown.env, task, jax.random.key(2), meta.plan)
        returns[name] = report.by_round_and_episode()[0][0]["mean"]
    assert 0.4 < returns["multi-task"] < 0.6
    assert returns["oracle"] > 0.95


def test_maml_learns_to_adapt_to_a_hidden_goal():
    """Goals are symmetric around the start: a policy that does not adapt can gain nothing."""
    family = tasks.navigation(tasks.NavigationConfig(horizon=10))
    config = jm.MAMLConfig(
        num_tasks=8, streams=10, hidden=(16,), init_log_std=-1.5, trpo=outer.TrustRegionConfig(max_kl=0.05)
    )
    meta = jm.maml(family, config)
    state = jm.train(meta, jm.init_state(meta, jax.random.key(0)), 20, chunk=20)
    task = jax.vmap(family.sample_test)(jax.random.split(jax.random.key(1), 64))
    report = jm.evaluate(meta.learner, state.params, family.env, task, jax.random.key(2), meta.plan)
    low, _ = report.gain()["ci95"]
    assert low > 0.2
