"""Federated recipes: FedAvg is Reptile, Per-FedAvg is MAML or FOMAML, and a private run logs nothing of its clients."""

from __future__ import annotations

import dataclasses
import functools
import pathlib

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxmeta as jm
from jaxmeta import outer, rl
from jaxmeta.algos.federated.server import ServerConfig
from jaxmeta.experiment import assessment, loading
from tests import tiny

FAMILY = jm.finite(tiny.waves(), 4, 1, jax.random.key(5))
ENV = FAMILY.env
POISSON = outer.ClientsConfig(number=12, participation="poisson")
PRIVATE = outer.PrivateConfig(noise_multiplier=1.0, clip=0.5, delta=1e-3)
ADAM = ServerConfig("adam", 1e-3)
ONE_BY_ONE = outer.masked(1e30)
"""Differentiates each task by itself, as clients do, so that sums have the same order and the same bits."""


def config(**changes):
    return jm.FewShotFederatedConfig(**{"num_tasks": 4, "hidden": (8,), "inner_lr": 0.1} | changes)


def updated(meta, count=1):
    """The states before and after some updates, and the metrics of the last."""
    before = after = meta.init(jax.random.key(0))
    program = jax.jit(meta.update)
    for _ in range(count):
        after, metrics = program(after)
    return before, after, metrics


def on_all(agent, improve, rounds):
    """Every training task in every update, by an outer loop that knows nothing of clients."""

    def sample(state, params, keys):
        return state, outer.Draw(FAMILY.train_tasks, jnp.arange(4), jnp.ones(4))

    sampler = outer.Sampler(
        lambda key: (), sample, lambda params, outcome: jnp.zeros(()), lambda state, *_: (state, {})
    )
    plan = jm.Plan(rounds=rounds)
    return outer.meta_update(agent, plan, sampler, outer.examples(plan), improve, outer.Info(4, plan, spread=4))


@functools.cache
def with_clip(method, clip):
    """What two updates with full participation give."""
    rounds = 3 if method == "fedavg" else 1
    server = ServerConfig() if method == "fedavg" else ADAM
    built = config(method=method, rounds=rounds, server=server, private=outer.PrivateConfig(clip=clip))
    meta = jm.federated(FAMILY, built)
    return meta, updated(meta, 2)


@pytest.mark.parametrize("clip", [None, 1e30])
def test_fedavg_with_a_full_step_is_reptile(clip):
    meta, (_, after, metrics) = with_clip("fedavg", clip)
    adapted = outer.after_batches(meta.learner, ENV, 3)
    improve = outer.reptile(adapted, outer.ReptileConfig(1.0), piece=outer.few_rows, aggregate=ONE_BY_ONE)
    _, expected, told = updated(on_all(meta.learner, improve, 3), 2)
    chex.assert_trees_all_equal(after.params, expected.params)
    assert metrics["loss"] == told["loss"] and metrics["participants"] == 4.0


@pytest.mark.parametrize("clip", [None, 1e30])
@pytest.mark.parametrize("method", ["per-fedavg", "per-fedavg-fo"])
def test_per_fedavg_is_maml_over_clients(method, clip):
    _, (before, after, metrics) = with_clip(method, clip)
    recipe, kind = (jm.maml, jm.FewShotMAMLConfig) if method == "per-fedavg" else (jm.fomaml, jm.FewShotFOMAMLConfig)
    agent = recipe(FAMILY, kind(num_tasks=4, hidden=(8,), inner_lr=0.1)).learner
    _, expected, told = updated(on_all(agent, outer.follow_query(agent, ENV, 1, aggregate=ONE_BY_ONE), 1), 2)
    # up to the last bit: the norm that `ONE_BY_ONE` looks at changes how the compiler orders operations
    chex.assert_trees_all_close(after.params, expected.params, rtol=1e-6, atol=1e-8)
    for name in ("loss", "grad_norm"):
        np.testing.assert_allclose(metrics[name], told[name], rtol=1e-6)
    size = 4 * sum(leaf.size for leaf in jax.tree.leaves(before.params))
    assert metrics["bytes_up"] == metrics["bytes_down"] == 4 * size


