"""Toy pieces for the families that are to come, each trained for three updates on two devices."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxmeta as jm
from jaxmeta import inner, nets, outer, rl
from jaxmeta.rl.replay import draw
from jaxmeta.types import Plan
from tests import tiny

FAMILY, PLAN = tiny.family(), Plan(streams=2)
POLICY = inner.policy(nets.actor_critic(FAMILY.env.spec, (8,)))


def trained(meta, data=()):
    """The state after three updates on two devices, and that of one device."""
    states = []
    for devices in (2, 1):
        execution = jm.Execution(devices)
        assert execution.mesh(meta.info.spread).size == devices
        start = jm.init_state(meta, jax.random.key(0), execution=execution)
        states.append(jax.device_get(jm.train(meta, start, 3, chunk=3, data=data, execution=execution)))
    two, one = states
    for a, b in zip(jax.tree.leaves(two.params), jax.tree.leaves(one.params), strict=True):
        assert np.isfinite(a).all()
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    return two


def built(sampler=None, source=None, improve=None):
    return outer.meta_update(
        POLICY,
        PLAN,
        sampler or outer.uniform(FAMILY),
        source or outer.fresh(POLICY, FAMILY, PLAN),
        improve or outer.policy_gradient(POLICY, rl.plain_returns()),
        outer.Info(4, PLAN, spread=4),
    )


def test_a_sampler_keeps_the_scores_of_tasks():
    """A curriculum: it remembers the returns of the tasks that it drew."""

    def sample(state, params, keys):
        draw = outer.uniform(FAMILY).sample((), params, keys)[1]
        return state, draw.replace(slot=jnp.arange(len(keys)), weight=draw.weight.at[0].set(0.0))

    def update(state, draw, scores, finite):
        return state.at[draw.slot].add(jnp.where(finite, scores, 0.0)), {"score": scores.mean()}

    sampler = outer.Sampler(lambda key: jnp.zeros(4), sample, lambda params, trial: trial.rounds.reward.sum(), update)
    scores = trained(built(sampler=sampler)).sampler
    assert (scores < -0.1).all() and len(np.unique(scores)) == 4


@pytest.mark.slow
def test_an_aggregate_sees_the_gram_matrix_of_all_tasks():
    """Coefficients of 1 / N are the mean; the others depend on what the tasks' gradients have in common."""

    def loss(params, trial, key):
        return outer.trial_loss(POLICY, rl.ratio, rl.plain_returns())(params, trial)

    def with_aggregate(aggregate):
        return trained(built(improve=outer.descend(loss, optax.adam(1e-2), aggregate))).params

    mean = with_aggregate(outer.mean())
    same = with_aggregate(outer.combined(lambda gram, key: jnp.full(len(gram), 1.0 / len(gram))))
    for a, b in zip(jax.tree.leaves(mean), jax.tree.leaves(same), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)
    other = with_aggregate(outer.combined(lambda gram, key: 1.0 / (len(gram) * jnp.sqrt(jnp.diagonal(gram) + 1e-6))))
    assert any((a != b).any() for a, b in zip(jax.tree.leaves(mean), jax.tree.leaves(other), strict=True))


@pytest.mark.parametrize("piece", [None, 2])
def test_tasks_of_weight_zero_do_not_change_aggregates(piece):
    """Losses with gradients 1, 2, 3 and 4: the last two count twice and not at all."""

    def loss(theta, gradient, key):
        return gradient * theta, {"gradient": gradient}

    gradients, weight = jnp.arange(1.0, 5.0), jnp.array([1.0, 1.0, 2.0, 0.0])
    batch = outer.Batch(gradients, jax.random.split(jax.random.key(0), 4), weight)
    for aggregate in (outer.mean(), outer.masked()):
        found = aggregate(loss, jnp.float32(1.0), batch, piece)
        np.testing.assert_allclose(found.gradient, 9.0 / 4.0, rtol=1e-6)
    gram = lambda gram, key: (gram == jnp.outer(gradients * weight, gradients * weight)).all() * jnp.full(4, 1.0)  # noqa: E731
    found = outer.combined(gram)(loss, jnp.float32(1.0), batch, piece)
    np.testing.assert_allclose((found.gradient, found.loss, found.metrics["gradient"]), (9.0, 2.25, 2.25), rtol=1e-6)


