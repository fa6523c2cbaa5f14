"""MuJoCo Playground as a task family."""

from __future__ import annotations

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxmeta as jm
from jaxmeta.tasks.adapters.playground import PlaygroundConfig, playground
from tests import tiny

KEY = jax.random.key(0)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"vary": ()}, "tasks.vary is empty"),
        ({"vary": ("mas=1:2",)}, "there is no parameter 'mas'; did you mean 'mass'?"),
        ({"horizon": 0}, "tasks.horizon is 0"),
        ({"num_starts": 0}, "tasks.num_starts is 0"),
        ({"impl": "c"}, "impl is 'c'; it must be one of jax, warp"),
    ],
)
def test_what_cannot_be_meant_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        PlaygroundConfig(**fields)


@pytest.fixture(scope="module")
def library():
    return pytest.importorskip("mujoco_playground", reason='pip install "jaxmeta[playground]"')


@pytest.fixture(scope="module")
def speeds(library):
    return playground(PlaygroundConfig(horizon=3, num_starts=3))


@pytest.fixture(scope="module")
def bodies(library):
    return playground(PlaygroundConfig(horizon=3, num_starts=3, vary=("mass=0.5:2", "gravity=0.5:1.5")))


@pytest.mark.parametrize("name", ["speeds", "bodies"])
def test_a_family_holds_the_contract(name, request):
    jm.testing.check_env(request.getfixturevalue(name), num_steps=2, tolerance=1e-2, max_steps=0)


def test_an_episode_starts_in_one_of_the_initial_states(speeds):
    task = speeds.sample(KEY)
    _, obs = jax.jit(jax.vmap(lambda key: speeds.env.reset(key, task)))(jax.random.split(KEY, 64))
    assert len(np.unique(np.asarray(obs), axis=0)) == 3


def test_the_reward_is_the_distance_to_the_speed(speeds):
    """By the displacement of the centre of mass, which MuJoCo's sensor differentiates exactly."""
    env, task = speeds.env, {"speed": jnp.float32(2.0)}
    state, _ = env.reset(KEY, task)
    moved, step = jax.jit(env.step)(KEY, state, jnp.ones(6), task)
    mass = env.body.mj_model.body_mass
    centre = [np.average(one.data.xipos, axis=0, weights=mass)[0] for one in (state, moved)]
    velocity = (centre[1] - centre[0]) / env.body.dt
    # the sensor has the velocity at the start of the last substep, up to the acceleration within one
    assert abs(float(step.reward) + abs(velocity - 2.0)) < 0.5
    _, faster = jax.jit(env.step)(KEY, state, jnp.ones(6), {"speed": jnp.float32(3.0)})
    assert float(step.reward - faster.reward) == pytest.approx(1.0, abs=1e-5)


def test_multipliers_change_the_body_of_the_task_alone(bodies):
    env, ones = bodies.env, {"mass": jnp.float32(1.0), "gravity": jnp.float32(1.0)}
    state, _ = env.reset(KEY, ones)
    step = jax.jit(lambda task: env.step(KEY, state, jnp.ones(6), task)[0].data.qvel)
    plain = jax.jit(env.body.step)(state, jnp.ones(6)).data.qvel
    np.testing.assert_allclose(step(ones), plain, rtol=1e-4, atol=1e-4)
    for name in ones:
        assert np.abs(step(ones | {name: jnp.float32(1.5)}) - plain).max() > 1e-3
    # in the air, stronger gravity moves the whole body, and no joint
    raised = state.replace(data=state.data.replace(qpos=state.data.qpos.at[1].add(5.0), qvel=jnp.zeros_like(plain)))
    fall = jax.jit(lambda task: env.step(KEY, raised, jnp.zeros(6), task)[0].data.qvel)
    more = np.asarray(fall(ones | {"gravity": jnp.float32(1.5)}) - fall(ones))
    np.testing.assert_allclose(more, [0, -0.5 * 9.81 * env.body.dt, *[0] * 7], rtol=1e-2, atol=1e-3)


def test_the_code_of_a_task_spans_its_ranges(bodies):
    assert bodies.encode({"mass": 0.5, "gravity": 1.5}).tolist() == [-1.0, 1.0]
    assert bodies.encode({"mass": 1.25, "gravity": 1.0}).tolist() == [0.0, 0.0]


def test_an_environment_that_does_not_exist_or_has_no_speed_is_refused(library):
    with pytest.raises(ValueError, match="did you mean 'CheetahRun'"):
        playground(PlaygroundConfig(env="CheetaRun"))
    with pytest.raises(ValueError, match="CartpoleBalance has no forward velocity"):
        playground(PlaygroundConfig(env="CartpoleBalance"))


@pytest.mark.slow
def test_an_algorithm_on_it_holds_the_contract(speeds):
    jm.testing.check_algo(tiny.algo("ppo", speeds))


@pytest.mark.slow
@pytest.mark.parametrize("algo", ["ppo", "rl2", "maml"])
def test_three_updates(algo, speeds):
    meta = tiny.algo(algo, speeds)
    state = jm.train(meta, jm.init_state(meta, KEY), 3)
    assert int(state.step) == 3 and int(state.skipped) == 0
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(jax.device_get(state.params)))


FILM = """
import jax, numpy as np
from jaxmeta.tasks.adapters.playground import PlaygroundConfig, playground
from jaxmeta.viz.films import frames, pose

env = playground(PlaygroundConfig(num_starts=1)).env
state, _ = env.reset(jax.random.key(0), {})
low = np.asarray(pose(state))
high = low + np.eye(9)[1]
try:
    seen = frames(env, [low, high], 60, 80).astype(int)
except RuntimeError as error:
    print(error)
else:
    assert seen.shape == (2, 60, 80, 3) and np.abs(seen[0] - seen[1]).max() > 50
"""


def test_poses_are_rendered_where_mujoco_can(library):
    environment = os.environ | {"MUJOCO_GL": "egl"}
    done = subprocess.run([sys.executable, "-c", FILM], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    if done.stdout:
        pytest.skip(done.stdout)
