"""Environments of gymnasium: parameters, spaces, ends, and what is refused."""

from __future__ import annotations

import dataclasses
import sys
import types

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxmeta as jm
from jaxmeta import testing
from jaxmeta.core.train import make_chunk
from jaxmeta.tasks.adapters.gymnasium import GymnasiumConfig, GymnasiumTask, gymnasium
from jaxmeta.types import Continuous, Discrete
from tests import tiny

library = pytest.importorskip("gymnasium", reason="needs the extra gymnasium")


class Corridor(library.Env):
    """Move along a line until a wall, whose place is an option of reset; integers as observation."""

    observation_space = library.spaces.Box(-100, 100, (2,), np.int32)
    action_space = library.spaces.Discrete(3, start=-1)
    step_size = 1

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.wall, self.place = round((options or {}).get("wall", 3)), 0
        return np.array([0, self.wall], np.int32), {}

    def step(self, action):
        self.place += int(action * self.step_size)
        won = self.place >= self.wall
        return np.array([self.place, self.wall], np.int32), float(action), won, self.place <= -2, {"is_success": won}


class Hand(Corridor):
    action_space = library.spaces.Dict({"fingers": library.spaces.Discrete(2)})


class Lake(Corridor):
    observation_space = library.spaces.Discrete(16)


def boxed():
    raise library.error.DependencyNotInstalled("Box2D is not installed")


@pytest.fixture(scope="module", autouse=True)
def own_module():
    module = types.ModuleType("own_corridors")
    module.corridor, module.hand, module.lake, module.boxed = Corridor, Hand, Lake, boxed
    sys.modules["own_corridors"] = module
    yield
    del sys.modules["own_corridors"]


@pytest.fixture(scope="module")
def pole():
    return gymnasium(GymnasiumConfig(horizon=30))


def episode(env, task, actions, key):
    """Returns the outcomes of all actions [T, ...]."""
    state, obs = env.reset(key, task)
    return obs, jax.lax.scan(lambda state, action: env.step(key, state, action, task), state, actions)[1]


def test_cart_pole_holds_the_contract_of_environments(pole):
    testing.check_env(pole, num_steps=3)


def test_pendulum_holds_the_contract_of_environments():
    testing.check_env(gymnasium(GymnasiumConfig("Pendulum-v1", horizon=5, vary=("g=5:15",))))


def test_an_episode_is_that_of_gymnasium(pole):
    task, key = GymnasiumTask(jnp.array([15.0, 7.0])), jax.random.key(5)
    own = library.make("CartPole-v1")
    own.unwrapped.gravity, own.unwrapped.force_mag = 15.0, 7.0
    obs, _ = own.reset(seed=int(jax.random.bits(key)))
    first, steps = jax.jit(lambda: episode(pole.env, task, jnp.ones(30, jnp.int32), key))()
    np.testing.assert_allclose(first, obs, rtol=1e-6)
    for time in range(30):
        obs, reward, terminated, *_ = own.step(1)
        np.testing.assert_allclose(steps.obs[time], obs, rtol=1e-6)
        assert steps.reward[time] == reward and steps.terminated[time] == terminated
        if terminated:
            break
    assert 3 < time < 29 and not steps.truncated.any()
    # it ended: the final observation is kept, nothing is paid
    np.testing.assert_array_equal(steps.obs[time:], np.broadcast_to(steps.obs[time], (30 - time, 4)))
    assert not steps.reward[time + 1 :].any() and not steps.terminated[time + 1 :].any()


def test_parameters_change_the_physics_and_keys_the_start(pole):
    task = GymnasiumTask(jnp.array([[5.0, 10.0], [19.0, 10.0], [5.0, 10.0]]))
    keys = jax.random.split(jax.random.key(0), 2)[jnp.array([0, 0, 1])]
    first, steps = jax.jit(jax.vmap(lambda task, key: episode(pole.env, task, jnp.ones(4, jnp.int32), key)))(task, keys)
    np.testing.assert_array_equal(first[0], first[1])
    assert np.abs(steps.obs[0, -1] - steps.obs[1, -1]).max() > 1e-3
    assert np.abs(first[0] - first[2]).max() > 1e-3


