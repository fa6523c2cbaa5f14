from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxmeta as jm
from jaxmeta import tasks, testing
from jaxmeta.experiment import registry
from jaxmeta.tasks.sinusoid import _with_rare


def test_finite_sets_are_fixed_disjoint_and_of_the_size_asked_for():
    family = jm.finite(tasks.navigation(), num_train=3, num_test=2, key=jax.random.key(0))
    draw = lambda law, key: {  # noqa: E731
        tuple(goal) for goal in np.asarray(jax.vmap(law)(jax.random.split(key, 200)).goal).tolist()
    }
    train, test = draw(family.sample, jax.random.key(1)), draw(family.sample_test, jax.random.key(2))
    assert (len(train), len(test)) == (3, 2) and not train & test
    again = jm.finite(tasks.navigation(), 3, 2, jax.random.key(0))
    assert draw(again.sample, jax.random.key(3)) == train


def test_finite_refuses_an_empty_set():
    with pytest.raises(ValueError, match="num_test is 0; a task set needs at least 1 task"):
        jm.finite(tasks.navigation(), 3, 0, jax.random.key(0))


def test_finite_refuses_a_law_with_too_few_tasks():
    coin = lambda key: tasks.PointTask(goal=jnp.full(2, 0.1) * jax.random.rademacher(key, ()))  # noqa: E731
    family = tasks.navigation()._replace(sample=coin, sample_test=coin)
    with pytest.raises(ValueError, match="held-out tasks are training tasks too; the family has too few tasks"):
        jm.finite(family, 8, 8, jax.random.key(0))


def test_revealed_tasks_are_part_of_the_observation():
    family = tasks.reveal(tasks.navigation())
    testing.check_env(family, num_steps=3)
    task = tasks.PointTask(goal=jnp.array([0.3, -0.2]))
    state, obs = family.env.reset(jax.random.key(0), task)
    np.testing.assert_allclose(obs, [0, 0, 0.3, -0.2])
    _, step = family.env.step(jax.random.key(0), state, jnp.array([0.1, 0.0]), task)
    np.testing.assert_allclose(step.obs, [0.1, 0, 0.3, -0.2])


def test_navigation_moves_at_most_a_tenth_and_ends_at_the_goal():
    env = tasks.Navigation()
    task = tasks.PointTask(goal=jnp.array([0.105, -0.1]))
    state, obs = env.reset(jax.random.key(0), task)
    np.testing.assert_array_equal(obs, [0, 0])
    state, step = env.step(jax.random.key(0), state, jnp.array([5.0, -0.05]), task)
    np.testing.assert_allclose(step.obs, [0.1, -0.05])
    np.testing.assert_allclose(step.reward, -np.hypot(0.005, 0.05), rtol=1e-5)
    assert not step.terminated
    _, step = env.step(jax.random.key(0), state, jnp.array([0.0, -0.05]), task)
    assert step.terminated


def test_never_moving_in_navigation_returns_minus_38():
    """That is the mean distance of a goal, a hundred times."""
    goals = jax.vmap(tasks.navigation().sample)(jax.random.split(jax.random.key(0), 20_000)).goal
    np.testing.assert_allclose(-100 * jnp.linalg.norm(goals, axis=-1).mean(), -38.2, atol=0.3)


def test_bandit_pays_with_the_probability_of_the_arm():
    env, task = tasks.Bandit(2), tasks.BanditTask(probability=jnp.array([0.9, 0.2]))
    pull = jax.vmap(lambda key, arm: env.step(key, (), arm, task)[1].reward, (0, None))
    keys = jax.random.split(jax.random.key(0), 5000)
    for arm, probability in enumerate((0.9, 0.2)):
        rewards = pull(keys, arm)
        assert set(np.unique(rewards)) == {0.0, 1.0}
        np.testing.assert_allclose(rewards.mean(), probability, atol=0.02)


def draw(family, size):
    return jax.jit(jax.vmap(family.sample))(jax.random.split(jax.random.key(0), size))


def test_gaussian_arms_pay_their_mean_with_unit_variance():
    family = tasks.gaussian_bandit(tasks.GaussianBanditConfig(num_arms=2))
    task = tasks.GaussianBanditTask(mean=jnp.array([-1.5, 0.5]))
    pull = jax.vmap(lambda key, arm: family.env.step(key, (), arm, task)[1].reward, (0, None))
    keys = jax.random.split(jax.random.key(0), 20_000)
    for arm, mean in enumerate((-1.5, 0.5)):
        rewards = pull(keys, arm)
        np.testing.assert_allclose([rewards.mean(), rewards.var()], [mean, 1.0], atol=0.04)


def test_means_of_gaussian_arms_are_standard_normal_and_independent():
    means = np.asarray(draw(tasks.gaussian_bandit(tasks.GaussianBanditConfig(num_arms=2)), 20_000).mean)
    np.testing.assert_allclose(means.mean(0), 0.0, atol=0.03)
    np.testing.assert_allclose(np.cov(means.T), np.eye(2), atol=0.05)


