"""Dynamics against gymnax, gymnasium, and the conservation of energy."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmeta import tasks
from jaxmeta.tasks.classic_control import physics
from jaxmeta.tasks.classic_control.acrobot import AcrobotState
from jaxmeta.tasks.classic_control.acrobot import accelerations as acrobot_accelerations
from jaxmeta.tasks.classic_control.cart_pole import CartPoleState
from jaxmeta.tasks.classic_control.cart_pole import accelerations as cart_pole_accelerations
from jaxmeta.tasks.classic_control.cart_pole_swing_up import CartPoleSwingUpState, derivative

KEY = jax.random.key(0)
STEPS = 60


def trajectory(env, task, actions):
    """States before each step, and the steps, of one episode that goes on after its end."""

    def one(state, action):
        after, step = env.step(KEY, state, action, task)
        return after, (state, step)

    return jax.jit(lambda: jax.lax.scan(one, env.reset(KEY, task)[0], actions)[1])()


GYMNAX = {
    "CartPole-v1": (
        tasks.CartPole(),
        tasks.CartPoleTask(gravity=12.0, masscart=1.5, masspole=0.3, length=0.8, force_mag=-7.0),
        {"gravity": 12.0, "masscart": 1.5, "masspole": 0.3, "total_mass": 1.8, "length": 0.8}
        | {"polemass_length": 0.3 * 0.8, "force_mag": -7.0},
        ("x", "x_dot", "theta", "theta_dot"),
    ),
    "Acrobot-v1": (
        tasks.Acrobot(),
        tasks.AcrobotTask(length_1=0.8, length_2=0.8, mass_1=1.2, mass_2=1.2),
        {"link_length_1": 0.8, "link_length_2": 0.8, "link_mass_1": 1.2, "link_mass_2": 1.2}
        | {"link_com_pos_1": 0.4, "link_com_pos_2": 0.4, "link_moi": 1.2 * 0.8**2},
        ("joint_angle1", "joint_angle2", "velocity_1", "velocity_2"),
    ),
    "MountainCar-v0": (
        tasks.MountainCar(),
        tasks.MountainCarTask(force=0.0013, gravity=0.0021),
        {"force": 0.0013, "gravity": 0.0021},
        ("position", "velocity"),
    ),
    "Pendulum-v1": (
        tasks.Pendulum(),
        tasks.PendulumTask(gravity=8.0, mass=0.8, length=1.2),
        {"g": 8.0, "m": 0.8, "l": 1.2},
        ("theta", "theta_dot"),
    ),
}


def coordinates(state):
    return [value for leaf in jax.tree.leaves(state) for value in np.atleast_1d(leaf)]


@pytest.mark.parametrize("varied", [False, True], ids=["standard", "varied"])
@pytest.mark.parametrize("name", GYMNAX)
def test_every_step_equals_that_of_gymnax(name, varied):
    gymnax = pytest.importorskip("gymnax", reason="gymnax is not installed")
    env, task, changes, names = GYMNAX[name]
    theirs, params = gymnax.make(name)
    task, params = (task, params.replace(**changes)) if varied else (type(task)(), params)
    # gymnax's cart-pole pays nothing after its end, and its acrobot's goal does not follow the links
    same_reward = {"MountainCar-v0", "Pendulum-v1"} | (set() if varied else {"Acrobot-v1"})
    actions = random_actions(env, STEPS)
    states, steps = trajectory(env, task, actions)

    @jax.jit
    def their_step(state, action):
        obs, after, reward, *_ = theirs.step_env(KEY, state, action, params)
        return obs, after, reward

    _, blank = theirs.reset_env(KEY, params)
    for time in range(STEPS):
        before = jax.tree.map(lambda leaf, time=time: leaf[time], states)
        state = blank.replace(**dict(zip(names, coordinates(before), strict=True)))
        obs, _, reward = their_step(state, actions[time])
        np.testing.assert_allclose(steps.obs[time], obs, atol=1e-5)
        if name in same_reward:
            np.testing.assert_allclose(steps.reward[time], np.squeeze(reward), atol=1e-5)


def random_actions(env, num):
    space = env.spec.action
    if hasattr(space, "num"):
        return jax.random.randint(KEY, (num,), 0, space.num)
    return jax.random.uniform(KEY, (num, 1), minval=-1.2 * space.limit, maxval=1.2 * space.limit)


@pytest.mark.parametrize("name", GYMNAX)
def test_whole_episodes_equal_those_of_gymnasium(name):
    gymnasium = pytest.importorskip("gymnasium", reason="gymnasium is not installed")
    env, task, *_ = GYMNAX[name]
    actions = random_actions(env, STEPS)
    states, steps = trajectory(env, type(task)(), actions)
    theirs = gymnasium.make(name).unwrapped
    theirs.reset(seed=0)
    theirs.state = np.array(coordinates(jax.tree.map(lambda leaf: leaf[0], states)), np.float64)
    for time, action in enumerate(np.asarray(actions)):
        obs, reward, terminated, *_ = theirs.step(action)
        # theirs runs in float64: the difference grows with time
        np.testing.assert_allclose(steps.obs[time], obs, atol=1e-4)
        np.testing.assert_allclose(steps.reward[time], reward, atol=1e-3)
        assert bool(steps.terminated[time]) == terminated
        if terminated:
            break


def cart_pole_energy(state, task):
    speed = state.velocity + task.length * state.angular_velocity * jnp.cos(state.angle)
    lift = task.length * state.angular_velocity * jnp.sin(state.angle)
    turn = task.masspole * task.length**2 / 3 * state.angular_velocity**2
    kinetic = task.masscart * state.velocity**2 + task.masspole * (speed**2 + lift**2) + turn
    return kinetic / 2 + task.masspole * task.gravity * task.length * jnp.cos(state.angle)


def cart_pole_derivative(state, task):
    acceleration, angular_acceleration = cart_pole_accelerations(state, jnp.zeros(()), task)
    return type(state)(state.velocity, acceleration, state.angular_velocity, angular_acceleration)


def acrobot_energy(state, task):
    (first, second), (speed_1, speed_2) = state.angles, state.velocities
    both, turn = first + second, speed_1 + speed_2
    centre_1, centre_2 = task.length_1 / 2, task.length_2 / 2
    across = task.length_1 * speed_1 * jnp.cos(first) + centre_2 * turn * jnp.cos(both)
    up = task.length_1 * speed_1 * jnp.sin(first) + centre_2 * turn * jnp.sin(both)
    kinetic = task.mass_1 * (centre_1 * speed_1) ** 2 + task.mass_2 * (across**2 + up**2)
    kinetic += task.mass_1 * task.length_1**2 * speed_1**2 + task.mass_2 * task.length_2**2 * turn**2
    height_2 = task.length_1 * jnp.cos(first) + centre_2 * jnp.cos(both)
    return kinetic / 2 - task.gravity * (task.mass_1 * centre_1 * jnp.cos(first) + task.mass_2 * height_2)


def acrobot_derivative(state, task):
    return type(state)(state.velocities, acrobot_accelerations(state, 0.0, task))


def swing_up_energy(state, task):
    mass, length = task.masspole, task.length
    kinetic = (task.masscart + mass) * state.velocity**2 / 2 + mass * length**2 * state.angular_velocity**2 / 6
    coupling = mass * length * (state.velocity * state.angular_velocity - task.gravity) * jnp.cos(state.angle) / 2
    return kinetic + coupling


def swing_up_derivative(state, task):
    return derivative(state, 0.0, task)


ONE = jnp.float32(1.0)
CONSERVED = {
    "cart-pole": (
        cart_pole_derivative,
        cart_pole_energy,
        CartPoleState(0 * ONE, 0.3 * ONE, 0.7 * ONE, -ONE),
        tasks.CartPoleTask(length=0.8, masspole=0.4),
    ),
    "acrobot": (
        acrobot_derivative,
        acrobot_energy,
        AcrobotState(jnp.array([1.0, -0.5]), jnp.array([0.5, 1.0])),
        tasks.AcrobotTask(length_1=0.8, length_2=1.2, mass_1=1.1, mass_2=0.7),
    ),
    "cart-pole-swing-up": (
        swing_up_derivative,
        swing_up_energy,
        CartPoleSwingUpState(0 * ONE, 0.3 * ONE, 2.0 * ONE, -ONE),
        tasks.CartPoleSwingUpTask(length=0.7, masspole=0.3, friction=0.0),
    ),
}


@pytest.mark.parametrize("name", CONSERVED)
def test_without_motor_and_friction_energy_is_conserved(name):
    slope, energy, state, task = CONSERVED[name]

    @jax.jit
    def run(state):
        def one(state, _):
            return physics.runge_kutta(lambda one: slope(one, task), state, 0.005), energy(state, task)

        return jax.lax.scan(one, state, length=400)[1]

    energies = np.asarray(run(state))
    np.testing.assert_allclose(energies, energies[0], atol=2e-4)


def test_the_centre_of_mass_of_the_swing_up_moves_by_force_and_friction():
    """Newton's second law for cart and pole together, which energy alone does not fix."""
    task = tasks.CartPoleSwingUpTask()
    state = CartPoleSwingUpState(0 * ONE, 0.3 * ONE, 2.0 * ONE, -ONE)
    slope = derivative(state, 3.0, task)
    swing = slope.angular_velocity * math.cos(2.0) - state.angular_velocity**2 * math.sin(2.0)
    momentum = (task.masscart + task.masspole) * slope.velocity + task.masspole * task.length / 2 * swing
    np.testing.assert_allclose(momentum, 3.0 - task.friction * 0.3, rtol=1e-5)


