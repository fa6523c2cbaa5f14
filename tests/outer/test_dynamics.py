"""The prior of a model of dynamics: its statistics, its replay buffer, and what it learns."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmeta import nets, outer, rl, tasks
from jaxmeta.core.rollout import collect
from jaxmeta.outer.meta_update import Batch
from jaxmeta.references import base
from jaxmeta.rl import replay as rings
from jaxmeta.types import Plan

KEY = jax.random.key(0)
FAMILY = tasks.double_integrator(tasks.DoubleIntegratorConfig(horizon=6))
SPEC, MEMBERS = FAMILY.env.spec, 3
MODEL = nets.gaussian_dynamics(*nets.dynamics_sizes(SPEC, True), (16,))
RING = outer.dynamics_ring(SPEC, MODEL, MEMBERS, capacity=100)
CONFIG = outer.DynamicsConfig(steps=150, batch_size=16, learning_rate=1e-2)


@pytest.fixture(scope="module")
def updated():
    """Trials of random actions, their rows, and the params before and after an improvement on them."""
    agent, plan = base.undirected(SPEC.action), Plan(rounds=1, streams=2)
    drawn, keys = jax.vmap(FAMILY.sample)(jax.random.split(KEY, 4)), jax.random.split(KEY, 4)
    improve = outer.fit_dynamics(SPEC, MODEL, MEMBERS, CONFIG, strata=2)

    @jax.jit
    def run():
        trials = jax.vmap(lambda task, key: collect(agent, (), FAMILY.env, task, key, plan))(drawn, keys)
        rows, valid = RING.rows(trials, drawn)
        kept = rings.empty_rings(2, 100, RING.width)
        halves = (leaf.reshape(2, -1, *leaf.shape[2:]) for leaf in (rows, valid))
        kept = rings.write(kept, jnp.arange(2), *halves)
        model = nets.ensemble(MODEL, MEMBERS).init(KEY)
        params = rl.DynamicsParams(model, rl.dynamics_statistics(MODEL.inputs, MODEL.outputs))
        batch = Batch((trials, {"transitions": kept}), keys, jnp.ones(4))
        after, opt_state, metrics = improve.step(params, improve.init(params), batch, jnp.int32(0))
        return trials, rows, params, after, opt_state, metrics

    return run()


def test_the_statistics_are_those_of_all_transitions(updated):
    _, rows, params, after, _, _ = updated
    flat = np.asarray(rows.reshape(-1, RING.width)[:, :6], np.float64)
    assert float(after.statistics.count) == len(flat) == 96
    np.testing.assert_allclose(np.concatenate(after.statistics.mean), flat.mean(0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(np.concatenate(after.statistics.variance), flat.var(0), rtol=1e-4)
    assert float(params.statistics.count) == 0.0


def test_rows_are_inputs_outputs_and_counts_of_the_bootstrap(updated):
    trials, rows, *_ = updated
    first = jax.tree.map(lambda leaf: leaf[2, 1, :, 1], trials.rounds.replace(output=(), reset_key=()))
    # the model sees actions as the environment does, clipped to the limit of 1
    expected = jnp.concatenate(
        [first.inputs.obs, jnp.clip(first.action, -1.0, 1.0), first.next_obs - first.inputs.obs, first.reward[:, None]],
        axis=1,
    )
    # the second stream of the second round of the third task
    np.testing.assert_allclose(rows[2, 18:24, :6], expected, rtol=1e-6)
    counts = np.asarray(rows[..., 6:]).reshape(-1)
    assert (counts == np.round(counts)).all()
    np.testing.assert_allclose(counts.mean(), 1.0, atol=4 / len(counts) ** 0.5)


def test_the_prior_predicts_the_transitions_and_the_optimiser_does_not_see_the_statistics(updated):
    _, rows, params, after, opt_state, metrics = updated
    x, y = rl.standardised(after.statistics, (rows[..., :3], rows[..., 3:6]))

    def error(model):
        many = lambda leaf: jnp.broadcast_to(leaf, (MEMBERS, *leaf.shape))  # noqa: E731
        return float(jnp.square(nets.ensemble(MODEL, MEMBERS).apply(model, many(x)).mean - y).mean())

    assert error(params.model) > 0.5 and error(after.model) < 0.1
    assert np.isfinite(float(metrics["loss/model"]))
    moments = [leaf for leaf in jax.tree.leaves(opt_state) if leaf.ndim]
    assert sorted(leaf.shape for leaf in moments) == sorted(2 * [leaf.shape for leaf in jax.tree.leaves(params.model)])


def test_an_update_without_a_prior_changes_nothing():
    improve = outer.unchanged()
    assert improve.step("params", improve.init("params"), None, None) == ("params", (), {})  # pyright: ignore
