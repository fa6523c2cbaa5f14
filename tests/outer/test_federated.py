"""The mean over clients, its noise, and who takes part."""

from __future__ import annotations

import functools
import importlib
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxmeta as jm
from jaxmeta import devices, outer, rl, testing
from tests import tiny

PARAMS = {"kernel": jnp.arange(6.0).reshape(3, 2) / 10.0, "bias": jnp.ones(2)}
ENDS = jax.tree.map(lambda leaf: jnp.stack([leaf + 0.1 * (i + 1) for i in range(4)]), PARAMS)
KEYS = jax.random.split(jax.random.key(0), 4)
MASKED = outer.masked()
CLIENTS = outer.ClientsConfig(number=20)
POISSON = outer.ClientsConfig(number=20, participation="poisson")


def distance(params, end, key):
    """A client pulls the params towards its own."""
    apart = jax.tree.map(jnp.subtract, params, end)
    value = 0.5 * sum(jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(apart))
    return value, {"distance": value}


@functools.cache
def program(mean, num_devices=1, piece=None):
    def on_device(params, batch):
        found = mean(distance, params, batch, piece)
        return found[:3], found.weight

    def run(params, batch):
        with jax.set_mesh(jm.Execution(num_devices).mesh(len(batch.weight))):
            return jax.jit(lambda *all: devices.over_tasks(on_device, *all))(params, batch)

    return run


def of(mean, ends=ENDS, weight=(1.0, 1.0, 1.0, 1.0), keys=KEYS, **options):
    weight = jnp.asarray(weight, jnp.float32)
    (value, gradient, metrics), weight = program(mean, **options)(PARAMS, outer.Batch(ends, keys, weight))
    return outer.Gradient(value, gradient, metrics, weight)


def flat(tree):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


def messages(ends=ENDS):
    return np.stack([flat(jax.tree.map(lambda a, b, i=i: a - b[i], PARAMS, ends)) for i in range(4)])


def private(noise_multiplier=0.0, clip=None):
    return outer.FederatedMean(4.0, outer.PrivateConfig(noise_multiplier, clip))


@pytest.mark.parametrize("clip", [None, 1e30])
def test_without_noise_and_clipping_it_is_the_mean(clip):
    found, mean = of(private(clip=clip)), of(MASKED)
    chex.assert_trees_all_equal(found.gradient, mean.gradient)
    assert found.loss == mean.loss and found.metrics["nonfinite_tasks/gradient"] == 0.0
    assert found.metrics["distance"] == mean.metrics["distance"]


def test_messages_are_clipped_one_by_one():
    clip = 0.5
    found, each = of(private(clip=clip)), messages()
    norms = np.linalg.norm(each, axis=1)
    expected = (each * np.minimum(1.0, clip / norms)[:, None]).sum(0) / 4
    np.testing.assert_allclose(flat(found.gradient), expected, rtol=1e-5)
    assert 0 < (norms > clip).mean() < 1
    assert found.metrics["clipped"] == (norms > clip).mean()


def test_the_divisor_is_the_expected_number():
    found = of(outer.FederatedMean(3.0), weight=(1.0, 0.0, 1.0, 0.0))
    np.testing.assert_allclose(flat(found.gradient), messages()[[0, 2]].sum(0) / 3.0, rtol=1e-5)
    np.testing.assert_array_equal(found.weight, [1.0, 0.0, 1.0, 0.0])
    np.testing.assert_allclose(found.metrics["distance"], np.square(messages()[[0, 2]]).sum(1).mean() / 2, rtol=1e-5)


def test_non_finite_clients_count_as_zero_and_stay_in_the_divisor():
    ends = jax.tree.map(lambda leaf: leaf.at[1].set(jnp.nan), ENDS)
    found = of(private(), ends)
    np.testing.assert_allclose(flat(found.gradient), messages()[[0, 2, 3]].sum(0) / 4.0, rtol=1e-5)
    assert found.metrics["nonfinite_tasks/gradient"] == 1.0
    np.testing.assert_array_equal(found.weight, [1.0, 0.0, 1.0, 1.0])


def test_an_absent_client_may_be_non_finite():
    ends = jax.tree.map(lambda leaf: leaf.at[1].set(jnp.inf), ENDS)
    found = of(private(), ends, weight=(1.0, 0.0, 1.0, 1.0))
    np.testing.assert_allclose(flat(found.gradient), messages()[[0, 2, 3]].sum(0) / 4.0, rtol=1e-5)
    assert found.metrics["nonfinite_tasks/gradient"] == 0.0


