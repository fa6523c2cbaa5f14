from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxmeta as jm
from jaxmeta import outer, rl, tasks
from jaxmeta.core.rollout import collect
from jaxmeta.devices import CACHE_BYTES
from jaxmeta.outer.loss import gradient_chunk
from tests import tiny


def dealt(keys, epochs, parts):
    """The members of the parts of every epoch."""
    dealt = outer.shuffled(epochs, parts).deal(outer.Batch(data=(), keys=keys, weight=jnp.ones(len(keys))))
    return np.asarray(dealt).reshape(epochs, parts, -1)


def test_every_trial_is_in_one_part_and_the_parts_change():
    epochs = dealt(jax.random.split(jax.random.key(0), 12), 5, 4)
    assert epochs.shape == (5, 4, 3)
    for parts in epochs:
        np.testing.assert_array_equal(np.sort(parts.ravel()), np.arange(12))
    assert len({parts.tobytes() for parts in epochs}) > 1


def test_parts_do_not_depend_on_the_number_of_devices():
    keys = jax.random.split(jax.random.key(0), 8)
    halves = [dealt(keys[4 * d : 4 * d + 4], 4, 2) + 4 * d for d in range(2)]
    np.testing.assert_array_equal(dealt(keys, 4, 2), np.concatenate(halves, axis=2))


@pytest.mark.parametrize("name", ["rl2", "maml"])
def test_ratios_are_one_before_the_first_step(name):
    """At unchanged params the clipped loss is minus the mean advantage, and nothing diverges."""
    meta, family = tiny.algo(name), tiny.family()
    params = meta.learner.init(jax.random.key(0))
    task, estimator = family.sample(jax.random.key(1)), rl.linear_baseline(normalize=False)
    trial = jax.jit(lambda: collect(meta.learner, params, family.env, task, jax.random.key(2), meta.plan))()
    loss, metrics = jax.jit(outer.trial_loss(meta.learner, rl.clipped(0.2), estimator))(params, trial)
    last = jax.tree.map(lambda leaf: leaf[-1], trial.rounds)
    expected = -rl.masked_mean(jax.jit(estimator)(last).advantage, last.valid)
    np.testing.assert_allclose(loss, expected, atol=1e-5)
    np.testing.assert_allclose(metrics["kl"], 0.0, atol=1e-6)


def test_clipping_stops_the_gain_of_a_ratio_that_has_moved_far():
    advantage = jnp.array([[1.0], [-1.0]])
    gradient = jax.grad(lambda x: rl.clipped(0.2)(x, jnp.zeros((2, 1)), advantage, jnp.ones((2, 1))))
    # a better action already more likely, a worse one already less likely: nothing more to gain
    np.testing.assert_array_equal(gradient(jnp.array([[0.5], [-0.5]])), jnp.zeros((2, 1)))
    assert (np.abs(gradient(jnp.array([[-0.5], [0.5]]))) > 0).all()


def test_an_optimiser_of_ones_own_takes_the_place_of_adam():
    """Signs of a gradient have one length, which Adam's first step through two epochs would not have."""
    family, plan = tiny.family(), jm.Plan(streams=2)
    policy = jm.inner.policy(jm.nets.actor_critic(family.env.spec, (4,)))
    improve = outer.policy_gradient(
        policy, rl.plain_returns(), outer.PolicyGradientConfig(epochs=1), tx=optax.sign_sgd(0.25)
    )
    source, info = outer.fresh(policy, family, plan), outer.Info(2, plan, spread=2)
    meta = outer.meta_update(policy, plan, outer.uniform(family), source, improve, info)
    state = jm.init_state(meta, jax.random.key(0))
    after = jm.train(meta, state, 1)
    steps = [np.abs(a - b) for a, b in zip(*map(jax.tree.leaves, (after.params, state.params)), strict=True)]
    for step in steps:  # where the value head has no weight in the loss, nothing moves
        assert set(np.round(step.ravel(), 5)) <= {0.0, 0.25}
    assert any((step > 0).any() for step in steps)


