from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxmeta as jm
from jaxmeta import tasks, testing
from jaxmeta.types import Discrete

KEY = jax.random.key(0)
CAR, POLE = tasks.mountain_car(tasks.MountainCarConfig(horizon=6)), tasks.cart_pole(tasks.CartPoleConfig(horizon=4))


@pytest.fixture(scope="module")
def both():
    return tasks.several(CAR, POLE)


@pytest.fixture(scope="module")
def some(both):
    return jax.jit(jax.vmap(both.sample))(jax.random.split(KEY, 600))


def of_kind(drawn, kind):
    return jax.tree.map(lambda leaf: leaf[np.flatnonzero(drawn.kind == kind)[0]], drawn)


def test_it_holds_the_contract_also_revealed(both):
    testing.check_env(tasks.reveal(both), num_steps=2)


def test_kinds_are_uniform_and_tasks_those_of_the_families(both, some):
    # the standard deviation of the share is 0.02
    assert abs(float(some.kind.mean()) - 0.5) < 0.08
    codes = jax.vmap(both.encode)(some)
    np.testing.assert_array_equal(codes[:, :2], np.eye(2)[some.kind])
    for kind, family in enumerate((CAR, POLE)):
        task = of_kind(some, kind)
        own = family.encode(task.parts[kind])
        np.testing.assert_allclose(both.encode(task)[2:], np.pad(own, (0, 4 - len(own))), rtol=1e-6)


@pytest.mark.parametrize(("kind", "family"), [(0, CAR), (1, POLE)])
def test_an_episode_is_that_of_the_kind(both, some, kind, family):
    env, task = both.env, of_kind(some, kind)
    step, own_step = jax.jit(env.step), jax.jit(family.env.step)
    state, obs = env.reset(KEY, task)
    own_state, own_obs = family.env.reset(KEY, task.parts[kind])
    others = jax.tree.leaves(state.parts[1 - kind])
    for time in range(family.env.spec.horizon):
        num = family.env.spec.action.num
        np.testing.assert_allclose(obs["obs"], np.pad(own_obs, (0, 4 - own_obs.size)), rtol=1e-6)
        np.testing.assert_array_equal(obs["actions"], np.arange(3) < num)
        action = jnp.int32(time % num)
        state, went = step(KEY, state, action, task)
        own_state, own_went = own_step(KEY, own_state, action, task.parts[kind])
        obs, own_obs = went.obs, own_went.obs
        np.testing.assert_allclose(went.reward, own_went.reward)
        assert bool(went.terminated) == bool(own_went.terminated) and not went.success
        # cart-pole's horizon is 4, that of both is 6
        assert bool(went.truncated) == (kind == 1 and time == 3)
    assert all(np.array_equal(*pair) for pair in zip(others, jax.tree.leaves(state.parts[1 - kind]), strict=True))


def test_the_spec_is_that_of_the_largest(both):
    spec = both.env.spec
    assert (spec.action, spec.horizon, spec.terminates, spec.success) == (Discrete(3), 6, True, True)
    assert spec.observation["obs"].shape == (4,) and spec.action_mask == "actions"


def test_equal_actions_need_no_mask():
    spec = tasks.several(tasks.mountain_car(), tasks.acrobot()).env.spec
    assert spec.observation == (6,) and spec.action_mask is None


def test_an_agent_never_takes_an_action_that_its_kind_lacks(both, some):
    family = tasks.reveal(both)
    meta = jm.ppo(family, jm.PPOConfig(num_tasks=4, streams=2, hidden=(4,)))
    few = jax.tree.map(lambda leaf: leaf[:16], some)
    params = meta.learner.init(KEY)

    def actions(task, key):
        return jm.core.rollout.collect(meta.learner, params, family.env, task, key, meta.plan).rounds.action

    taken = jax.jit(jax.vmap(actions))(few, jax.random.split(KEY, 16))
    assert taken[few.kind == 1].max() == 1 and taken[few.kind == 0].max() == 2


def test_continuous_kinds_read_the_first_entries_and_clip_them():
    family = tasks.several(tasks.navigation(tasks.NavigationConfig(horizon=4)), tasks.pendulum())
    spec = family.env.spec
    assert (spec.action.size, spec.action.limit, spec.action_mask) == (2, 2.0, None)
    testing.check_env(family, num_steps=2)
    task = of_kind(jax.vmap(family.sample)(jax.random.split(KEY, 20)), 1)
    state, _ = family.env.reset(KEY, task)
    one, other = (family.env.step(KEY, state, jnp.array([0.5, rest]), task)[1] for rest in (0.0, 1.0))
    np.testing.assert_array_equal(one.obs, other.obs)


@pytest.mark.parametrize(
    ("families", "message"),
    [
        ((), "several: no family is given; it needs at least 1"),
        ((CAR, tasks.pendulum()), r"several: the action spaces are Discrete\(num=3\), Continuous.*; they must be all"),
        ((tasks.several(CAR, POLE), CAR), "several: an observation is .*; it must be one float32 array"),
    ],
)
def test_families_that_do_not_fit_are_refused_in_one_line(families, message):
    with pytest.raises(ValueError, match=message) as found:
        tasks.several(*families)
    assert "\n" not in str(found.value)


@pytest.mark.parametrize(
    ("kinds", "message"),
    [
        ((), "tasks.kinds is .*; it needs at least one of acrobot, cart-pole"),
        (("cartpole",), "tasks.kinds has 'cartpole'; did you mean 'cart-pole'?"),
        (("acrobot", "acrobot"), "tasks.kinds is acrobot acrobot; name every kind once"),
    ],
)
def test_kinds_that_there_are_not_are_refused_in_one_line(kinds, message):
    with pytest.raises(ValueError, match=message):
        tasks.ClassicControlConfig(kinds=kinds)


def test_classic_control_is_the_kinds_with_or_without_hidden_physics():
    standard, varied = (tasks.classic_control(tasks.ClassicControlConfig(vary=vary)) for vary in (False, True))
    task = standard.sample(KEY)
    np.testing.assert_allclose(task.parts[0].gravity, 9.8, rtol=1e-6)
    assert standard.encode(task).shape == (2,) and varied.encode(varied.sample(KEY)).shape == (6,)
    with pytest.raises(ValueError, match="they must be all Discrete or all Continuous"):
        tasks.classic_control(tasks.ClassicControlConfig(kinds=("acrobot", "pendulum")))


@pytest.mark.slow
def test_one_policy_balances_cart_poles_and_swings_acrobots_up():
    family = tasks.reveal(tasks.classic_control())
    ppo = jm.outer.ActorCriticConfig(learning_rate=2e-3, epochs=4, minibatches=4, value_weight=0.5, entropy_weight=0.02)
    meta = jm.ppo(family, jm.PPOConfig(num_tasks=32, streams=4, ppo=ppo))
    state = jm.train(meta, jm.init_state(meta, KEY), 40, chunk=10)
    some = jax.vmap(family.sample_test)(jax.random.split(jax.random.key(1000), 128))
    report = jm.evaluate(meta.learner, state.params, family, some, jax.random.key(2), meta.plan)
    returns = np.asarray(report.returns).mean((1, 2, 3))
    for kind, least in enumerate((190.0, -100.0)):
        assert returns[some.kind == kind].mean() >= least