@pytest.mark.parametrize(("variant", "worse"), [("easy", 0.1), ("medium", 0.25), ("hard", 0.4)])
def test_dependent_arms_have_the_published_probabilities(variant, worse):
    family = tasks.dependent_bandit(tasks.DependentBanditConfig(variant=variant))
    probability = np.asarray(draw(family, 4000).probability)
    np.testing.assert_allclose(probability.sum(1), 1.0, rtol=1e-6)
    np.testing.assert_allclose(probability.min(1), worse, rtol=1e-6)
    np.testing.assert_allclose((probability[:, 0] < 0.5).mean(), 0.5, atol=0.03)
    assert family.episodes == 100 and family.env.spec.action.num == 2


def test_uniform_dependent_arms_add_up_to_one():
    probability = np.asarray(draw(tasks.dependent_bandit(), 20_000).probability)
    np.testing.assert_allclose(probability.sum(1), 1.0, rtol=1e-6)
    quantiles = np.linspace(0.1, 0.9, 9)
    np.testing.assert_allclose(np.quantile(probability[:, 0], quantiles), quantiles, atol=0.015)


@pytest.mark.parametrize(
    ("config", "values", "message"),
    [
        (tasks.BanditConfig, {"num_arms": 0}, "tasks.num_arms is 0; a bandit needs at least 1 arm"),
        (tasks.BanditConfig, {"num_pulls": 0}, "tasks.num_pulls is 0; a trial needs at least 1 pull"),
        (tasks.GaussianBanditConfig, {"num_arms": 0}, "tasks.num_arms is 0; a bandit needs at least 1 arm"),
        (tasks.DependentBanditConfig, {"num_pulls": 0}, "tasks.num_pulls is 0; a trial needs at least 1 pull"),
        (
            tasks.DependentBanditConfig,
            {"variant": "soft"},
            "variant is 'soft'; known variants are uniform, easy, medium",
        ),
        (tasks.TabularConfig, {"num_states": 0}, "tasks.num_states is 0; an MDP needs at least 1 state"),
        (tasks.TabularConfig, {"num_actions": 0}, "tasks.num_actions is 0; an MDP needs at least 1 action"),
        (tasks.TabularConfig, {"horizon": 0}, "tasks.horizon is 0; an episode needs at least 1 step"),
        (tasks.TabularConfig, {"num_episodes": 0}, "tasks.num_episodes is 0; a trial needs at least 1 episode"),
        (tasks.GridConfig, {"size": 2}, "tasks.size is 2; a side needs at least 3 cells"),
        (tasks.GridConfig, {"horizon": 0}, "tasks.horizon is 0; an episode needs at least 1 step"),
        (tasks.GridConfig, {"num_episodes": 0}, "tasks.num_episodes is 0; a trial needs at least 1 episode"),
        (tasks.NavigationConfig, {"horizon": 0}, "tasks.horizon is 0; an episode needs at least 1 step"),
        (tasks.NavigationConfig, {"extent": -1.0}, "tasks.extent is -1.0; goals need a square of positive size"),
        (tasks.PointRobotConfig, {"horizon": 0}, "tasks.horizon is 0; an episode needs at least 1 step"),
        (tasks.SparsePointRobotConfig, {"goal_radius": -0.2}, "tasks.goal_radius is -0.2; it must be above 0"),
    ],
)
def test_bad_configs_say_what_would_be_right(config, values, message):
    with pytest.raises(ValueError, match=message):
        config(**values)


def test_an_unknown_name_suggests_the_nearest():
    with pytest.raises(KeyError, match="no task family 'half-cheetah-velo'; did you mean 'half-cheetah-vel'"):
        registry.find("task family", registry.TASKS, "half-cheetah-velo")


def test_rare_waves_have_other_phases_and_the_others_stay():
    share, limit = 0.025, np.pi
    phase = np.array([0.0, 0.5, 0.974, 0.976, 0.999])
    mapped = np.asarray(_with_rare(jnp.asarray(phase), share))
    np.testing.assert_allclose(mapped[:3], phase[:3] / 0.975, rtol=1e-5)
    np.testing.assert_allclose(mapped[3:], 1 + (phase[3:] - 0.975) / 0.025, rtol=1e-3)
    families = {rare: jm.tasks.sinusoid(jm.tasks.SinusoidConfig(rare=rare)) for rare in (0.0, 0.25, 1.0)}
    keys = jax.random.split(jax.random.key(0), 400)
    drawn = {rare: np.asarray(jax.vmap(one.sample)(keys).generator.phase) for rare, one in families.items()}
    assert drawn[0.0].max() <= limit and drawn[1.0].min() >= limit and drawn[1.0].max() <= 2 * limit
    assert 0.18 < (drawn[0.25] > limit).mean() < 0.32
    with pytest.raises(ValueError, match="tasks.rare is 2; it must lie in"):
        jm.tasks.SinusoidConfig(rare=2)