def test_both_kinds_of_per_fedavg_differ():
    (_, (_, exact, _)), (_, (_, first, _)) = (with_clip(name, None) for name in ("per-fedavg", "per-fedavg-fo"))
    assert any((a != b).any() for a, b in zip(*map(jax.tree.leaves, (exact.params, first.params)), strict=True))


def test_one_local_step_is_a_step_on_the_mean_loss_of_all_data():
    meta = jm.federated(FAMILY, config(rounds=1))
    before, after, _ = updated(meta)
    _, loss = config(rounds=1).problem(FAMILY)

    def central(theta):
        each = jax.vmap(lambda task: loss(theta, ENV.experience(task)))(FAMILY.train_tasks)
        return jnp.mean(each)

    expected = jax.tree.map(
        lambda leaf, slope: leaf - 0.1 * slope, before.params.policy, jax.jit(jax.grad(central))(before.params.policy)
    )
    chex.assert_trees_all_close(after.params.policy, expected, rtol=1e-5, atol=1e-7)


def test_a_server_with_momentum_accumulates_what_it_gets():
    tx, params = ServerConfig("momentum", 0.5).build(), jnp.zeros(3)
    state, steps = tx.init(params), []
    for _ in range(2):
        step, state = tx.update(jnp.ones(3), state, params)
        steps.append(float(step[0]))
    np.testing.assert_allclose(steps, [-0.5, -0.5 * 1.9])
    tx = ServerConfig("sgd", 0.5, anneal_over=2).build()
    state = tx.init(params)
    rates = []
    for _ in range(3):
        step, state = tx.update(jnp.ones(3), state, params)
        rates.append(-float(step[0]))
    np.testing.assert_allclose(rates, [0.5, 0.25, 0.0])


@functools.cache
def private_run():
    pytest.importorskip("dp_accounting")
    meta = jm.federated(tiny.waves(), config(method="per-fedavg", clients=POISSON, private=PRIVATE))
    return meta, updated(meta, 2)


NOTHING_OF_CLIENTS = {
    "bytes_down",
    "bytes_up",
    "env_steps",
    "grad_norm",
    "participants",
    "privacy/delta",
    "privacy/epsilon",
}


def test_a_private_run_logs_nothing_of_its_clients():
    meta, (before, after, metrics) = private_run()
    assert set(metrics) == NOTHING_OF_CLIENTS
    assert (metrics["participants"], metrics["env_steps"], meta.info.num_tasks) == (4.0, 24.0, 12)
    chex.assert_tree_all_finite(after.params)
    assert optax.tree.norm(jax.tree.map(jnp.subtract, after.params, before.params)) > 0


def test_epsilon_is_logged_and_part_of_the_evaluation():
    meta, (_, after, metrics) = private_run()
    expected = jm.privacy.epsilon(1.0, 4 / 12, 2, 1e-3)
    np.testing.assert_allclose(metrics["privacy/epsilon"], expected, rtol=1e-5)
    assert metrics["privacy/delta"] == np.float32(1e-3)
    settings = config(method="per-fedavg", clients=POISSON, private=PRIVATE)
    found = settings.guarantee(tiny.waves(), 4, 2)
    assert found == {
        "epsilon": pytest.approx(expected, rel=1e-5),
        "delta": pytest.approx(1e-3),
        "unit": "client",
        "clients": 12,
        "sampling_rate": 4 / 12,
        "updates": 2,
        "noise_multiplier": 1.0,
        "clip": 0.5,
    }
    told = jm.RunConfig("federated", "sinusoid", settings, jm.tasks.SinusoidConfig(shots=3, queries=4))
    run = loading.Run(pathlib.Path(), told, tiny.waves(), meta, after)
    assert assessment.assess(run, num_tasks=2)["privacy"] == found
    told = dataclasses.replace(told, algo_config=dataclasses.replace(settings, private=outer.PrivateConfig()))
    assert "privacy" not in assessment.assess(dataclasses.replace(run, config=told), num_tasks=2)


