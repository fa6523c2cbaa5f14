"""The Brax families: their rewards, their bodies, and that Brax itself is left as it is."""

import dataclasses
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from jaxmeta.tasks import brax as locomotion
from jaxmeta.tasks.brax.env import DIVERGED, Outcome
from jaxmeta.tasks.brax.lanes import batch_last
from jaxmeta.tasks.brax.physics import _chunked

FAMILIES = [
    (locomotion.half_cheetah_vel, locomotion.HalfCheetahVelConfig),
    (locomotion.half_cheetah_dir, locomotion.HalfCheetahDirConfig),
    (locomotion.ant_dir, locomotion.AntDirConfig),
    (locomotion.ant_goal, locomotion.AntGoalConfig),
    (locomotion.walker_params, locomotion.WalkerParamsConfig),
    (locomotion.hopper_params, locomotion.HopperParamsConfig),
    (locomotion.humanoid_dir, locomotion.HumanoidDirConfig),
]
STEPS = 5
KEY = jax.random.key(0)


def actions_of(env, seed=1, scale=1.5, steps=STEPS):
    """Actions of which some leave [-1, 1], [steps, size]."""
    return jax.random.uniform(jax.random.key(seed), (steps, env.spec.action.size), minval=-scale, maxval=scale)


def effort_of(action):
    return float(np.sum(np.clip(action, -1.0, 1.0) ** 2))


def brax_state(pipeline_state):
    import brax.envs

    return brax.envs.State(pipeline_state=pipeline_state, obs=None, reward=None, done=None)


@pytest.fixture(scope="module")
def cheetah():
    family = locomotion.half_cheetah_vel()
    return family, jax.jit(family.env.reset), jax.jit(family.env.step)


@pytest.fixture(scope="module")
def ant():
    family = locomotion.ant_dir()
    return family, jax.jit(family.env.reset), jax.jit(family.env.step)


@pytest.fixture(scope="module")
def walker():
    return locomotion.walker_params()


@pytest.fixture(scope="module")
def hopper():
    return locomotion.hopper_params()


@pytest.fixture(params=["walker", "hopper"])
def family_of_bodies(request):
    return request.getfixturevalue(request.param)


@pytest.mark.parametrize("factory, config", FAMILIES, ids=lambda value: getattr(value, "__name__", ""))
def test_state_and_observation_fit_the_spec(factory, config):
    family = factory(config(horizon=7))
    task = family.sample(KEY)
    assert not any(leaf.weak_type for leaf in jax.tree.leaves(task))
    state, obs = jax.eval_shape(family.env.reset, KEY, task)
    action = family.env.spec.action.example()
    successor, step = jax.eval_shape(family.env.step, KEY, state, action, task)
    assert jax.tree.structure(state) == jax.tree.structure(successor)
    for before, after in zip(jax.tree.leaves(state), jax.tree.leaves(successor), strict=True):
        assert (before.shape, before.dtype, before.weak_type) == (after.shape, after.dtype, False)
    assert family.env.spec.horizon == 7
    assert obs.shape == step.obs.shape == family.env.spec.observation
    assert step.reward.dtype == obs.dtype == jnp.float32
    assert jax.eval_shape(family.encode, task).ndim == 1