def test_minibatches_must_divide_the_tasks():
    with pytest.raises(ValueError, match="minibatches is 4; it must divide num_tasks, which is 6"):
        jm.RL2Config(num_tasks=6, ppo=outer.ActorCriticConfig(minibatches=4))


@pytest.mark.parametrize(
    ("make", "config", "tolerance"),
    [
        (outer.policy_gradient, outer.PolicyGradientConfig(epochs=1), 1e-4),
        # damped: conjugate gradient on a nearly singular curvature amplifies rounding
        pytest.param(outer.trust_region, outer.TrustRegionConfig(damping=0.1), 1e-3, marks=pytest.mark.slow),
    ],
)
def test_an_update_does_not_depend_on_the_number_of_devices(make, config, tolerance):
    """But for the order in which means are taken."""
    learner, family, plan = tiny.algo("maml").learner, tiny.family(), jm.Plan(rounds=1, streams=12)
    # plain returns: a baseline fitted to so little data amplifies rounding as well
    improve = make(learner, rl.plain_returns(), config)
    source, info = outer.fresh(learner, family, plan), outer.Info(4, plan, spread=4)
    meta = outer.meta_update(learner, plan, outer.uniform(family), source, improve, info)
    results = []
    for devices in (1, 2):
        execution = jm.Execution(devices)
        assert execution.mesh(info.spread).size == devices
        state = jm.init_state(meta, jax.random.key(0), execution=execution)
        begun = jax.tree.map(np.array, state.params)
        state = jm.train(meta, state, 1, execution=execution)
        # Adam's first step is the sign of the gradient, and turns around with the last bit of one near zero: what must
        # agree is the gradient, a multiple of its first moment
        moments = [leaf.mu for leaf in jax.tree.leaves(state.opt_state, is_leaf=_is_adam) if _is_adam(leaf)]
        change = moments[0] if moments else jax.tree.map(jnp.subtract, state.params, begun)
        results.append(np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(change)]))
    one, two = results
    assert np.abs(one).max() > 1e-4
    np.testing.assert_allclose(one, two, rtol=0, atol=tolerance * np.abs(one).max())


def test_annealing_includes_the_entropy_bonus():
    """Half way, the update is that of half the bonus at half the step size."""
    directions = {}
    for entropy_weight, step in ((0.2, 1), (0.1, 0), (0.2, 0)):
        # the first moment of Adam is a tenth of the gradient, whatever the step size
        ppo = outer.ActorCriticConfig(
            epochs=1, value_weight=0.0, entropy_weight=entropy_weight, anneal_over=2, max_grad_norm=1e6
        )
        meta = jm.rl2(tiny.family(), jm.RL2Config(num_tasks=4, hidden=4, ppo=ppo))
        state, _ = jax.jit(meta.update)(meta.init(jax.random.key(0)).replace(step=jnp.array(step)))
        (moments,) = [leaf for leaf in jax.tree.leaves(state.opt_state, is_leaf=_is_adam) if _is_adam(leaf)]
        directions[entropy_weight, step] = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(moments.mu)])
    np.testing.assert_allclose(directions[0.2, 1], directions[0.1, 0], rtol=1e-4, atol=1e-8)
    assert np.abs(directions[0.2, 0] - directions[0.1, 0]).max() > 1e-4


def _is_adam(leaf):
    return isinstance(leaf, optax.ScaleByAdamState)


def after(step, state):
    """The state as if so many updates, of one gradient step each, were done, but for the moments of Adam."""

    def counted(leaf):
        return leaf._replace(count=jnp.full_like(leaf.count, step)) if _is_schedule(leaf) else leaf

    return state.replace(step=jnp.array(step), opt_state=jax.tree.map(counted, state.opt_state, is_leaf=_is_schedule))


def _is_schedule(leaf):
    return isinstance(leaf, optax.ScaleByScheduleState)


