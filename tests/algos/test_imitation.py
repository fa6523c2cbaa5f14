"""Cloning and DAgger against closed forms: least squares, empirical frequencies, and the cost of compounding errors."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxmeta as jm
from jaxmeta import outer
from jaxmeta.algos.imitation.dagger import BetaConfig
from jaxmeta.algos.imitation.student import PerceptronConfig, StudentConfig
from jaxmeta.types import Discrete, Rollout, Spec
from tests.outer.test_imitation import FAMILY, LEAVE, ON, STAY

LINEAR = StudentConfig(network="perceptron", perceptron=PerceptronConfig(hidden=()))


def demonstrations(spec: Spec, obs: np.ndarray, action: np.ndarray) -> jm.Demonstrations:
    """One task, with observations [T, E, ...] and actions [T, E, ...]."""
    shape = obs.shape[:2]
    zero, one = np.zeros((1, *shape), np.float32), np.ones((1, *shape), np.float32)
    example = jax.tree.map(lambda leaf: np.zeros((1, *shape, *leaf.shape), leaf.dtype), spec.example_input())
    rollouts = Rollout(
        inputs=example.replace(obs=obs[None]),
        action=action[None],
        next_obs=obs[None],
        reward=zero,
        valid=one,
        done=zero,
        terminated=zero,
        output=(),  # pyright: ignore[reportArgumentType]
        reset_key=jax.random.split(jax.random.key(0), (1, shape[1])),
        success=zero > 0,
        fault=zero.astype(np.int8),
    )
    return jm.Demonstrations.of(rollouts, spec)


def cloned(family: jm.TaskFamily, data: jm.Demonstrations, updates: int, learning_rate: float):
    """Trains a linear student on demonstrations; returns its learner, params and the last loss."""
    step = outer.ImitationConfig(learning_rate=learning_rate, anneal_over=updates, max_grad_norm=1e6)
    meta = jm.clone(family, jm.CloneConfig(student=LINEAR, num_tasks=1, imitation=step))
    losses = []
    state = jm.train(
        meta,
        jm.init_state(meta, jax.random.key(0)),
        updates,
        chunk=updates,
        data=data,
        callbacks=[lambda update, state, metrics: losses.append(metrics["loss"][-1])],
    )
    return meta.learner, jax.device_get(state.params), losses[-1]


def test_cloning_a_linear_gaussian_expert_is_least_squares():
    family = jm.tasks.point_robot(jm.tasks.PointRobotConfig(horizon=30))
    random = np.random.default_rng(0)
    obs = random.uniform(-1, 1, (30, 4, 2)).astype(np.float32)
    gain, offset = np.array([[0.5, -0.3], [0.2, 0.4]]), np.array([0.1, -0.2])
    action = (obs @ gain + offset + 0.1 * random.standard_normal(obs.shape)).astype(np.float32)
    learner, params, _ = cloned(family, demonstrations(family.env.spec, obs, action), 2000, 0.03)
    design = np.concatenate([obs.reshape(-1, 2), np.ones((120, 1))], axis=1).astype(np.float64)
    solution, *_ = np.linalg.lstsq(design, action.reshape(-1, 2).astype(np.float64), rcond=None)
    residual = action.reshape(-1, 2) - design @ solution
    inputs = family.env.spec.example_input()
    probes = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    found = [learner.act(params, (), (), inputs.replace(obs=jnp.float32(one)))[1].dist for one in probes]
    expected = np.concatenate([probes, np.ones((3, 1))], axis=1) @ solution
    np.testing.assert_allclose(np.stack([one.loc for one in found]), expected, atol=1e-5)
    np.testing.assert_allclose(np.exp(found[0].log_scale), residual.std(0), rtol=1e-4)


def test_cloning_tabular_demonstrations_gives_the_empirical_frequencies():
    states, actions = 3, 4
    env = jm.tasks.Tabular(states, actions, 50)
    family = jm.tasks.tabular()._replace(env=env)
    family = jm.tasks.tabular(jm.tasks.TabularConfig(num_states=states, num_actions=actions, horizon=50))
    random = np.random.default_rng(1)
    state = random.integers(0, states, (50, 6))
    action = random.choice(actions, (50, 6), p=[0.5, 0.25, 0.15, 0.1]).astype(np.int32)
    action = np.where(state == 1, (action + 1) % actions, action).astype(np.int32)
    obs = np.eye(states, dtype=np.float32)[state]
    learner, params, loss = cloned(family, demonstrations(family.env.spec, obs, action), 1500, 0.05)
    counts = np.zeros((states, actions))
    np.add.at(counts, (state.ravel(), action.ravel()), 1)
    frequency = counts / counts.sum(1, keepdims=True)
    inputs = family.env.spec.example_input()
    found = [learner.act(params, (), (), inputs.replace(obs=jnp.eye(states)[one]))[1].dist for one in range(states)]
    np.testing.assert_allclose(jax.nn.softmax(np.stack(found)), frequency, atol=1e-5)
    np.testing.assert_allclose(loss, -(counts * np.log(frequency)).sum() / counts.sum(), rtol=1e-5)


def cost(policy: np.ndarray, error: float, steps: int) -> float:
    """Expected number of steps that end off the track, exactly, if a learned decision errs with a probability.

    Args:
      policy: action by state, [2].
      error: probability of the wrong action in states in which `policy` agrees with the expert.
    """
    off, total = 0.0, 0.0
    leaves = error if policy[ON] == STAY else 1.0
    remains = error if policy[1 - ON] == LEAVE else 1.0
    for _ in range(steps):
        off = (1 - off) * leaves + off * remains
        total += off
    return total


@pytest.fixture(scope="module")
def policies() -> dict[str, np.ndarray]:
    """The modes of two trained students on the two-state MDP, by state."""
    step = outer.ImitationConfig(learning_rate=0.1)
    shared = {"student": LINEAR, "num_tasks": 8, "episodes": 1}
    clone = jm.clone(FAMILY, jm.CloneConfig(**shared, imitation=step))
    more = dataclasses.replace(step, steps=4)
    dagger = jm.dagger(FAMILY, jm.DAggerConfig(**shared, imitation=more, kept_rounds=10))
    found = {}
    for name, meta, updates in (("clone", clone, 100), ("dagger", dagger, 50)):
        state = jm.train(meta, jm.init_state(meta, jax.random.key(0)), updates, chunk=updates)
        act = lambda obs, meta=meta, state=state: meta.learner.act(  # noqa: E731
            jax.device_get(state.params), (), (), FAMILY.env.spec.example_input().replace(obs=obs)
        )
        found[name] = np.array([int(act(jnp.eye(2)[one])[1].dist.argmax()) for one in range(2)])
    return found


def test_cloning_does_not_recover_and_dagger_does(policies):
    """Ross and Bagnell (2010): the cost of cloning grows with the square of the horizon, that of DAgger linearly."""
    assert policies["clone"][ON] == STAY and policies["dagger"][ON] == STAY
    np.testing.assert_allclose(cost(policies["clone"], 0.01, 100), 37.237, atol=5e-4)
    np.testing.assert_allclose(cost(policies["dagger"], 0.01, 100), 1.0, rtol=1e-9)
    np.testing.assert_allclose(cost(policies["clone"], 0.01, 100), sum(1 - 0.99**t for t in range(1, 101)), rtol=1e-9)


def test_the_extra_cost_grows_with_the_square_of_the_horizon_or_linearly(policies):
    horizons = np.array([20, 40, 80, 160])
    for name, slope in (("clone", 2.0), ("dagger", 1.0)):
        costs = [cost(policies[name], 2e-4, steps) for steps in horizons]
        found, _ = np.polyfit(np.log(horizons), np.log(costs), 1)
        assert abs(found - slope) < 0.1, (name, found)


def test_data_of_another_spec_or_kind_is_refused():
    meta = jm.clone(FAMILY, jm.CloneConfig(student=LINEAR, num_tasks=1))
    state = jax.eval_shape(meta.init, jax.random.key(0))
    other = Spec((2,), Discrete(2), horizon=3)
    wrong = demonstrations(other, np.zeros((3, 1, 2), np.float32), np.zeros((3, 1), np.int32))
    with pytest.raises(ValueError, match=r"demonstrations have spec.horizon 3; the tasks have 6"):
        jax.eval_shape(lambda state: meta.update(state, wrong), state)
    with pytest.raises(ValueError, match=r"data is a dict; cloning needs a jm.Demonstrations"):
        jax.eval_shape(lambda state: meta.update(state, {"obs": jnp.zeros(3)}), state)
    twice = demonstrations(FAMILY.env.spec, np.zeros((12, 1, 2), np.float32), np.zeros((12, 1), np.int32))
    short = jm.clone(FAMILY, jm.CloneConfig(num_tasks=1, episodes=1))
    with pytest.raises(ValueError, match=r"episodes is 1, but the demonstrations have 2 per stream; .*episodes 2"):
        jax.eval_shape(lambda key: short.update(short.init(key), twice), jax.random.key(0))


def test_the_schedules_of_dagger_begin_with_the_expert():
    rounds = jnp.arange(5)
    np.testing.assert_allclose(BetaConfig().beta()(rounds), [1, 0, 0, 0, 0])
    np.testing.assert_allclose(BetaConfig("linear", rounds=4).beta()(rounds), [1, 0.75, 0.5, 0.25, 0])
    np.testing.assert_allclose(BetaConfig("geometric", decay=0.5).beta()(rounds), [1, 0.5, 0.25, 0.125, 0.0625])