def test_half_cheetah_vel_pays_for_the_velocity_and_follows_brax(cheetah):
    family, reset, step = cheetah
    task = locomotion.half_cheetah.VelocityTask(jnp.float32(1.3))
    state, obs = reset(KEY, task)
    plain_step = jax.jit(family.env.body.step)
    plain = brax_state(state)
    for action in actions_of(family.env):
        before = state
        state, outcome = step(KEY, state, action, task)
        plain = plain_step(plain, jnp.clip(action, -1, 1)).replace(metrics={})
        velocity = (state.x.pos[0, 0] - before.x.pos[0, 0]) / 0.05
        np.testing.assert_allclose(outcome.reward, -abs(velocity - 1.3) - 0.05 * effort_of(action), rtol=1e-5)
        np.testing.assert_allclose(outcome.obs, plain.obs, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(state.x_i.pos, plain.pipeline_state.x_i.pos, rtol=1e-4, atol=1e-4)
        assert not outcome.terminated
    assert not np.allclose(reset(jax.random.key(1), task)[1], obs)  # every reset draws its own start


@pytest.mark.smoke
def test_vmapped_steps_equal_a_loop(cheetah):
    """Under vmap a CPU runs the physics with the batch innermost, in chunks: here tasks over streams, one chunk."""
    family, reset, step = cheetah
    tasks = jax.vmap(family.sample)(jax.random.split(KEY, 2))
    actions = actions_of(family.env)[:3]

    def run(task, start):
        return jax.lax.scan(lambda state, action: family.env.step(KEY, state, action, task), start, actions)

    starts = [reset(jax.random.key(n), None)[0] for n in range(3)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *starts)
    states, steps = jax.jit(jax.vmap(jax.vmap(run, in_axes=(None, 0)), in_axes=(0, None)))(tasks, stacked)
    for n in range(2):
        task = jax.tree.map(lambda leaf, n=n: leaf[n], tasks)
        for stream, state in enumerate(starts):
            for time, action in enumerate(actions):
                state, alone = step(KEY, state, action, task)
                np.testing.assert_allclose(steps.obs[n, stream, time], alone.obs, rtol=1e-3, atol=1e-3)
                np.testing.assert_allclose(steps.reward[n, stream, time], alone.reward, rtol=1e-3, atol=1e-3)
            for batched, single in zip(jax.tree.leaves(states), jax.tree.leaves(state), strict=True):
                np.testing.assert_allclose(batched[n, stream], single, rtol=1e-3, atol=1e-3)


@pytest.mark.smoke
@pytest.mark.parametrize(
    "function",
    [
        lambda x: x[jnp.array([2, 0, 2])] * 2.0,
        lambda x: jax.ops.segment_sum(x, jnp.array([1, -1, 1, 3]), 4),
        lambda x: jnp.einsum("ij,kj->ik", x, x[:2]) @ jnp.arange(6.0).reshape(2, 3),
        lambda x: jax.vmap(jnp.dot)(x, x),
        lambda x: jnp.concatenate([x, jnp.ones((1, 3))]).T.reshape(5, 3)[1:, ::2],
        lambda x: jnp.clip(jnp.where(x[:, :1] > 0, x, -1.0), -0.5, 0.5),
        lambda x: jnp.tile(jnp.linalg.norm(x, axis=0), 2).any() & (jnp.pad(x, 1).max() > 0),
        lambda x: jnp.sort(jnp.cumsum(x, axis=0), axis=1),  # no rules: these go through jax.vmap
        lambda x: x[jnp.argmax(x[:, 0])],
        lambda x: jnp.arange(3.0),
    ],
)
def test_batch_last_equals_vmap(function):
    x = jax.random.normal(KEY, (4, 3, 5))
    np.testing.assert_allclose(
        batch_last(function, x[..., 0])(x), jax.vmap(function, in_axes=-1, out_axes=-1)(x), rtol=1e-5, atol=1e-6
    )


@pytest.mark.smoke
def test_batch_last_of_a_sharded_caller_is_used_outside_too():
    made = []

    def step(x):
        if not made:
            made.append(batch_last(lambda x: x + jnp.float32(2.0), x[..., 0]))
        return made[0](x)

    mesh = jax.sharding.Mesh(jax.devices()[:2], ("task",))
    sharded = jax.shard_map(step, mesh=mesh, in_specs=P(None, "task"), out_specs=P(None, "task"), check_vma=False)
    x = jax.jit(sharded)(jnp.ones((3, 4)))
    np.testing.assert_array_equal(jax.jit(step)(x), 5.0)


@pytest.mark.parametrize("size", [1, 3, 16, 17, 33])
def test_chunks_cover_every_body_once(size):
    pipeline = types.SimpleNamespace(step=lambda system, state, action, debug: state + system * action)
    body = types.SimpleNamespace(_pipeline=pipeline, _n_frames=4, sys=2.0)
    state, action = jax.random.normal(KEY, (2, size, 3))
    np.testing.assert_allclose(_chunked(body, {}, state, action), state + 8.0 * action, rtol=1e-5, atol=1e-5)


def test_half_cheetah_dir_pays_for_the_direction():
    family = locomotion.half_cheetah_dir()
    for direction in (-1.0, 1.0):
        task = locomotion.half_cheetah.DirectionTask(jnp.float32(direction))
        outcome = Outcome(None, jnp.array([0.7, 9.0, 9.0]), jnp.float32(2.0))
        np.testing.assert_allclose(family.env.reward(outcome, task), direction * 0.7 - 0.05 * 2.0, rtol=1e-6)
    directions = jax.vmap(family.sample)(jax.random.split(KEY, 200)).direction
    assert set(np.unique(directions)) == {-1.0, 1.0} and abs(directions.mean()) < 0.3


def test_a_diverged_body_stays_where_it_was_and_ends_the_episode(ant):
    family, reset, step = ant
    task = family.sample(KEY)
    state, obs = reset(KEY, task)
    thrown = state.replace(xd_i=state.xd_i.replace(vel=state.xd_i.vel + 10 * DIVERGED))
    _, outcome = step(KEY, thrown, jnp.zeros(8), task)
    assert outcome.terminated and np.isfinite(outcome.reward)
    np.testing.assert_array_equal(outcome.obs, obs)


def test_ant_dir_pays_for_the_heading_and_ends_outside_of_its_heights(ant):
    family, reset, step = ant
    task = locomotion.ant.HeadingTask(jnp.float32(2.0))
    state, _ = reset(KEY, task)
    for action in actions_of(family.env):
        before = state
        state, outcome = step(KEY, state, action, task)
        velocity = (state.x.pos[0] - before.x.pos[0]) / 0.05
        forward = velocity[0] * np.cos(2.0) + velocity[1] * np.sin(2.0)
        np.testing.assert_allclose(outcome.reward, forward - 0.5 * effort_of(action) + 1.0, rtol=1e-4, atol=1e-4)
        assert outcome.terminated == (not 0.2 <= state.x.pos[0, 2] <= 1.0)
    lifted = state.replace(x_i=state.x_i.replace(pos=state.x_i.pos + jnp.array([0.0, 0.0, 1.0])))
    assert step(KEY, lifted, jnp.zeros(8), task)[1].terminated


def test_ant_dir_laws():
    keys = jax.random.split(KEY, 200)
    family = locomotion.ant_dir()
    two = jax.vmap(lambda key: family.encode(family.sample(key)))(keys)
    np.testing.assert_allclose(np.abs(two), np.tile([1.0, 0.0], (200, 1)), atol=1e-6)
    any_angle = jax.vmap(locomotion.ant_dir(locomotion.AntDirConfig(forward_backward=False)).sample)(keys).angle
    assert 0 <= any_angle.min() < 0.5 and 5.5 < any_angle.max() < 2 * np.pi


def test_humanoid_dir_goes_any_way():
    family = locomotion.humanoid_dir()
    angle = jax.vmap(family.sample)(jax.random.split(KEY, 200)).angle
    assert 0 <= angle.min() < 0.2 and 6.0 < angle.max() < 2 * np.pi
    np.testing.assert_allclose(family.encode(locomotion.ant.HeadingTask(jnp.float32(2.0))), [np.cos(2), np.sin(2)])


def test_ant_goal_pays_for_the_distance_and_shows_the_position(ant):
    _, reset, _ = ant
    family = locomotion.ant_goal()
    task = locomotion.ant.GoalTask(jnp.array([1.0, -2.0]))
    state, _ = reset(KEY, None)
    action = actions_of(family.env)[0]
    state, outcome = jax.jit(family.env.step)(KEY, state, action, task)
    position = np.asarray(state.x.pos[0, :2])
    expected = -abs(position[0] - 1.0) - abs(position[1] + 2.0) - 0.1 * effort_of(action)
    np.testing.assert_allclose(outcome.reward, expected, rtol=1e-5)
    np.testing.assert_allclose(outcome.obs[:2], position, atol=1e-6)
    assert not outcome.terminated
    goals = jax.vmap(family.sample)(jax.random.split(KEY, 400)).goal
    radius = np.linalg.norm(goals, axis=-1)
    assert radius.max() <= 3.0 + 1e-5 and abs(radius.mean() - 2.0) < 0.15  # E[3 √U] = 2


def test_humanoid_dir_pays_for_the_heading():
    family = locomotion.humanoid_dir()
    outcome = Outcome(None, jnp.array([0.7, -0.2, 9.0]), jnp.float32(2.0))
    for angle in (0.0, 2.0):
        forward = 0.7 * np.cos(angle) - 0.2 * np.sin(angle)
        paid = family.env.reward(outcome, locomotion.ant.HeadingTask(jnp.float32(angle)))
        np.testing.assert_allclose(paid, 1.25 * forward - 0.1 * 2.0 + 5.0, rtol=1e-6)


@pytest.mark.slow  # half a minute to compile, and the contracts step a humanoid as well
def test_humanoid_dir_along_x_pays_and_ends_as_brax_does():
    """Brax's own humanoid runs along x, scales actions to the range of its motors, and has the same weights."""
    family = locomotion.humanoid_dir()
    body = family.env.body
    actions = actions_of(family.env)

    def thrown(height):
        position = body.sys.init_q.at[2].set(height)
        return body.pipeline_init(position, jnp.zeros(body.sys.qd_size()).at[:2].set(jnp.array([2.0, 1.0])))

    def run(angle, start):
        task = locomotion.ant.HeadingTask(angle)
        return jax.lax.scan(lambda state, action: family.env.step(KEY, state, action, task), start, actions)[1]

    def plain_step(state, action):
        state = body.step(brax_state(state), jnp.clip(action, -1, 1))
        return state.pipeline_state, (state.pipeline_state.q, state.reward, state.done)

    angle = jnp.array([0.0, 2.0, 0.0])
    start = jax.jit(jax.vmap(thrown))(jnp.array([1.4, 1.4, 2.2]))
    step = jax.jit(jax.vmap(run))(angle, start)
    position, reward, done = jax.jit(jax.vmap(lambda start: jax.lax.scan(plain_step, start, actions)[1]))(start)
    np.testing.assert_allclose(step.obs[..., :22], position[..., 2:], rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(step.reward[::2], reward[::2], rtol=1e-3, atol=1e-3)
    np.testing.assert_array_equal(step.terminated, done)
    np.testing.assert_array_equal(step.terminated.any(1), [False, False, True])
    np.testing.assert_allclose(step.obs[0], step.obs[1], rtol=1e-3, atol=1e-3)
    # the centre of mass keeps its velocity as long as nothing touches the floor
    turned = 1.25 * (2.0 * np.cos(2.0) + np.sin(2.0) - 2.0)
    np.testing.assert_allclose(step.reward[1] - step.reward[0], turned, rtol=0.05)


# a walker is built as a hopper is
@pytest.mark.parametrize("family_of_bodies", [pytest.param("walker", marks=pytest.mark.slow), "hopper"], indirect=True)
def test_every_multiplier_alone_changes_the_body(family_of_bodies):
    family = family_of_bodies
    actions = actions_of(family.env, steps=4 * STEPS)  # the hopper starts in the air

    def bodies_step(task):
        state, _ = family.env.reset(KEY, task)
        return jax.lax.scan(lambda state, action: family.env.step(KEY, state, action, task), state, actions)

    shape = jax.eval_shape(family.sample, KEY)
    default = jax.tree.map(lambda leaf: jnp.ones(leaf.shape), shape)
    names = [field.name for field in dataclasses.fields(default)]
    assert names == ["mass", "inertia", "friction", "damping"]
    bodies = [default] + [default.replace(**{name: 2.0 * getattr(default, name)}) for name in names]
    bodies += [family.sample(key) for key in jax.random.split(KEY, 3)]
    system = family.env.body.sys
    before = jax.tree.map(np.array, system)
    state, step = jax.jit(jax.vmap(bodies_step))(jax.tree.map(lambda *leaves: jnp.stack(leaves), *bodies))

    assert family.env.body.sys is system
    jax.tree.map(np.testing.assert_array_equal, before, jax.tree.map(np.array, family.env.body.sys))
    for index, name in enumerate(names, start=1):
        assert np.abs(step.obs[index] - step.obs[0]).max() > 1e-3, name
    np.testing.assert_allclose(family.encode(default), 0.0)

    def plain_step(state, action):
        state = family.env.body.step(state, action)
        return state, (state.obs, state.reward)

    def plain(key):
        return jax.lax.scan(plain_step, family.env.body.reset(key), jnp.clip(actions[:STEPS], -1, 1))[1]

    obs, reward = jax.jit(plain)(KEY)
    np.testing.assert_allclose(step.obs[0, :STEPS], obs, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(step.reward[0, :STEPS], reward, rtol=1e-3, atol=1e-3)
    assert np.isfinite(step.reward).all() and np.isfinite(state.q).all()


def fallen(height, pitch, speed=0.0):
    """What a step did that left a body there."""
    link = types.SimpleNamespace(pos=jnp.array([[0.0, 0.0, height]]))
    physics = types.SimpleNamespace(x=link, q=jnp.array([0.0, 0.0, pitch, 0.1]), qd=jnp.array([0.0, speed]))
    return Outcome(physics, jnp.zeros(3), jnp.float32(0))


@pytest.mark.parametrize(
    "height, pitch, ends",
    [(1.2, 0.0, False), (0.79, 0.0, True), (2.1, 0.0, True), (1.2, 1.1, True), (1.2, -1.1, True)],
)
def test_walker_ends_where_it_falls(walker, height, pitch, ends):
    assert walker.env.terminated(fallen(height, pitch)) == ends


@pytest.mark.parametrize(
    "height, pitch, speed, ends",
    [
        (1.2, 0.0, 0.0, False),
        (2.1, 0.19, -99.0, False),
        (0.69, 0.0, 0.0, True),
        (1.2, 0.21, 0.0, True),
        (1.2, -0.21, 0.0, True),
        (1.2, 0.0, -101.0, True),
    ],
)
def test_hopper_ends_where_it_falls(hopper, height, pitch, speed, ends):
    assert hopper.env.terminated(fallen(height, pitch, speed)) == ends


def test_multipliers_stay_within_their_law(family_of_bodies):
    task = jax.vmap(family_of_bodies.sample)(jax.random.split(KEY, 50))
    for multiplier, base in ((task.mass, 1.5), (task.inertia, 1.5), (task.friction, 1.5), (task.damping, 1.3)):
        exponent = np.log(multiplier) / np.log(base)
        assert -3.001 < exponent.min() < -2.5 and 2.5 < exponent.max() < 3.001


@pytest.mark.parametrize(
    "config, fields, message",
    [
        (locomotion.HalfCheetahVelConfig, {"horizon": 0}, "tasks.horizon is 0"),
        (locomotion.HalfCheetahVelConfig, {"backend": "bullet"}, "'bullet'; known backends are spring"),
        (locomotion.HalfCheetahVelConfig, {"max_velocity": -1.0}, "tasks.max_velocity is -1.0"),
        (locomotion.HalfCheetahDirConfig, {"line_search_iterations": 0}, "tasks.line_search_iterations is 0"),
        (locomotion.AntGoalConfig, {"radius": 0.0}, "tasks.radius is 0.0"),
        (locomotion.WalkerParamsConfig, {"backend": "spring"}, "'spring'; it must be generalized or mjx"),
        (locomotion.HopperParamsConfig, {"backend": "positional"}, "'positional'; it must be generalized or mjx"),
        (locomotion.WalkerParamsConfig, {"log_scale": -1.0}, "tasks.log_scale is -1.0"),
    ],
)
def test_bad_configs_name_field_value_and_remedy(config, fields, message):
    with pytest.raises(ValueError, match=message) as error:
        config(**fields)
    assert "\n" not in str(error.value)


def test_building_a_family_is_quiet(capfd):
    locomotion.half_cheetah_dir()
    printed = capfd.readouterr()
    assert printed.out == printed.err == ""


@pytest.mark.slow  # a thousand episodes each; minutes where bodies have many joints
@pytest.mark.parametrize("factory, config", FAMILIES, ids=lambda value: getattr(value, "__name__", ""))
def test_a_thousand_random_episodes_are_finite(factory, config):
    """Each on a task of its own; and it is not for standing still, as a body does that has diverged."""
    family = factory(config())
    env, spec = family.env, family.env.spec

    def episode(key):
        task_key, reset_key, steps_key = jax.random.split(key, 3)
        task = family.sample(task_key)

        def step(state, key):
            physics, alive = state
            action = jax.random.uniform(key, (spec.action.size,), minval=-1.0, maxval=1.0)
            after, outcome = env.step(key, physics, action, task)
            stood = alive & jnp.all(after.q == physics.q) & jnp.all(after.qd == physics.qd)
            numbers = jnp.concatenate([outcome.obs, outcome.reward[None], after.q, after.qd])
            return (after, alive & ~outcome.terminated), (jnp.all(jnp.isfinite(numbers)), stood, alive)

        begun = env.reset(reset_key, task)[0], jnp.array(True)
        finite, stood, alive = jax.lax.scan(step, begun, jax.random.split(steps_key, spec.horizon))[1]
        return jnp.all(finite), jnp.sum(stood), jnp.sum(alive)

    keys = jax.random.split(KEY, (20, 50))
    finite, stood, lasted = jax.jit(lambda keys: jax.lax.map(jax.vmap(episode), keys))(keys)
    assert finite.all()
    print(f"{spec.horizon} steps at most, {lasted.mean():.1f} on average; stood still at {int(stood.sum())} of all")
    assert stood.sum() <= 1e-4 * lasted.sum()
