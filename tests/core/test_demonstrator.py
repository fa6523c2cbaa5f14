"""A demonstrator in round 0: whose actions, whose output, and what an evaluation reports."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxmeta as jm
from jaxmeta import outer
from jaxmeta.core.rollout import collect, replay
from jaxmeta.references import experts
from tests import tiny

FAMILY, PLAN = tiny.family(), jm.Plan(rounds=1, streams=2)
TASKS = jax.vmap(FAMILY.sample_test)(jax.random.split(jax.random.key(1), 4))
TASK = jax.tree.map(lambda leaf: leaf[0], TASKS)
LEARNER = tiny.algo("mil").learner
DEMONSTRATE = outer.demonstrator(experts.planner(FAMILY), FAMILY.env, PLAN)


@pytest.fixture(scope="module")
def params():
    return LEARNER.init(jax.random.key(0))


def test_the_agent_adapts_to_the_demonstration_and_a_replay_equals_the_trial(params):
    key = jax.random.key(3)

    @jax.jit
    def both(params):
        trial = collect(LEARNER, params, FAMILY.env, TASK, key, PLAN, DEMONSTRATE)
        return trial, replay(LEARNER, params, trial)

    trial, again = both(params)
    obs, action = trial.rounds.inputs.obs, trial.rounds.action
    straight = jnp.clip(TASK.goal - obs, -0.1, 0.1)
    valid = trial.rounds.valid[..., None] > 0
    np.testing.assert_allclose(jnp.where(valid, action, 0.0)[0], jnp.where(valid, straight, 0.0)[0], atol=1e-6)
    assert (jnp.abs(jnp.where(valid, action - straight, 0.0)[1]) > 1e-3).any()  # round 1 is the agent's
    for one, other in zip(*map(jax.tree.leaves, (again, trial.rounds.output)), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


@pytest.mark.parametrize("deterministic", [False, True])
def test_an_evaluation_reports_the_demonstration_as_round_0(deterministic, params):
    key = jax.random.key(2)
    report = jm.evaluate(LEARNER, params, FAMILY, TASKS, key, PLAN, deterministic, demonstrate=DEMONSTRATE)
    planner = experts.planner(FAMILY)
    best = jm.evaluate(planner.learner, (), jm.tasks.reveal(FAMILY), TASKS, key, jm.Plan(streams=2), demonstrate=None)
    assert report.returns.shape == (4, 2, 2, 1)
    np.testing.assert_allclose(report.returns[:, 0], best.returns[:, 0], rtol=1e-5)  # navigation starts at the origin
    assert (report.returns[:, 1] < report.returns[:, 0]).all()


def test_a_demonstration_needs_an_adaptation_and_the_shape_of_the_plan(params):
    with pytest.raises(ValueError, match="plan.rounds is 0; with a demonstrator"):
        jm.evaluate(LEARNER, params, FAMILY, TASKS, jax.random.key(0), jm.Plan(), demonstrate=DEMONSTRATE)
    with pytest.raises(ValueError, match=r"demonstrate returns \[4, 2\] steps and streams; .* has \[4, 1\]"):
        plan = jm.Plan(rounds=1)
        jm.evaluate(LEARNER, params, FAMILY, TASKS, jax.random.key(0), plan, demonstrate=DEMONSTRATE)
