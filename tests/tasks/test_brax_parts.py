"""Families of one's own on Brax, and those whose start or motors depend on the task."""

import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmeta import tasks
from jaxmeta.core import contracts
from jaxmeta.tasks import brax
from jaxmeta.tasks.brax.crippled import CrippledTask
from jaxmeta.tasks.brax.env import Outcome
from jaxmeta.tasks.brax.reacher import ReachTask

KEY = jax.random.key(0)


def load_body(name="reacher", backend="spring"):
    from jaxmeta.tasks.brax.config import load

    return load(name, tasks.LocomotionConfig(backend=backend))


def nothing(outcome, task):
    return jnp.zeros(())


def test_the_example_of_the_documentation_is_a_family():
    text = brax.__doc__ or ""
    lines = [line for line in text.splitlines() if line.startswith("    ") or not line]
    code = textwrap.dedent("\n".join(lines))
    assert len([line for line in code.splitlines() if line]) <= 25
    names = {"__name__": __name__}  # dataclasses look their module up
    exec(code, names)  # noqa: S102  the documentation's own code
    family = names["weak_ant"]()
    contracts.check_forms(family)
    action = jnp.linspace(-1.0, 1.0, 8)
    np.testing.assert_allclose(family.env.command(action, jnp.float32(0.5)), action / 2)
    assert family.env.advance is not None


def test_a_body_of_ones_own_is_used_and_not_modified():
    body = load_body()
    body.sys = body.sys.replace(actuator=body.sys.actuator.replace(gear=jnp.array([1.0, 2.0])))
    system = body.sys
    config = tasks.LocomotionConfig(horizon=3, solver_iterations=7)
    env = tasks.locomotion(body, config, tasks.coordinates(hidden=0), nothing)
    assert (env.spec.observation, env.spec.action.size, env.spec.horizon) == ((8,), 2, 3)
    assert body.sys is system and env.body.sys.opt.iterations == 7
    np.testing.assert_array_equal(env.body.sys.actuator.gear, [1.0, 2.0])


def test_a_body_that_does_not_fit_is_one_line():
    body = load_body()
    observe = tasks.coordinates(hidden=0)
    with pytest.raises(ValueError, match="config.backend is 'mjx', but the body was built on 'spring'"):
        tasks.locomotion(body, tasks.LocomotionConfig(backend="mjx"), observe, nothing)
    for low, high in ((0.0, 1.0), (-np.inf, np.inf)):
        ranges = jnp.array([[low, high], [-1.0, 1.0]])
        body.sys = body.sys.replace(actuator=body.sys.actuator.replace(ctrl_range=ranges))
        with pytest.raises(ValueError, match="finite and symmetric") as error:
            tasks.locomotion(body, tasks.LocomotionConfig(), observe, nothing)
        assert "\n" not in str(error.value)


def test_a_family_can_be_built_inside_a_trace():
    size = jax.jit(lambda: jnp.zeros(tasks.reacher_goal().env.spec.action.size))().shape
    assert size == (2,)


def test_start_depends_on_the_key_and_on_the_task_and_the_rest_is_as_in_brax():
    """One program: Brax's reacher pays for the same distance, with its target at the goal."""
    family = tasks.reacher_goal()
    env, task = family.env, ReachTask(jnp.array([0.05, -0.12]))
    actions = jax.random.uniform(jax.random.key(1), (4, 2), minval=-1.5, maxval=1.5)

    @jax.jit
    def run():
        state, obs = env.reset(KEY, task)
        after, steps = jax.lax.scan(lambda state, action: env.step(KEY, state, action, task), state, actions)
        # its observation ends with the way from the target to the fingertip
        seen = jax.vmap(env.body._get_obs)(jax.tree.map(lambda *leaves: jnp.stack(leaves), state, after))
        return state, obs, after, steps, seen

    state, obs, after, steps, seen = run()
    np.testing.assert_allclose(state.q[2:], task.goal)
    np.testing.assert_allclose(obs, np.concatenate([np.cos(state.q[:2]), np.sin(state.q[:2]), state.qd[:2]]), rtol=1e-6)
    np.testing.assert_allclose(after.x.pos[2, :2], task.goal, atol=1e-3)  # the target stays where it is
    effort = float(np.sum(np.clip(actions[-1], -1.0, 1.0) ** 2))
    np.testing.assert_allclose(steps.reward[-1], -np.linalg.norm(seen[1, -3:-1]) - effort, atol=2e-3)
    moved = np.abs(seen[1, :4] - seen[0, :4]).max()
    assert moved > 1e-3 and not steps.terminated.any() and env.spec.horizon == 50