def test_without_participants_nothing_moves_and_with_non_finite_ones_only_the_update_is_skipped():
    found = of(private(), weight=(0.0, 0.0, 0.0, 0.0))
    assert not flat(found.gradient).any() and found.metrics["distance"] == 0.0
    found = of(private(), jax.tree.map(lambda leaf: leaf * jnp.nan, ENDS))
    assert jnp.isnan(found.metrics["distance"])  # which the guard sees
    noised = of(private(1.0, 0.5), jax.tree.map(lambda leaf: leaf * jnp.nan, ENDS))
    assert np.isfinite(flat(noised.gradient)).all() and flat(noised.gradient).any()


@pytest.mark.parametrize("sent", [np.nan, np.inf, -1e30, 1e30, 1e3, -1e3, 0.0])
@pytest.mark.parametrize("noise_multiplier", [0.0, 1.0])
def test_one_client_moves_the_mean_by_at_most_twice_the_clip_over_n(sent, noise_multiplier):
    clip, mean = 0.7, private(noise_multiplier, 0.7)
    ends = jax.tree.map(lambda leaf: leaf.at[2].set(sent), ENDS)
    moved = flat(of(mean, ends).gradient) - flat(of(mean).gradient)
    assert 0 < np.linalg.norm(moved) <= 2 * clip / 4 * (1 + 1e-5)


def test_the_bound_is_reached():
    """A client that reverses its message moves the mean by 2 C / n."""
    ends = jax.tree.map(lambda leaf, here: leaf.at[3].set(2 * here - leaf[3]), ENDS, PARAMS)
    clip = 0.1
    moved = flat(of(private(clip=clip), ends).gradient) - flat(of(private(clip=clip)).gradient)
    np.testing.assert_allclose(np.linalg.norm(moved), 2 * clip / 4, rtol=1e-5)


def test_a_weight_does_not_lengthen_a_message():
    found = of(private(clip=0.1), weight=(0.0, 0.0, 0.0, 100.0))
    np.testing.assert_allclose(np.linalg.norm(flat(found.gradient)), 0.1 / 4, rtol=1e-5)


def test_noise_has_the_deviation_that_is_accounted_for():
    params = {"one": jnp.zeros(60_000), "other": jnp.zeros((200, 300))}
    batch = outer.Batch(jax.tree.map(lambda leaf: jnp.zeros((2, *leaf.shape)), params), KEYS[:2], jnp.ones(2))
    mean = outer.FederatedMean(5.0, outer.PrivateConfig(1.5, 0.4))
    found = jax.jit(lambda params, batch: mean(distance, params, batch, None).gradient)(params, batch)
    deviation = 1.5 * 0.4 / 5.0
    for leaf in found.values():
        assert np.std(leaf) == pytest.approx(deviation, rel=0.02)
        assert abs(np.mean(leaf)) < 4 * deviation / math.sqrt(leaf.size)
    assert abs(np.corrcoef(found["one"], found["other"].ravel())[0, 1]) < 0.02


def test_noise_is_new_in_every_update():
    first, second = of(private(1.0, 1.0)), of(private(1.0, 1.0), keys=jax.random.split(jax.random.key(1), 4))
    assert (flat(first.gradient) != flat(second.gradient)).all()


def test_a_private_mean_reports_nothing_else():
    found = of(private(1.0, 1.0))
    assert found.metrics == {} and found.loss == 0.0
    assert not np.allclose(flat(found.gradient), flat(of(private(clip=1.0)).gradient))


@pytest.mark.parametrize("mean", [private(clip=0.5), private(1.0, 0.5)])
def test_devices_and_pieces_make_no_difference(mean):
    one = of(mean)
    for other in (of(mean, num_devices=2), of(mean, piece=2)):
        chex.assert_trees_all_close(other, one, rtol=1e-5, atol=1e-6)


def test_the_contract_of_aggregates_holds():
    testing.check_aggregate(private(1.0, 5.0))