@pytest.mark.parametrize(
    ("gradients", "weight", "expected", "kept"),
    [
        ([1.0, 2.0, 3.0, 4.0], [1.0, 1.0, 2.0, 0.0], 9.0 / 4.0, [1.0, 1.0, 2.0, 0.0]),
        ([1.0, np.nan, 3.0, 4.0], [1.0, 1.0, 2.0, 0.0], 7.0 / 3.0, [1.0, 0.0, 2.0, 0.0]),
        ([1.0, 2.0, 3.0, np.inf], [1.0, 1.0, 2.0, 0.0], 9.0 / 4.0, [1.0, 1.0, 2.0, 0.0]),
        ([1.0, 2.0, 3.0, 1e20], [1.0, 1.0, 1.0, 1.0], 2.0, [1.0, 1.0, 1.0, 0.0]),
        ([np.nan] * 4, [1.0, 1.0, 1.0, 1.0], np.nan, [0.0] * 4),
        ([1.0, 2.0, 3.0, 4.0], [0.0] * 4, np.nan, [0.0] * 4),
    ],
    ids=["finite", "one", "one-without-weight", "too-large", "all", "no-weight"],
)
def test_tasks_that_are_not_finite_are_left_out(gradients, weight, expected, kept):
    """Losses with given gradients; alone, and beside a batch of ones, as parallel seeds are."""

    def aggregated(gradients, weight):
        def loss(theta, gradient, key):
            return gradient * theta, {"theta": theta}

        batch = outer.Batch(gradients, jax.random.split(jax.random.key(0), 4), weight)
        return outer.masked()(loss, jnp.float32(1.0), batch, None)

    gradients, weight = jnp.array(gradients), jnp.array(weight)
    alone = aggregated(gradients, weight)
    beside = jax.vmap(aggregated)(jnp.stack([gradients, jnp.ones(4)]), jnp.stack([weight, jnp.ones(4)]))
    one, ones = (jax.tree.map(lambda leaf, row=row: leaf[row], beside) for row in (0, 1))
    missing = np.sum((np.array(kept) == 0) & (weight > 0))
    for found, mean, left, count in ((alone, expected, kept, missing), (one, expected, kept, missing), (ones, 1, 1, 0)):
        np.testing.assert_allclose((found.gradient, found.loss), mean, rtol=1e-6)
        np.testing.assert_array_equal(found.weight, np.broadcast_to(left, 4))
        assert found.metrics["nonfinite_tasks/gradient"] == count


def test_a_source_can_provide_demonstrations():
    """Cloning: the dataset is an argument of the update, and no checkpoint holds it."""
    demonstrations = {"obs": jnp.linspace(-1, 1, 8).reshape(4, 2), "action": jnp.full((4, 2), 0.05)}

    def pick(state, params, draw, data, keys):
        index = jax.vmap(lambda key: jax.random.randint(key, (), 0, 4))(keys)
        seen = outer.Seen((), jnp.ones(len(keys), bool), {})
        return state, jax.tree.map(lambda leaf: leaf[index], data), seen._replace(outcome=index)

    def loss(params, one, key):
        inputs = FAMILY.env.spec.example_input().replace(obs=one["obs"])
        _, output = POLICY.act(params, (), (), inputs)
        return -POLICY.head(output).log_prob(one["action"]), {}

    source = outer.Source(lambda key: (), pick)
    state = trained(built(source=source, improve=outer.descend(loss, optax.sgd(0.1))), demonstrations)
    assert state.source == ()


def test_a_loss_can_use_replayed_episodes():
    """Self-imitation: the episodes of earlier updates are kept whole, and the policy is fitted to them."""
    horizon = FAMILY.env.spec.horizon

    def rows(trials, tasks):
        last = jax.tree.map(
            lambda leaf: jnp.swapaxes(leaf[:, -1], 1, 2), (trials.rounds.inputs.obs, trials.rounds.action)
        )
        flat = jnp.concatenate(last, axis=-1)  # [n, streams, time, what is seen and done]
        return flat.reshape(*flat.shape[:2], -1), jnp.ones(flat.shape[:2])

    def deal(batch):
        return jax.vmap(lambda key: jax.random.split(key, 2))(batch.keys).swapaxes(0, 1)

    def take(batch, keys):
        _, kept = batch.data
        episodes = jax.vmap(lambda ring, key: draw(kept["episodes"], ring[None], key, 1)[0, 0])(
            jnp.arange(len(keys)), keys
        )
        return outer.Batch(episodes.reshape(len(keys), horizon, -1), keys, jnp.ones(len(keys)))

    def loss(params, episode, key):
        inputs = FAMILY.env.spec.example_input()
        say = lambda obs: POLICY.act(params, (), (), inputs.replace(obs=obs))[1]  # noqa: E731
        fit = jax.vmap(lambda obs, action: POLICY.head(say(obs)).log_prob(action))
        return -fit(episode[:, :2], episode[:, 2:]).mean(), {}

    ring = outer.Ring(capacity=8, width=4 * horizon, rows=rows)
    source = outer.replay(outer.fresh(POLICY, FAMILY, PLAN), {"episodes": ring}, num_rings=4, by_task=False)
    improve = outer.descend(loss, optax.sgd(0.1), minibatches=outer.Minibatches(deal, take))
    kept = trained(built(source=source, improve=improve)).source["episodes"]
    # four rings, three updates of two streams each
    np.testing.assert_array_equal(kept.size, 6)


def test_a_source_can_keep_a_task_for_several_updates():
    """A task in progress is the state of the source: one round per update, and the next goes on from its fast state."""

    def init(key):
        return {"age": jnp.arange(4) % 3, "goal": jax.vmap(FAMILY.sample)(jax.random.split(key, 4)).goal}

    def go_on(state, params, draw, data, keys):
        over = state["age"] >= 2
        goal = jnp.where(over[:, None], draw.tasks.goal, state["goal"])
        fresh = outer.fresh(POLICY, FAMILY, PLAN)
        tasks = draw.tasks.replace(goal=goal)
        _, trials, seen = fresh.next((), params, draw.replace(tasks=tasks), data, keys)
        return {"age": jnp.where(over, 0, state["age"] + 1), "goal": goal}, trials, seen

    state = trained(built(source=outer.Source(init, go_on)))
    np.testing.assert_array_equal(state.source["age"], [0, 1, 2, 0])
