"""MAML's gradients on a real environment: what the inner loop contributes, and that nothing makes them NaN."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxmeta as jm
from jaxmeta import inner, outer, rl
from jaxmeta.core.rollout import collect, replay_fast
from tests import tiny

ADVANTAGE = rl.linear_baseline(0.99, 1.0)
CONFIG = jm.MAMLConfig(num_tasks=2, streams=16, hidden=(8,), inner_lr=0.5)


def gradient_of(config, trials=None):
    """Returns the meta-gradient over two tasks, and what it was computed from."""
    family = tiny.family()
    meta = jm.maml(family, config)
    params = meta.learner.init(jax.random.key(0))
    if trials is None:
        tasks = jax.vmap(family.sample)(jax.random.split(jax.random.key(1), 2))
        keys = jax.random.split(jax.random.key(2), 2)
        run = jax.vmap(lambda task, key: collect(meta.learner, params, family.env, task, key, meta.plan))
        trials = jax.jit(run)(tasks, keys)
    loss = outer.meta_loss(meta.learner, rl.ratio, ADVANTAGE)
    return jax.jit(jax.grad(loss))(params, trials), meta, params, trials


@pytest.fixture(scope="module")
def second_order():
    return gradient_of(CONFIG)


def flat(tree):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


def test_meta_gradient_agrees_with_finite_differences(second_order):
    gradient, meta, params, trials = second_order
    loss = outer.meta_loss(meta.learner, rl.ratio, ADVANTAGE)
    direction = jax.tree.map(lambda leaf: jax.random.normal(jax.random.key(leaf.size), leaf.shape), params)
    move = jax.jit(lambda size: loss(jax.tree.map(lambda p, d: p + size * d, params, direction), trials))
    difference = (move(1e-2) - move(-1e-2)) / 2e-2
    np.testing.assert_allclose(flat(gradient) @ flat(direction), difference, rtol=2e-2)


def test_first_order_is_the_gradient_at_the_adapted_params(second_order):
    gradient, _, params, trials = second_order
    config = dataclasses.replace(CONFIG, backward="first-order")
    first, meta, *_ = gradient_of(config, trials)
    assert np.abs(flat(first) - flat(gradient)).max() > 1e-4
    plain = outer.meta_loss(inner.policy(_network()), rl.ratio, ADVANTAGE)

    def of_one_task(trial):
        adapted = jax.tree.map(lambda leaf: leaf[-1], replay_fast(meta.learner, params, trial)).policy
        last = jax.tree.map(lambda leaf: leaf[None, -1:], trial.rounds)
        no_rounds = trial.replace(rounds=last, start_key=trial.start_key[None], adapt_keys=trial.adapt_keys[None, :0])
        return jax.grad(plain)(adapted, no_rounds)

    per_task = jax.jit(lambda trials: jax.lax.map(of_one_task, trials))(trials)
    np.testing.assert_allclose(
        flat(first), flat(jax.tree.map(lambda leaf: np.mean(leaf, 0), per_task)), rtol=1e-3, atol=1e-5
    )


def test_a_zero_step_gives_the_plain_policy_gradient():
    gradient, _, params, trials = gradient_of(dataclasses.replace(CONFIG, inner_lr=0.0))
    plain = outer.meta_loss(inner.policy(_network()), rl.ratio, ADVANTAGE)
    last = trials.replace(
        rounds=jax.tree.map(lambda leaf: leaf[:, -1:], trials.rounds), adapt_keys=trials.adapt_keys[:, :0]
    )
    np.testing.assert_allclose(
        flat(gradient), flat(jax.jit(jax.grad(plain))(params.policy, last)), rtol=1e-3, atol=1e-5
    )


@pytest.mark.parametrize("objective", ["ratio", "log_prob", "dice"])
def test_meta_gradient_is_finite_when_all_rewards_are_zero(second_order, objective):
    _, _, _, trials = second_order
    silent = trials.replace(rounds=trials.rounds.replace(reward=jnp.zeros_like(trials.rounds.reward)))
    gradient, *_ = gradient_of(dataclasses.replace(CONFIG, inner_objective=objective), silent)
    np.testing.assert_allclose(flat(gradient), 0.0, atol=1e-6)


def test_adaptation_of_a_task_does_not_depend_on_other_tasks(second_order):
    _, meta, params, trials = second_order
    adapt = jax.jit(jax.vmap(lambda trial: replay_fast(meta.learner, params, trial).policy))
    other = trials.replace(
        rounds=jax.tree.map(lambda leaf: leaf.at[1].set(leaf[0]), trials.rounds.replace(reset_key=()))
    )
    other = other.replace(rounds=other.rounds.replace(reset_key=trials.rounds.reset_key))
    before, after = adapt(trials), adapt(other)
    for one, two in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
        np.testing.assert_array_equal(one[0], two[0])


def test_the_step_size_shrinks_after_the_first_round():
    meta = jm.maml(tiny.family(), dataclasses.replace(CONFIG, rounds=2, later_lr_scale=0.5))

    @jax.jit
    def adapted():
        params = meta.learner.init(jax.random.key(0))
        fast = meta.learner.start(params, jax.random.key(0))
        task = tiny.family().sample(jax.random.key(1))
        experience = jm.rollout(meta.learner, params, fast, tiny.family().env, task, jax.random.key(2), streams=16)
        once = meta.learner.adapt(params, fast, experience, jax.random.key(3))
        later = meta.learner.adapt(params, once.replace(policy=fast.policy), experience, jax.random.key(3))
        return fast, once, later

    before, *after = (flat(fast.policy) for fast in adapted())
    moved = [new - before for new in after]
    np.testing.assert_allclose(moved[1], 0.5 * moved[0], rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(
    ("field", "value"),
    [("inner_lr", -0.1), ("num_tasks", 0), ("streams", 0), ("rounds", -1), ("discount", 1.5), ("trace", -0.1)],
)
def test_bad_configs_name_the_field_and_the_value(field, value):
    with pytest.raises(ValueError, match=f"{field} is {value};"):
        jm.MAMLConfig(**{field: value})


def _network():
    from jaxmeta import nets

    return nets.actor_critic(tiny.family().env.spec, (8,))
