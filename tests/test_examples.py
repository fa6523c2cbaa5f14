"""MAML in one file is the same algorithm as the engine's."""

from __future__ import annotations

import importlib.util
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import jaxmeta as jm
from jaxmeta import inner, nets, outer, rl, tasks

PATH = pathlib.Path(__file__).parent.parent / "examples" / "maml_in_one_file.py"
spec = importlib.util.spec_from_file_location(PATH.stem, PATH)
example = importlib.util.module_from_spec(spec)
spec.loader.exec_module(example)

FAMILY = tasks.navigation(tasks.NavigationConfig(horizon=16))
ADVANTAGE = rl.linear_baseline(discount=example.DISCOUNT)


@pytest.fixture(scope="module")
def engine():
    """A learner, its params, moved so that actions depend on positions, and trials [N, ...] of it."""
    policy = inner.memory(nets.actor_critic(FAMILY.env.spec, (5, 4), init_log_std=-1.0))
    learner = inner.gradient(policy, rl.ratio, inner.sgd(example.INNER_LR), ADVANTAGE)
    params = learner.init(jax.random.key(0))
    keys = iter(jax.random.split(jax.random.key(1), 20))
    params = jax.tree.map(lambda leaf: leaf + 0.3 * jax.random.normal(next(keys), leaf.shape), params)
    plan = jm.Plan(rounds=1, streams=8)

    def one(key):
        task_key, key = jax.random.split(key)
        # one longest move away, so that some episodes end before the horizon
        task = jax.tree.map(lambda leaf: 0.1 * jnp.sign(leaf), FAMILY.sample(task_key))
        return jm.collect(learner, params, FAMILY.env, task, key, plan)

    return learner, params, jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(3), 3))


def params_of(params):
    """Lays the engine's params, or a gradient, out as the example does."""
    tree = params.policy["params"]
    layers = [*(tree["MLP_0"][f"Dense_{index}"] for index in range(2)), tree["_ActionHead_0"]["Dense_0"]]
    pairs = [(layer["kernel"], layer["bias"]) for layer in layers]
    return {"layers": pairs, "log_std": tree["_ActionHead_0"]["log_std"]}


def trials_of(trials):
    """Lays the engine's trials out as the example does."""

    def rollout(index):
        data = jax.tree.map(lambda leaf: leaf[:, index], trials.rounds)
        dist = example.Gaussian(data.output.dist.loc, data.output.dist.log_scale)
        return example.Rollout(data.inputs.obs, data.action, dist, data.reward, data.valid)

    return example.Trial(rollout(0), rollout(1))


def test_meta_gradient_is_that_of_the_engine(engine):
    learner, params, trials = engine
    assert 0.0 < float(trials.rounds.valid.mean()) < 1.0  # episodes end early, so masks matter
    loss = outer.meta_loss(learner, rl.ratio, ADVANTAGE)
    value, gradient = jax.jit(jax.value_and_grad(loss))(params, trials)
    ours, own = jax.jit(jax.value_and_grad(example.meta_loss))(params_of(params), trials_of(trials))
    gradient, own = (np.asarray(ravel_pytree(tree)[0]) for tree in (params_of(gradient), own))
    np.testing.assert_allclose(ours, value, atol=1e-5)
    assert np.linalg.norm(own - gradient) <= 1e-5 * np.linalg.norm(gradient)


def test_the_tolerance_tells_second_order_from_first(engine):
    learner, params, trials = engine
    first_order = inner.gradient(
        inner.memory(nets.actor_critic(FAMILY.env.spec, (5, 4))),
        rl.ratio,
        inner.first_order(inner.sgd(example.INNER_LR)),
        ADVANTAGE,
    )
    exact, other = (
        np.asarray(ravel_pytree(jax.jit(jax.grad(outer.meta_loss(one, rl.ratio, ADVANTAGE)))(params, trials))[0])
        for one in (learner, first_order)
    )
    assert np.linalg.norm(other - exact) > 1e-3 * np.linalg.norm(exact)


def test_the_environment_is_that_of_the_package():
    task = FAMILY.sample(jax.random.key(0))
    state, _ = FAMILY.env.reset(jax.random.key(1), task)
    state = state.replace(position=task.goal - jnp.array([0.15, 0.0]))
    position = state.position
    for action in jnp.array([[0.3, -0.02], [0.045, 0.005], [0.0, 0.02]]):
        state, step = FAMILY.env.step(jax.random.key(2), state, action, task)
        position, reward, arrived = example.env_step(position, action, task.goal)
        np.testing.assert_array_equal(position, step.obs)
        np.testing.assert_allclose(reward, step.reward, rtol=1e-6)
        assert arrived == step.terminated
    assert arrived


def test_an_update_lowers_the_loss_within_the_trust_region(engine):
    _, params, trials = engine
    params, trials = params_of(params), trials_of(trials)

    @jax.jit
    def update(params):
        after = example.trpo_step(params, trials)
        adapted = jax.vmap(lambda trial: example.policy(example.adapt(after, trial.before), trial.after.obs))(trials)
        kl = jax.vmap(example.masked_mean)(trials.after.dist.kl(adapted), trials.after.valid).mean()
        return example.meta_loss(params, trials), example.meta_loss(after, trials), kl

    before, after, kl = update(params)
    assert after < before
    assert 0.25 * example.MAX_KL < kl <= 1.001 * example.MAX_KL


def test_it_prints_returns_before_and_after_the_gradient_step(capsys):
    example.main(num_updates=1, num_tasks=2, episodes=5, horizon=3)
    line, *others = capsys.readouterr().out.splitlines()
    assert line.startswith("update   0: return") and "after a gradient step" in line and not others


@pytest.mark.slow
def test_it_learns_to_adapt():
    params = example.main(num_updates=40)
    goals = jax.vmap(lambda key: FAMILY.sample_test(key).goal)(jax.random.split(jax.random.key(1), 40))
    keys = jax.random.split(jax.random.key(2), 40)
    trials = jax.jit(jax.vmap(lambda goal, key: example.collect(params, goal, key, 20, 100)))(goals, keys)
    before, after = (float(data.reward.sum(1).mean()) for data in trials)
    assert after > before + 10.0
