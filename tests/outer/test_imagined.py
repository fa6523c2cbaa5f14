"""MB-MPO: imagined tasks, and meta-training in them."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxmeta as jm
from jaxmeta import inner, nets, outer, rl, tasks
from jaxmeta.core.train import init_state, make_chunk
from jaxmeta.types import Plan
from tests import tiny

FAMILY = tiny.family()
SPEC = FAMILY.env.spec
REWARDED = FAMILY._replace(planning_reward=lambda obs, action, after: -jnp.sum(jnp.square(after)))


def drifting():
    """A model that moves every number of the observation by its only param, whatever the action."""
    return nets.Dynamics(
        inputs=4,
        outputs=2,
        init=lambda key: jnp.zeros(()),
        apply=lambda drift, x: nets.Prediction(
            jnp.broadcast_to(drift, (*x.shape[:-1], 2)), jnp.zeros((*x.shape[:-1], 2))
        ),
        penalty=lambda drift: jnp.zeros(()),
        probabilistic=False,
    )


def imagined(drifts):
    statistics = rl.dynamics_statistics(4, 2)
    imagine = inner.imagined_step(SPEC, drifting(), REWARDED.planning_reward)
    return tasks.imagined(REWARDED, imagine, jnp.array(drifts), statistics)


def test_an_imagined_episode_follows_the_model_that_is_its_task():
    family = imagined([0.1, 0.3])
    sampled = jax.vmap(family.sample)(jax.random.split(jax.random.key(0), 20))
    assert set(np.asarray(sampled.index)) == {0, 1}
    np.testing.assert_allclose(sampled.model, np.array([0.1, 0.3])[sampled.index], rtol=1e-6)
    task = jax.tree.map(lambda leaf: leaf[0], sampled)
    state, obs = family.env.reset(jax.random.key(1), task)
    np.testing.assert_array_equal(obs, jnp.zeros(2))  # where real episodes start
    for time in range(1, 4):
        state, step = family.env.step(jax.random.key(time), state, jnp.ones(2), task)
        np.testing.assert_allclose(step.obs, time * task.model * jnp.ones(2), rtol=1e-5)
        np.testing.assert_allclose(step.reward, -2.0 * (time * task.model) ** 2, rtol=1e-5)
    assert not family.env.spec.terminates


def test_the_imagined_family_is_a_task_family():
    jm.testing.check_env(imagined([0.1, 0.3]), num_steps=2)


@pytest.mark.slow
def test_only_real_steps_count_and_both_returns_are_logged():
    meta, config = tiny.algo("mb-mpo"), tiny.ALGOS["mb-mpo"]
    _, metrics = jax.device_get(make_chunk(meta, 3)(init_state(meta, jax.random.key(0)), 3))
    assert (metrics["env_steps"] <= config.real_trials * SPEC.horizon).all()
    for name in ("return/last", "imagined/return/first", "imagined/return/last"):
        assert np.isfinite(metrics[name]).all()
    # in the last round of imagined trials agents have adapted; imagined episodes do not end early
    assert metrics["imagined/env_steps"][0] == config.num_tasks * 2 * config.streams * SPEC.horizon


def test_before_the_first_fit_agents_do_not_adapt_in_imagination():
    meta = tiny.algo("mb-mpo")
    params = meta.learner.init(jax.random.key(0))
    start = jax.jit(collecting(meta).start)
    jax.tree.map(np.testing.assert_array_equal, start(params, jax.random.key(1)).policy, params.policy.policy)
    statistics = params.model.statistics.replace(count=jnp.float32(1.0))
    fitted = params.replace(model=params.model.replace(statistics=statistics))
    adapted = start(fitted, jax.random.key(1)).policy
    moved = jax.tree.map(lambda new, old: float(jnp.abs(new - old).max()), adapted, params.policy.policy)
    assert max(jax.tree.leaves(moved)) > 0


def collecting(meta):
    """Builds the agent that collects, as the recipe does, with a reward that the models predict."""
    family = tiny.family()
    model = nets.gaussian_dynamics(4, 3, tiny.ALGOS["mb-mpo"].model_hidden)
    imagine = inner.imagined_step(SPEC, model, None)
    imagined = lambda params: tasks.imagined(family, imagine, params.model.model, params.model.statistics)  # noqa: E731
    return inner.after_imagining(meta.learner, imagined, meta.plan)


def test_the_policy_improves_in_a_model_where_an_action_pays():
    """One imagined family whose reward is the action: its policy gradient must raise the mean action."""
    policy = inner.policy(nets.actor_critic(SPEC, (4,)))
    advantage = rl.linear_baseline()
    learner = inner.gradient(policy, rl.ratio, inner.sgd(0.1), advantage)
    paid = REWARDED._replace(planning_reward=lambda obs, action, after: jnp.sum(action))
    imagine = inner.imagined_step(SPEC, drifting(), paid.planning_reward)
    statistics = rl.dynamics_statistics(4, 2)
    family = lambda models: tasks.imagined(paid, imagine, models, statistics)  # noqa: E731
    plan = Plan(rounds=1, streams=5)
    improve = outer.policy_gradient(learner, advantage, outer.PolicyGradientConfig(learning_rate=0.01, minibatches=1))
    nothing = outer.Improve(lambda params: (), lambda params, opt_state, batch, updates: (params, opt_state, {}))
    imagining = outer.in_imagination(learner, plan, family, nothing, improve, steps=10, num_tasks=2)
    params = inner.ImaginingParams(learner.init(jax.random.key(0)), jnp.array([0.0, 0.1]))
    batch = outer.Batch((), jax.random.split(jax.random.key(1), 2), jnp.ones(2))
    step = jax.jit(lambda params, state: imagining.step(params, state, batch, jnp.int32(0)))
    after, _, metrics = step(params, imagining.init(params))

    def mean_action(params):
        inputs = SPEC.example_input()
        return float(policy.act(params.policy.policy, (), (), inputs)[1].dist.loc.sum())

    assert mean_action(after) > mean_action(params) + 0.01
    np.testing.assert_array_equal(after.model, params.model)
    assert "imagined/return/last" in metrics


def test_sizes_that_do_not_divide_are_named():
    with pytest.raises(ValueError, match="num_tasks is 3; it must be a multiple of real_trials, 2"):
        jm.MBMPOConfig(num_tasks=3, real_trials=2)