def test_tasks_of_one_client_are_averaged_before_they_are_clipped():
    mean = outer.FederatedMean(2.0, outer.PrivateConfig(clip=0.5), tasks=2)
    found = of(mean, weight=(1.0, 0.0, 1.0, 1.0))
    sent = np.stack([messages()[0] / 2, messages()[2:].mean(0)])  # the second task of the first client is empty
    sent *= np.minimum(1.0, 0.5 / np.linalg.norm(sent, axis=1))[:, None]
    np.testing.assert_allclose(flat(found.gradient), sent.sum(0) / 2.0, rtol=1e-5)
    chex.assert_trees_all_close(of(mean, weight=(1.0, 0.0, 1.0, 1.0), piece=2).gradient, found.gradient, rtol=1e-5)
    with pytest.raises(ValueError, match="tasks is 3; it must divide the batch of a device, which has 4 tasks"):
        of(outer.FederatedMean(2.0, tasks=3))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: outer.PrivateConfig(clip=0.0), "clip is 0.0; it must be positive"),
        (lambda: outer.PrivateConfig(1.0), "clip is None; noise is relative to it, so with noise_multiplier > 0 it"),
        (lambda: outer.PrivateConfig(-1.0, 1.0), "noise_multiplier is -1.0; it must not be negative"),
        (lambda: outer.PrivateConfig(1.0, 1.0, 1.0), "delta is 1.0; it must be above 0 and below 1"),
        (lambda: outer.PrivateConfig(1.0, 1.0, 0.0), "delta is 0.0; it must be above 0 and below 1"),
        (lambda: outer.PrivateConfig(clip=1.0, delta=1e-5), "noise_multiplier is 0.0; without noise there is no ε"),
        (lambda: outer.FederatedMean(0.0), "expected is 0.0; it must be positive"),
        (lambda: outer.places(20, 21, CLIENTS), "num_tasks is 21; an update cannot have more clients than there are"),
        (lambda: outer.ClientsConfig(number=0), "number is 0; it must be at least 1"),
    ],
)
def test_bad_input_is_refused_in_one_line(build, message):
    with pytest.raises(ValueError, match=message) as caught:
        build()
    assert "\n" not in str(caught.value)