def test_a_start_has_randomness_of_its_own():
    def reset(key, physics, task):
        return physics.q.at[0].set(task + jax.random.uniform(key)), jnp.zeros_like(physics.qd)

    env = tasks.locomotion("reacher", tasks.LocomotionConfig(), tasks.coordinates(hidden=0), nothing, reset=reset)
    obs = jax.jit(jax.vmap(lambda key: env.reset(key, jnp.float32(5.0))[1]))(jax.random.split(KEY, 8))
    assert (obs[:, 0] >= 5).all() and (obs[:, 0] <= 6).all() and len(np.unique(obs[:, 0])) == 8
    assert len(np.unique(obs[:, 1])) == 8  # Brax's noise
    np.testing.assert_array_equal(obs[:, 4:], 0.0)


def test_goals_are_uniform_on_the_disc():
    goals = jax.vmap(tasks.reacher_goal().sample)(jax.random.split(KEY, 400)).goal
    radius = np.linalg.norm(goals, axis=-1)
    assert radius.max() <= 0.2 + 1e-6 and abs(radius.mean() - 2 / 15) < 0.01  # E[0.2 √U] = 2/15


CRIPPLED = {
    "joint": (tasks.half_cheetah_crippled, tasks.HalfCheetahCrippledConfig, 6, 6),
    "leg": (tasks.ant_crippled, tasks.AntCrippledConfig, 4, 8),
}


@pytest.mark.parametrize(("factory", "config", "number", "motors"), CRIPPLED.values(), ids=CRIPPLED)
def test_the_dead_in_training_and_held_out_are_disjoint(factory, config, number, motors):
    keys = jax.random.split(KEY, 100)
    for held_out in ((0,), (1, 3)):
        family = factory(config(held_out=held_out))
        train, test = (jax.vmap(sample)(keys).dead for sample in (family.sample, family.sample_test))
        assert set(np.unique(test)) == set(held_out)
        assert set(np.unique(train)) == set(range(number)) - set(held_out) == set(np.array(family.train_tasks.dead))
    np.testing.assert_array_equal(family.encode(CrippledTask(jnp.int32(2))), np.arange(number) == 2)


@pytest.mark.parametrize(("factory", "config", "number", "motors"), CRIPPLED.values(), ids=CRIPPLED)
def test_dead_motors_get_no_command_and_steps_stay_fast(factory, config, number, motors):
    family = factory(config(horizon=7))
    contracts.check_forms(family)
    env = family.env
    assert env.advance is not None and env.spec.horizon == 7 and not env.spec.terminates
    per = motors // number
    for dead in range(number):
        command = env.command(jnp.full(motors, 0.7), CrippledTask(jnp.int32(dead)))
        np.testing.assert_allclose(command, np.where(np.arange(motors) // per == dead, 0.0, 0.7))


def test_commands_reach_the_motors_and_are_what_is_paid_for():
    """On an arm, which compiles fast: a dead motor does what the action 0 does, and costs nothing."""
    env = tasks.locomotion(
        "reacher",
        tasks.LocomotionConfig(),
        tasks.coordinates(hidden=0),
        reward=lambda outcome, task: outcome.effort,
        command=lambda action, task: action * task,
    )

    def step(action, task):
        _, step = env.step(KEY, state, action, task)
        return step.obs, step.reward

    state = jax.jit(env.reset)(KEY, None)[0]
    actions = jnp.array([[0.5, 3.0], [0.5, 0.0], [0.5, 3.0]])
    tasks_ = jnp.array([[1.0, 0.0], [1.0, 1.0], [1.0, 1.0]])
    obs, effort = jax.jit(jax.vmap(step))(actions, tasks_)
    np.testing.assert_array_equal(obs[0], obs[1])
    assert np.abs(obs[2] - obs[1]).max() > 1e-3
    np.testing.assert_allclose(effort, [0.25, 0.25, 1.25])


def test_crippled_bodies_are_paid_for_going_forward():
    outcome = Outcome(None, jnp.array([0.7, 9.0, 9.0]), jnp.float32(2.0))
    task = CrippledTask(jnp.int32(1))
    np.testing.assert_allclose(tasks.half_cheetah_crippled().env.reward(outcome, task), 0.7 - 0.05 * 2.0, rtol=1e-6)
    np.testing.assert_allclose(tasks.ant_crippled().env.reward(outcome, task), 0.7 + 0.05, rtol=1e-6)


@pytest.mark.parametrize(
    ("config", "fields", "message"),
    [
        (tasks.ReacherGoalConfig, {"radius": 0.3}, r"tasks.radius is 0.3; it must lie in \(0, 0.21\]"),
        (
            tasks.HalfCheetahCrippledConfig,
            {"held_out": ()},
            r"tasks.held_out is \(\); it must be some of the joints",
        ),
        (tasks.HalfCheetahCrippledConfig, {"held_out": (6,)}, "some of the joints 0 to 5"),
        (tasks.AntCrippledConfig, {"held_out": (0, 1, 2, 3)}, "some of the legs 0 to 3, but not all"),
    ],
)
def test_bad_configs_are_one_line(config, fields, message):
    with pytest.raises(ValueError, match=message) as error:
        config(**fields)
    assert "\n" not in str(error.value)