def test_devices_make_no_difference_to_a_private_update():
    meta, _ = private_run()
    state = meta.init(jax.random.key(0))
    (one, *_), (two, *_) = (step_on(meta, state, count) for count in (1, 2))
    chex.assert_trees_all_close(two, one, rtol=1e-5, atol=1e-7)


def step_on(meta, state, num_devices):
    with jax.set_mesh(jm.Execution(num_devices).mesh(meta.info.spread)):
        after, metrics = jax.jit(meta.update)(state)
    return jax.device_get((after.params, metrics))


@pytest.mark.parametrize("method", ["fedavg", "per-fedavg"])
def test_private_reinforcement_learning_logs_nothing_of_its_clients(method):
    """The names of the metrics are known before anything is compiled."""
    pytest.importorskip("dp_accounting")
    built = jm.FederatedConfig(**tiny.STEPS, method=method, clients=POISSON, private=PRIVATE)
    meta = jm.federated(tiny.family(), built)
    _, metrics = jax.eval_shape(meta.update, jax.eval_shape(meta.init, jax.random.key(0)))
    assert set(metrics) == NOTHING_OF_CLIENTS


@pytest.mark.slow
def test_fedavg_and_per_fedavg_of_policies_are_reptile_and_the_policy_gradient_of_maml():
    """With full participation of a finite set of tasks; up to rounding, as XLA fuses the two programs differently."""
    family = jm.finite(tiny.family(), 2, 1, jax.random.key(5))
    plan = jm.Plan(rounds=1, streams=3)

    def sample(state, params, keys):
        return state, outer.Draw(family.train_tasks, jnp.arange(2), jnp.ones(2))

    sampler = outer.Sampler(
        lambda key: (), sample, lambda params, outcome: jnp.zeros(()), lambda state, *_: (state, {})
    )
    advantage, plain = rl.linear_baseline(), outer.PolicyGradientConfig(clip=None, epochs=1)
    server = ServerConfig("adam", 1e-3)
    for method in ("fedavg", "per-fedavg"):
        meta = jm.federated(family, jm.FederatedConfig(**tiny.STEPS, method=method, server=server))
        agent = meta.learner
        if method == "fedavg":
            improve = outer.reptile(outer.after_last_round(agent), tx=server.build())
        else:
            improve = outer.policy_gradient(agent, advantage, plain, aggregate=outer.masked(), tx=server.build())
        source, info = outer.fresh(agent, family, plan), outer.Info(2, plan, spread=2)
        expected = updated(outer.meta_update(agent, plan, sampler, source, improve, info))
        _, after, metrics = updated(meta)
        chex.assert_trees_all_close(after.params, expected[1].params, rtol=1e-5, atol=1e-8)
        np.testing.assert_allclose(metrics["return/last"], expected[2]["return/last"], rtol=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"private": PRIVATE}, "clients.participation is 'fixed'; with noise ε is accounted for 'poisson' only"),
        ({"method": "fedprox"}, "method is 'fedprox'; it must be one of fedavg, per-fedavg, per-fedavg-fo"),
        ({"num_tasks": 0}, "num_tasks is 0; it must be at least 1"),
    ],
)
def test_bad_settings_are_refused_in_one_line(changes, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        config(**changes)


def test_what_the_server_cannot_do_is_refused():
    with pytest.raises(ValueError, match="^normalize_observations is True; clients send params or gradients only"):
        jm.FederatedConfig(normalize_observations=True)
    with pytest.raises(ValueError, match="^num_tasks is 5; an update cannot have more clients than there are, 4$"):
        jm.federated(FAMILY, config(num_tasks=5))
    with pytest.raises(ValueError, match="^learning_rate is 0.0; it must be positive$"):
        ServerConfig(learning_rate=0.0)
