"""Refitted ensembles: bootstrap, early stopping, what is kept between rounds, exploration and replay."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxmeta as jm
from jaxmeta import inner, nets, rl, tasks
from jaxmeta.core.rollout import acting_bytes, carry_bytes, collect, replay, replay_fast
from jaxmeta.nets import Prediction
from jaxmeta.types import Plan

KEY = jax.random.key(0)
FAMILY = tasks.double_integrator(tasks.DoubleIntegratorConfig(horizon=6, gain=(0.5, 1.5)))
SPEC = FAMILY.env.spec
PLANNER = rl.cem(SPEC.action, 3, 8, 3, iterations=2)
FIT = inner.FitConfig(steps=4, epochs=3, batch_size=8, capacity=20, held_out=0.25)
MODEL = nets.gaussian_dynamics(*nets.dynamics_sizes(SPEC, False), (8,))
AGENT = inner.model_predictive(SPEC, MODEL, PLANNER, inner.Imagination(FAMILY.planning_reward, members=2), FIT)
PLAN = Plan(rounds=2)


def test_counts_of_the_bootstrap_are_poisson_with_mean_one_and_zero_where_held_out():
    counts, held = inner.bootstrap(KEY, 20_000, 4, 0.2)
    counts, held = np.asarray(counts), np.asarray(held) > 0
    # four standard errors
    assert abs(held.mean() - 0.2) < 4 * 0.4 / 20_000**0.5
    assert (counts[held] == 0).all()
    drawn = counts[~held]
    np.testing.assert_allclose(drawn.mean(0), 1.0, atol=4 / 16_000**0.5)
    np.testing.assert_allclose(drawn.var(0), 1.0, atol=0.06)
    assert np.abs(np.corrcoef(drawn.T) - np.eye(4)).max() < 0.04


def constant(slope=0.0):
    """A model whose only param is its prediction."""
    return nets.Dynamics(
        1,
        1,
        init=lambda key: jnp.zeros(1),
        apply=lambda params, x: Prediction(params + slope * x, jnp.zeros_like(params + x)),
        penalty=lambda params: jnp.zeros(()),
        probabilistic=False,
    )


def fit(outputs, held, config, start=(0.0, 0.0)):
    model = constant()
    params = jnp.array(start)[:, None]
    size = len(outputs)
    counts = jnp.ones((size, 2)) * (1.0 - held[:, None])
    data = inner.FitData(jnp.zeros((size, 1)), outputs[:, None], counts, held, jnp.int32(size))
    opt_state = jax.vmap(config.optimiser().init)(params)
    return jax.jit(lambda: inner.fitted(model, config, params, opt_state, data, KEY))()


def test_early_stopping_keeps_the_params_with_the_lowest_held_out_loss():
    # the data pull to 1, and what is held out says 0.3: a fit to the end would pass it
    outputs, held = jnp.where(jnp.arange(40) < 30, 1.0, 0.3), (jnp.arange(40) >= 30).astype(jnp.float32)
    config = inner.FitConfig(learning_rate=0.01, weight_decay=0.0, steps=5, epochs=200, patience=3, batch_size=8)
    found = fit(outputs, held, config)
    np.testing.assert_allclose(found.model, 0.3, atol=0.06)
    assert float(found.loss.max()) < 0.5 * 0.06**2
    without = fit(outputs, jnp.zeros(40), dataclasses.replace(config, held_out=0.0))
    assert float(without.model.min()) > 0.55


def test_a_member_that_does_not_improve_stays_as_it_was():
    outputs, held = jnp.where(jnp.arange(40) < 30, 1.0, 0.3), (jnp.arange(40) >= 30).astype(jnp.float32)
    config = inner.FitConfig(learning_rate=0.01, weight_decay=0.0, steps=5, epochs=20, patience=2, batch_size=8)
    found = fit(outputs, held, config, start=(0.3, 0.0))
    assert float(found.model[0, 0]) == pytest.approx(0.3, abs=1e-7) and float(found.model[1, 0]) > 0.1


@pytest.fixture(scope="module")
def trial():
    """Params, and a trial of three rounds."""
    params = AGENT.init(KEY)
    run = jax.jit(lambda task, key: collect(AGENT, params, FAMILY.env, task, key, PLAN))
    return params, run(FAMILY.sample(KEY), jax.random.key(1))


def test_the_first_round_explores_and_later_ones_plan(trial):
    _, found = trial
    drawn, action = found.rounds.output.aux.drawn, found.rounds.action
    np.testing.assert_array_equal(action[0], drawn[0])
    assert float(jnp.abs(action[1:] - drawn[1:]).min()) > 0
    assert float(jnp.abs(action).max()) <= 1.0


def test_replay_plans_the_same_actions_as_the_collection(trial):
    params, found = trial
    again = jax.jit(lambda: replay(AGENT, params, found))()
    np.testing.assert_allclose(again.dist, found.rounds.action, rtol=1e-5, atol=1e-6)


def test_a_refit_keeps_all_transitions_their_statistics_and_the_bootstrap(trial):
    params, found = trial
    fast = jax.jit(lambda: replay_fast(AGENT, params, found))()
    assert fast.rounds.tolist() == [0, 1, 2] and fast.ring.written[:, 0].tolist() == [0, 6, 12]
    rows = fast.ring.rows[2, 0, :12]
    obs = found.rounds.inputs.obs[:2, :, 0].reshape(12, 2)
    action = found.rounds.action[:2, :, 0].reshape(12, 1)
    change = found.rounds.next_obs[:2, :, 0].reshape(12, 2) - obs
    np.testing.assert_allclose(rows[:, :5], jnp.concatenate([obs, action, change], 1), rtol=1e-6)
    np.testing.assert_array_equal(rows[:6], fast.ring.rows[1, 0, :6])
    np.testing.assert_allclose(fast.statistics.mean[1][2], change.mean(0), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(fast.statistics.variance[0][2], rows[:, :3].var(0), rtol=1e-3, atol=1e-6)
    assert float(jnp.abs(rows[:, 5:7] * rows[:, 7:]).max()) == 0.0


def test_statistics_of_a_prior_stay_those_of_all_tasks(trial):
    params, found = trial
    counted = params.replace(statistics=params.statistics.replace(count=jnp.float32(10.0)))
    first = jax.tree.map(lambda leaf: leaf[0], found.rounds)
    fast = jax.jit(lambda: AGENT.adapt(counted, AGENT.start(counted, KEY), first, KEY))()
    np.testing.assert_array_equal(fast.statistics.mean[0], 0.0)
    np.testing.assert_array_equal(fast.statistics.variance[1], 1.0)


def test_a_plan_is_blank_at_the_start_of_an_episode_and_counts_its_steps():
    carry = inner.PlanCarry(jnp.ones((3, 1)), jnp.int32(6), KEY)
    given = SPEC.example_input()
    going, ended = (carry.at(PLANNER, given.replace(prev_done=jnp.float32(done))) for done in (0.0, 1.0))
    np.testing.assert_array_equal(going.plan, 1.0)
    np.testing.assert_array_equal(ended.plan, 0.0)
    assert (int(going.time), int(ended.time), int(going.after(going.plan, KEY).time)) == (6, 0, 7)


def test_what_a_planner_imagines_counts_when_tasks_are_stepped_in_parallel():
    params = AGENT.init(KEY)
    small = acting_bytes(AGENT, params, SPEC)
    assert small == carry_bytes(AGENT, params)
    wide = inner.model_predictive(
        SPEC, MODEL, rl.cem(SPEC.action, 3, 1000, 3), inner.Imagination(FAMILY.planning_reward, members=2), FIT
    )
    # two members with 1,000 candidates each, and hidden layers of 8 numbers of 4 bytes
    assert acting_bytes(wide, params, SPEC) >= carry_bytes(wide, params) + 2 * 1000 * 8 * 4


def test_a_learned_reward_is_the_last_output_of_the_model():
    size = nets.dynamics_sizes(SPEC, True)
    assert size == (3, 3)
    blank = rl.dynamics_statistics(*size)
    model = constant()._replace(apply=lambda params, x: Prediction(params + 0.0 * x, jnp.zeros_like(x)))
    imagine = inner.imagining(SPEC, model, blank, None)
    after, reward = imagine(jnp.array([0.5, -1.0, 7.0]), jnp.zeros((4, 2)), jnp.zeros((4, 1)), jnp.zeros((4, 3)))
    np.testing.assert_allclose(after, jnp.broadcast_to(jnp.array([0.5, -1.0]), (4, 2)), rtol=1e-6)
    np.testing.assert_allclose(reward, 7.0, rtol=1e-6)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"planner": {"horizon": 7}}, "horizon is 7; a plan must not be longer than an episode, 6 steps"),
        ({"fit": {"capacity": 5}}, "fit.capacity is 5; a round has 6 transitions"),
        ({"dynamics": {"capacity": 300}}, "dynamics.capacity is 300; the trials of an update have 480 transitions"),
    ],
)
def test_bad_input_of_pets(config, message):
    usual = jm.PETSConfig(planner=dataclasses.replace(jm.PETSConfig.planner, horizon=3))
    fields = {name: dataclasses.replace(getattr(usual, name), **values) for name, values in config.items()}
    with pytest.raises(ValueError, match=message):
        jm.pets(FAMILY, dataclasses.replace(usual, **fields))


def test_pets_says_which_planner_takes_discrete_actions():
    with pytest.raises(ValueError, match="planner is 'cem', .* the tasks have Discrete actions .try 'random'"):
        jm.pets(tasks.cart_pole())


@pytest.mark.slow
def test_pets_solves_the_double_integrator_within_five_trials():
    family = tasks.double_integrator()
    planner = dataclasses.replace(jm.PETSConfig.planner, horizon=4, candidates=100, iterations=8)
    config = jm.PETSConfig(episodes=6, members=3, hidden=(32, 32), planner=planner)
    meta = jm.pets(family, config)
    drawn = jax.vmap(family.sample_test)(jax.random.split(KEY, 3))
    report = jm.evaluate(meta.learner, meta.init(KEY).params, family, drawn, jax.random.key(2), meta.plan)
    assert float(report.returns[:, -1].mean()) > -0.0005