def test_a_time_limit_of_the_environment_truncates():
    env = gymnasium(GymnasiumConfig("MountainCar-v0", horizon=250, vary=())).env
    _, steps = jax.jit(lambda: episode(env, GymnasiumTask(jnp.zeros(0)), jnp.ones(250, jnp.int32), jax.random.key(0)))()
    np.testing.assert_array_equal(np.flatnonzero(steps.truncated), [199])
    assert not steps.terminated.any()


def test_options_integers_success_and_both_ends():
    config = GymnasiumConfig(
        "own_corridors:corridor", horizon=4, vary=("step_size=1:1",), options=("wall=2:4",), success="is_success"
    )
    family = gymnasium(config)
    spec = family.env.spec
    assert spec.action == Discrete(3) and spec.observation == jax.ShapeDtypeStruct((2,), jnp.int32) and spec.success
    testing.check_env(family)
    np.testing.assert_allclose(family.encode(GymnasiumTask(jnp.array([1.0, 2.5]))), [-1.0, -0.5])
    task = GymnasiumTask(jnp.array([1.0, 3.0]))
    _, right = episode(family.env, task, jnp.full(4, 2), jax.random.key(0))
    np.testing.assert_array_equal(right.obs, [[1, 3], [2, 3], [3, 3], [3, 3]])
    np.testing.assert_array_equal(right.terminated, [0, 0, 1, 0])
    np.testing.assert_array_equal(right.success, right.terminated)
    _, left = episode(family.env, task, jnp.zeros(4, jnp.int32), jax.random.key(0))
    np.testing.assert_array_equal(left.truncated, [0, 1, 0, 0])
    assert not left.terminated.any()


def test_bounded_actions_are_mapped_to_the_box():
    config = GymnasiumConfig("Pendulum-v1", horizon=5, vary=("max_torque=2:2",))
    env = gymnasium(config).env
    assert env.spec.action == Continuous(1, 1.0)
    own = library.make("Pendulum-v1")
    own.reset(seed=int(jax.random.bits(jax.random.key(0))))
    _, steps = episode(env, GymnasiumTask(jnp.array([2.0])), jnp.full((1, 1), 0.5), jax.random.key(0))
    np.testing.assert_allclose(steps.obs[0], own.step(np.array([1.0], np.float32))[0], rtol=1e-5)


# maml steps several streams as ppo does, and rl2 several episodes
@pytest.mark.parametrize("name", ["rl2", tiny.slow("ppo"), "maml"])
def test_algorithms_train_on_it_and_repeat_bit_for_bit(name):
    meta = tiny.algo(name, gymnasium(GymnasiumConfig("Pendulum-v1", horizon=3, vary=("g=5:15",))))
    update = make_chunk(meta, 3)
    states = [update(jm.init_state(meta, jax.random.key(0)))[0] for _ in range(2)]
    assert int(states[0].step) == 3 and int(states[0].skipped) == 0
    chex.assert_trees_all_equal(states[0].params, states[1].params)


@pytest.mark.slow
def test_an_algorithm_on_it_holds_the_contract():
    testing.check_algo(tiny.algo("ppo", gymnasium(GymnasiumConfig(horizon=4))))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"env": "CartPole-v7"},
            "tasks.env is 'CartPole-v7', which does not exist; did you mean 'CartPole-v1'?",
        ),
        ({"env": "no_such_module:make"}, "tasks.env is 'no_such_module:make', which cannot be made"),
        ({"env": "own_corridors:boxed"}, "'own_corridors:boxed', which cannot be made: Box2D is not installed"),
        ({"env": "own_corridors:corridr"}, "tasks.env is 'own_corridors:corridr', which cannot be made"),
        (
            {"env": "own_corridors:hand", "vary": ()},
            "whose action is a Dict; it must be a Discrete or MultiDiscrete or Box",
        ),
        ({"env": "own_corridors:lake", "vary": ()}, "whose observation is a Discrete; it must be a Box"),
        ({"env": "Pendulum-v1"}, "tasks.vary is None; Pendulum-v1 needs ranges of some of .*max_torque"),
        ({"vary": ("gravty=1:2",)}, "no parameter 'gravty'; did you mean 'gravity'?"),
        ({"options": ("low",)}, "a range is NAME=LOW:HIGH"),
    ],
)
def test_what_cannot_be_used_is_refused_in_one_line(changes, message):
    with pytest.raises(ValueError, match=message) as caught:
        gymnasium(dataclasses.replace(GymnasiumConfig(), **changes))
    assert "\n" not in str(caught.value)
