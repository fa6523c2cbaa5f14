"""Adaptation by PPO: its steps by hand, and what a task begins with."""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import jaxmeta as jm
from jaxmeta import inner, nets, rl, testing
from tests import tiny

FAMILY = tiny.family()
POLICY = inner.policy(nets.actor_critic(FAMILY.env.spec, (4,), value=True))
CONFIG = inner.ProximalConfig(learning_rate=0.05, steps=2, clip=0.1, value_weight=0.3, entropy_weight=0.02)
ADVANTAGE = rl.value_baseline(0.9, 0.8)
SCRATCH = inner.proximal(POLICY, ADVANTAGE, CONFIG)
META_LEARNED = inner.proximal(POLICY, ADVANTAGE, CONFIG, meta_learned=True)
KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def walk():
    """A round of the policy that a task begins with."""
    fast = SCRATCH.start(SCRATCH.init(KEY), KEY)
    run = jax.jit(lambda fast, task: jm.rollout(SCRATCH, SCRATCH.init(KEY), fast, FAMILY.env, task, KEY, streams=4))
    return fast, run(fast, FAMILY.sample(KEY))


def by_hand(theta, experience):
    """PPO's loss, without the parts of jaxmeta but the policy and the advantages."""
    output = jax.vmap(jax.vmap(lambda inputs: POLICY.act(theta, (), (), inputs)[1]))(experience.inputs)
    estimate, valid = ADVANTAGE(experience), experience.valid
    loc, log_scale = output.dist.loc, output.dist.log_scale
    log_prob = lambda dist: jnp.sum(  # noqa: E731
        -0.5 * jnp.square((experience.action - dist.loc) / jnp.exp(dist.log_scale))
        - dist.log_scale
        - 0.5 * jnp.log(2 * jnp.pi),
        -1,
    )
    ratio = jnp.exp(log_prob(output.dist) - log_prob(experience.output.dist))
    gain = jnp.minimum(ratio * estimate.advantage, jnp.clip(ratio, 0.9, 1.1) * estimate.advantage)
    entropy = jnp.sum(0.5 + 0.5 * jnp.log(2 * jnp.pi) + jnp.broadcast_to(log_scale, loc.shape), -1)
    error = jnp.square(output.value - estimate.target)
    return jnp.sum((-gain + 0.3 * 0.5 * error - 0.02 * entropy) * valid) / jnp.sum(valid)


def test_two_steps_equal_ppo_and_adam_by_hand(walk):
    fast, experience = walk
    adapted = jax.jit(SCRATCH.adapt)(SCRATCH.init(KEY), fast, experience, KEY)
    theta, flatten = ravel_pytree(fast.policy)
    gradient = jax.jit(lambda theta: jax.grad(lambda theta: by_hand(flatten(theta), experience))(theta))
    theta = np.asarray(theta, np.float64)
    mean = square = np.zeros_like(theta)
    for step in (1, 2):
        slope = np.asarray(gradient(jnp.asarray(theta, jnp.float32)), np.float64)
        mean, square = 0.9 * mean + 0.1 * slope, 0.999 * square + 0.001 * slope**2
        theta = theta - 0.05 * mean / (1 - 0.9**step) / (np.sqrt(square / (1 - 0.999**step)) + 1e-5)
    np.testing.assert_allclose(ravel_pytree(adapted.policy)[0], theta, atol=2e-5)
    assert np.abs(theta - ravel_pytree(fast.policy)[0]).max() > 0.01


def test_every_task_begins_with_params_of_its_own_and_without_moments(walk):
    fast, experience = walk
    params = SCRATCH.init(KEY)
    assert not jax.tree.leaves(params)
    chex.assert_trees_all_equal(fast.policy, POLICY.init(KEY))
    other = SCRATCH.start(params, jax.random.key(1))
    kernels = [jax.tree.leaves(one.policy) for one in (fast, other)]
    assert any((mine != theirs).any() for mine, theirs in zip(*kernels, strict=True))
    # after an adaptation the moments are not zero, and a new task begins with zero again
    adapted = SCRATCH.adapt(params, fast, experience, KEY)
    assert any(bool(jnp.any(leaf)) for leaf in jax.tree.leaves(adapted.opt_state))
    assert not any(bool(jnp.any(leaf)) for leaf in jax.tree.leaves(other.opt_state))


def test_meta_learned_params_are_where_every_task_begins(walk):
    _, experience = walk
    params = META_LEARNED.init(KEY)
    for seed in (1, 2):
        chex.assert_trees_all_equal(META_LEARNED.start(params, jax.random.key(seed)).policy, params.policy)

    # first order: the adapted params move as the initial ones do
    def moved(params):
        adapted = META_LEARNED.adapt(params, META_LEARNED.start(params, KEY), experience, KEY)
        return sum(jnp.sum(leaf) for leaf in jax.tree.leaves(adapted.policy))

    chex.assert_trees_all_equal(jax.jit(jax.grad(moved))(params).policy, jax.tree.map(jnp.ones_like, params.policy))


@pytest.mark.parametrize("learner", [SCRATCH, META_LEARNED], ids=["scratch", "meta-learned"])
def test_it_holds_the_contract_of_learners(learner):
    testing.check_learner(learner, FAMILY, jm.Plan(rounds=1, streams=3))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"steps": 0}, "steps is 0; it must be at least 1"),
        ({"learning_rate": 0.0}, "learning_rate is 0.0; it must be positive"),
        ({"value_weight": -1.0}, "value_weight is -1.0; it must not be negative"),
    ],
)
def test_bad_fields_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        inner.ProximalConfig(**fields)