def test_annealing_shrinks_the_steps_to_nothing():
    """The update before the last takes half of Adam's step, and the one after the last takes none."""
    ppo = outer.ActorCriticConfig(epochs=1, value_weight=0.0, learning_rate=1e-2, entropy_weight=0.1)
    moved = {}
    for anneal_over in (None, 2):
        meta = jm.rl2(
            tiny.family(), jm.RL2Config(num_tasks=4, hidden=4, ppo=dataclasses.replace(ppo, anneal_over=anneal_over))
        )
        update, start = jax.jit(meta.update), meta.init(jax.random.key(0))
        # small params: the last bit of others is more than what the steps are compared by
        start = start.replace(params=jax.tree.map(lambda leaf: 0.01 * leaf, start.params))
        for step in (0, 1, 2, 5):
            state, _ = update(after(step, start))
            change = jax.tree.map(jnp.subtract, state.params, start.params)
            moved[anneal_over, step] = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(change)])
    np.testing.assert_array_equal(moved[None, 5], moved[None, 0])
    np.testing.assert_allclose(moved[2, 0], moved[None, 0], rtol=1e-6, atol=1e-9)
    # Adam's first step is the sign of the gradient: half as far, wherever the entropy does not decide the sign
    np.testing.assert_allclose(np.abs(moved[2, 1]).max(), 0.5 * np.abs(moved[None, 0]).max(), rtol=1e-3)
    for step in (2, 5):
        np.testing.assert_array_equal(moved[2, step], 0.0)


def test_recurrent_trials_are_replayed_in_parallel():
    """Few long trials are differentiated in parallel; fewer if agents adapt, unroll in parallel, or carry much."""
    chunks = {}
    for name, horizon in (("rl2", 300), ("rl2", 30_000), ("snail", 30), ("snail", 300), ("maml", 30), ("maml", 300)):
        family = tasks.navigation(tasks.NavigationConfig(horizon=horizon))
        meta = tiny.algo(name, family)

        def trials(key, meta=meta, family=family):
            params = meta.learner.init(key)
            task = jax.vmap(family.sample)(jax.random.split(key, 256))
            one = lambda task: collect(meta.learner, params, family.env, task, key, meta.plan)  # noqa: E731
            return jax.vmap(one)(task)

        chunks[name, horizon] = gradient_chunk(meta.learner, jax.eval_shape(trials, jax.random.key(0)))
    assert 64 <= chunks["rl2", 300] < 128  # 8 MiB of experience and of carries, which are stored at every step
    assert 1 <= chunks["rl2", 30_000] <= 32
    assert chunks["snail", 30] == 11
    assert chunks["snail", 300] == 1
    assert chunks["maml", 30] == 512 // (30 * tiny.STEPS["streams"])
    assert chunks["maml", 300] == 1


def test_a_large_carry_leaves_fewer_trials_in_parallel():
    """Of an agent that is stepped, the carry is stored at every step; of one that unrolls, once per stream."""
    family = tasks.navigation(tasks.NavigationConfig(horizon=10))
    learner = tiny.algo("rl2", family).learner
    params = learner.init(jax.random.key(0))
    task = jax.vmap(family.sample)(jax.random.split(jax.random.key(1), 256))
    collect_one = lambda task: collect(learner, params, family.env, task, jax.random.key(2), jm.Plan(episodes=2))  # noqa: E731
    trials = jax.eval_shape(jax.vmap(collect_one), task)

    def chunk(floats, unroll=None):
        return gradient_chunk(learner._replace(reset=lambda *_: jnp.zeros(floats), unroll=unroll), trials)

    budget = 32 * CACHE_BYTES
    assert chunk(1) == chunk(16) > 128  # as many as have their experience in the cache
    assert 0 <= budget // (4 * 20 * 10_000) - chunk(10_000) <= 1  # 20 steps; the stored experience takes little
    assert chunk(10**7) == 1
    by_unroll = learner.unroll or (lambda *_: None)
    assert chunk(16, by_unroll) == 1024 // 20
    assert chunk(10**6, by_unroll) == budget // (4 * 10**6)
