"""Ranges, tasks and codes of all families, and bad input."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmeta import tasks, testing
from jaxmeta.tasks.classic_control import mixture, physics

KEY = jax.random.key(0)


@pytest.mark.parametrize("name", mixture.KINDS)
def test_tasks_are_uniform_in_the_ranges_and_codes_in_minus_one_to_one(name):
    kind = mixture.KINDS[name]
    config = kind.config()
    family = kind.factory(config)
    drawn = jax.jit(jax.vmap(family.sample))(jax.random.split(KEY, 2000))
    codes = jax.vmap(family.encode)(drawn)
    varied = [one for one in physics.names(kind.parameters) if np.ptp(getattr(config, one)) > 0]
    assert codes.shape == (2000, len(varied)) and varied
    for one in physics.names(kind.parameters):
        low, high = getattr(config, one)
        values = np.asarray(getattr(drawn, one))
        assert values.min() >= np.float32(low) and values.max() <= np.float32(high)
    # the standard deviation of a mean of 2,000 is 0.013; that of a uniform variable on [-1, 1] is 0.577
    np.testing.assert_allclose(codes.mean(0), 0.0, atol=0.06)
    np.testing.assert_allclose(codes.std(0), 3**-0.5, atol=0.03)
    assert np.abs(np.corrcoef(codes.T) - np.eye(len(varied))).max() < 0.1


@pytest.mark.parametrize("name", mixture.KINDS)
def test_fixed_physics_is_a_single_task_with_the_standard_constants(name):
    kind = mixture.KINDS[name]
    family = kind.factory(physics.fixed(kind.config(), kind.parameters))
    assert family.encode(family.sample(KEY)).shape == (0,)
    for drawn in (family.sample(KEY), family.sample_test(KEY), jax.tree.map(lambda leaf: leaf[0], family.train_tasks)):
        np.testing.assert_allclose(jax.tree.leaves(drawn), jax.tree.leaves(kind.parameters()), rtol=1e-6)


def test_a_fixed_family_holds_the_contract():
    config = physics.fixed(tasks.MountainCarConfig(horizon=3), tasks.MountainCarTask)
    testing.check_env(tasks.mountain_car(config), num_steps=2)


@pytest.mark.parametrize(
    ("config", "fields", "message"),
    [
        (tasks.CartPoleConfig, {"length": (1.5, 0.25)}, r"tasks.length is \(1.5, 0.25\); .* LOW must not exceed HIGH"),
        (tasks.CartPoleConfig, {"masscart": (0.0, 1.0)}, r"tasks.masscart is \(0.0, 1.0\); it must be positive"),
        (tasks.CartPoleConfig, {"gravity": (0.0, float("inf"))}, "tasks.gravity is .*; both ends must be finite"),
        (tasks.CartPoleConfig, {"horizon": 0}, "tasks.horizon is 0; an episode needs at least 1 step"),
        (tasks.AcrobotConfig, {"mass_2": (-1.0, 1.0)}, "tasks.mass_2 is .*; it must be positive"),
        (tasks.MountainCarConfig, {"num_episodes": 0}, "tasks.num_episodes is 0; a trial needs at least 1 episode"),
        (tasks.PendulumConfig, {"length": (0.0, 1.0)}, "tasks.length is .*; it must be positive"),
        (tasks.CartPoleSwingUpConfig, {"masspole": (0.0, 1.0)}, "tasks.masspole is .*; it must be positive"),
    ],
)
def test_bad_ranges_are_refused_in_one_line(config, fields, message):
    with pytest.raises(ValueError, match=message) as found:
        config(**fields)
    assert "\n" not in str(found.value)


@pytest.mark.parametrize("value", [1.0, (1.0,), (1.0, 2.0, 3.0), ("a", "b")])
def test_a_range_is_two_numbers(value):
    with pytest.raises(TypeError, match="tasks.length is .*; it must be a tuple of numbers"):
        tasks.CartPoleConfig(length=value)


def test_the_motor_can_be_reversed():
    """A force of the other sign does to the mirrored state what the force does."""
    env, state = tasks.CartPole(), tasks.CartPole().reset(KEY, tasks.CartPoleTask())[0]
    mirrored = jax.tree.map(jnp.negative, state)
    _, step = env.step(KEY, state, jnp.int32(1), tasks.CartPoleTask(force_mag=10.0))
    _, other = env.step(KEY, mirrored, jnp.int32(1), tasks.CartPoleTask(force_mag=-10.0))
    np.testing.assert_allclose(step.obs, -other.obs, rtol=1e-6)


def test_runge_kutta_is_of_fourth_order():
    def error(dt):
        state = {"x": jnp.float32(1.0), "v": jnp.float32(0.0)}
        for _ in range(round(2.0 / dt)):
            state = physics.runge_kutta(lambda one: {"x": one["v"], "v": -one["x"]}, state, dt)
        return abs(float(state["x"]) - np.cos(2.0))

    # float32 rounding is 1e-7; halving the step divides the error by 16
    assert 12 < error(0.5) / error(0.25) < 20


def test_every_config_names_exactly_the_parameters_of_its_tasks():
    shared = {field.name for field in dataclasses.fields(physics.PhysicsConfig)}
    for kind in mixture.KINDS.values():
        fields = {field.name for field in dataclasses.fields(kind.config)}
        assert fields - shared - {"reward", "repeat", "reverse"} == set(physics.names(kind.parameters))