def test_the_reward_of_the_swing_up_is_one_where_the_pole_is_upright():
    env, task = tasks.CartPoleSwingUp(), tasks.CartPoleSwingUpTask()
    upright = CartPoleSwingUpState(0 * ONE, 0 * ONE, math.pi * ONE, 0 * ONE)
    _, step = env.step(KEY, upright, jnp.zeros(1), task)
    np.testing.assert_allclose(step.reward, 1.0, atol=1e-4)
    _, step = env.step(KEY, upright.replace(angle=0 * ONE), jnp.zeros(1), task)
    np.testing.assert_allclose(step.reward, math.exp(-(1.0**2) / (2 * 0.25**2)), rtol=1e-3)


def test_the_goal_of_an_acrobot_follows_its_links():
    """The tip of a raised second link is above the goal if and only if that link is longer than the height it needs."""
    env, state = tasks.Acrobot(), AcrobotState(jnp.array([math.pi / 2, math.pi / 2]), jnp.zeros(2))
    for length, reached in ((0.5, False), (1.5, True)):
        _, step = env.step(KEY, state, jnp.int32(1), tasks.AcrobotTask(length_2=length))
        assert bool(step.terminated) == bool(step.success) == reached
        assert float(step.reward) == (0.0 if reached else -1.0)


def test_a_mountain_car_stops_at_the_left_wall_and_ends_on_the_right_hill():
    env, task = tasks.MountainCar(), tasks.MountainCarTask()
    state, _ = env.reset(KEY, task)
    state, step = env.step(
        KEY, state.replace(position=jnp.float32(-1.19), velocity=jnp.float32(-0.05)), jnp.int32(0), task
    )
    np.testing.assert_allclose(step.obs, [-1.2, 0.0])
    assert not step.terminated
    _, step = env.step(KEY, state.replace(position=jnp.float32(0.49), velocity=jnp.float32(0.05)), jnp.int32(2), task)
    assert step.terminated and step.success and step.reward == -1.0