def test_what_cannot_be_accounted_for_is_refused_with_the_reason():
    agent = tiny.algo("maml").learner
    supervised = tiny.supervised("maml").learner
    advantage, mean = rl.linear_baseline(), private(1.0, 1.0)
    plain = outer.PolicyGradientConfig(clip=None, epochs=1)
    masked = outer.SupervisedConfig(max_task_gradient=5.0)
    for build, message in (
        (lambda: outer.trust_region(agent, advantage, aggregate=mean), "max_kl is 0.01; .* the line search use the"),
        (lambda: outer.policy_gradient(agent, advantage, aggregate=mean), "epochs is 5; ε counts one release"),
        (
            lambda: outer.policy_gradient(agent, advantage, outer.PenalisedConfig(), aggregate=mean),
            "kl_target is 0.01; the weights adapt to the clients' KL divergence, which is not noised",
        ),
        (
            lambda: outer.policy_gradient(
                agent, advantage, plain, aggregate=mean, credit=outer.standardized_credit(advantage, 1.0)
            ),
            "credit compares the clients' returns, which are not noised",
        ),
        (
            lambda: outer.follow_query(supervised, tiny.waves().env, 1, masked, aggregate=mean),
            "max_task_gradient is 5.0; whether a client is masked is not noised",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            build()
    outer.policy_gradient(agent, advantage, plain, aggregate=mean)
    outer.trust_region(agent, advantage, aggregate=private(clip=1.0))


@functools.cache
def sampler(clients=CLIENTS, per_update=5, **options):
    return outer.participation(tiny.waves(), per_update, 100, clients, **options)


def draws(clients=CLIENTS, per_update=5, count=2000):
    """The slots and weights of many updates, [count, places]."""
    one = sampler(clients, per_update)
    size = outer.places(clients.number, per_update, clients) * clients.tasks
    state = one.init(jax.random.key(0))

    def draw(key):
        found = one.sample(state, (), jax.random.split(key, size))[1]
        return found.slot, found.weight

    return map(np.asarray, jax.jit(jax.vmap(draw))(jax.random.split(jax.random.key(1), count)))


@pytest.mark.parametrize("clients", [CLIENTS, POISSON], ids=["fixed", "poisson"])
def test_participation_holds_the_contract_of_samplers(clients):
    family = tiny.family()
    size = outer.places(20, 5, clients)
    testing.check_sampler(outer.participation(family, 5, 100, clients), family, num_tasks=size)


def test_fixed_participation_is_without_replacement_and_uniform():
    slot, weight = draws()
    assert slot.shape == (2000, 5) and (weight == 1.0).all()
    assert all(len(set(row)) == 5 for row in slot.tolist())
    counts = np.bincount(slot.ravel(), minlength=20)
    np.testing.assert_allclose(counts / 2000, 0.25, atol=5 * math.sqrt(0.25 * 0.75 / 2000))


def test_poisson_participation_is_independent():
    slot, weight = draws(POISSON)
    comes = np.zeros((2000, 20))
    np.put_along_axis(comes, slot, weight, axis=1)
    np.testing.assert_allclose(comes.mean(0), 0.25, atol=5 * math.sqrt(0.25 * 0.75 / 2000))
    count = comes.sum(1)
    assert count.var() == pytest.approx(20 * 0.25 * 0.75, rel=0.15)  # it would be 0 if the number were fixed
    pairs = np.corrcoef(comes.T) - np.eye(20)
    assert np.abs(pairs).max() < 5 / math.sqrt(2000)


def test_everybody_takes_part_in_order():
    for clients in (CLIENTS, POISSON):
        slot, weight = draws(clients, per_update=20, count=2)
        np.testing.assert_array_equal(slot, [range(20)] * 2)
        assert (weight == 1.0).all()


def test_there_are_places_for_all_but_a_negligible_probability():
    clients = outer.ClientsConfig(number=10_000, participation="poisson")
    size = outer.places(10_000, 200, clients)

    def more_than(size):
        logs = [
            math.lgamma(10_001) - math.lgamma(k + 1) - math.lgamma(10_001 - k) + k * math.log(0.02)
            + (10_000 - k) * math.log(0.98)
            for k in range(size + 1, size + 300)
        ]  # fmt: skip
        return sum(map(math.exp, logs))

    assert outer.overflow(10_000, 200, clients) == pytest.approx(more_than(size), rel=1e-3)
    assert more_than(size) <= 1e-18 < more_than(size - 8)
    assert (size % 8, outer.places(20, 5, POISSON), outer.overflow(20, 5, POISSON)) == (0, 20, 0.0)
    assert outer.places(10_000, 200, outer.ClientsConfig(number=10_000)) == 200


def test_if_too_many_come_a_random_part_of_them_takes_part(monkeypatch):
    monkeypatch.setattr(importlib.import_module("jaxmeta.outer.participation"), "OVERFLOW", 0.9)
    clients = outer.ClientsConfig(number=40, participation="poisson")
    assert outer.places(40, 16, clients) == 16
    one = outer.participation(tiny.waves(), 16, 100, clients)
    keys = jax.vmap(lambda key: jax.random.split(key, 16))(jax.random.split(jax.random.key(1), 2000))
    drawn = jax.jit(jax.vmap(lambda keys: one.sample(one.init(keys[0]), (), keys)[1]))(keys)
    full = np.asarray(drawn.weight).all(1)
    assert 0.3 < full.mean() < 0.7
    counts = np.bincount(np.asarray(drawn.slot)[full].ravel(), minlength=40) / full.sum()
    np.testing.assert_allclose(counts, 0.4, atol=5 * math.sqrt(0.4 * 0.6 / full.sum()))


def test_a_client_keeps_its_tasks():
    clients = outer.ClientsConfig(number=3, tasks=2)
    one = outer.participation(tiny.waves(), 3, 100, clients)
    state = one.init(jax.random.key(0))
    first, second = (one.sample(state, (), jax.random.split(jax.random.key(i), 6))[1] for i in (1, 2))
    chex.assert_trees_all_equal(first.tasks, second.tasks)
    np.testing.assert_array_equal(first.slot, range(6))
    assert len(np.unique(first.tasks.generator.phase)) == 6
    family = tiny.waves()._replace(train_tasks=first.tasks)
    known = outer.participation(family, 2, 100, clients)
    draw = known.sample((), (), jax.random.split(jax.random.key(3), 4))[1]
    np.testing.assert_array_equal(draw.tasks.generator.phase, first.tasks.generator.phase[draw.slot])
    assert outer.num_clients(family, clients) == 3
    with pytest.raises(ValueError, match="clients.tasks is 4; it must divide the training tasks, which are 6"):
        outer.num_clients(family, outer.ClientsConfig(tasks=4))


def test_bytes_are_counted_of_those_who_come_and_expected_if_that_is_private():
    weight = jnp.array([1.0, 0.0, 1.0, 0.0])
    draw = outer.Draw((), jnp.arange(4), weight)
    for is_private, count in ((False, 2.0), (True, 5.0)):
        update = sampler(POISSON, is_private=is_private).update
        _, metrics = update((), draw, jnp.zeros(4), jnp.ones(4, bool))
        assert metrics == {"participants": count, "bytes_down": 100 * count, "bytes_up": 100 * count}
