from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from jaxmeta import tasks, testing

KEY = jax.random.key(0)
HORIZON = tasks.TabularConfig().horizon


def mdps(size):
    return jax.jit(jax.vmap(tasks.tabular().sample))(jax.random.split(KEY, size))


def episode_returns(task, policy):
    """Plays one episode of each task with an action for every step and state, [N, H, S]; returns [N]."""
    env = tasks.Tabular()

    def play(key, task, policy):
        def one(state, at):
            key, policy = at
            return env.step(key, state, policy[state.index], task)

        state, _ = env.reset(key, task)
        return jax.lax.scan(one, state, (jax.random.split(key, HORIZON), policy))[1].reward.sum()

    return np.asarray(jax.jit(jax.vmap(play))(jax.random.split(KEY, len(policy)), task, policy))


def optimum(task):
    """Solves MDPs by backward induction: values of state 0 at the start, [N], and the optimal actions, [N, H, S]."""
    reward, transition = np.asarray(task.reward), np.asarray(task.transition)
    value, policy = np.zeros(reward.shape[:2]), []
    for _ in range(HORIZON):
        q = reward + np.einsum("nsat,nt->nsa", transition, value)
        value = q.max(-1)
        policy.insert(0, q.argmax(-1))
    return value[:, 0], np.stack(policy, 1)


def test_states_follow_the_transition_probabilities():
    task = jax.tree.map(lambda leaf: leaf[0], mdps(1))
    env, keys = tasks.Tabular(), jax.random.split(KEY, 20_000)
    state, obs = env.reset(KEY, task)
    np.testing.assert_array_equal(obs, np.eye(10)[0])
    one = lambda key, index, action: env.step(key, state.replace(index=index), action, task)[1]  # noqa: E731
    step = jax.jit(jax.vmap(one, (0, None, None)))
    for index, action in ((0, 3), (9, 0)):
        seen = step(keys, jnp.int32(index), jnp.int32(action))
        np.testing.assert_allclose(seen.obs.mean(0), task.transition[index, action], atol=0.015)
        np.testing.assert_allclose(seen.reward.mean(), task.reward[index, action], atol=0.03)
        np.testing.assert_allclose(seen.reward.var(), 1.0, atol=0.05)
        # the noise of the reward tells nothing about the next state
        assert np.abs(np.corrcoef(seen.reward, seen.obs.argmax(-1))[0, 1]) < 0.03


def test_impossible_states_are_never_entered():
    transition = jnp.zeros((10, 5, 10)).at[..., jnp.array([3, 6])].set(0.5)
    task = tasks.TabularTask(reward=jnp.zeros((10, 5)), transition=transition)
    env = tasks.Tabular()
    state, _ = env.reset(KEY, task)
    after = jax.vmap(lambda key: env.step(key, state, jnp.int32(0), task)[0].index)(jax.random.split(KEY, 1000))
    assert set(np.unique(after)) == {3, 6}


def test_the_task_distribution_is_that_of_rl2():
    task = mdps(2000)
    reward, transition = np.asarray(task.reward), np.asarray(task.transition)
    np.testing.assert_allclose([reward.mean(), reward.var()], [1.0, 1.0], atol=0.02)
    np.testing.assert_allclose(transition.sum(-1), 1.0, rtol=1e-5)
    # one entry of Dirichlet(1) on S states is Beta(1, S - 1)
    np.testing.assert_allclose(transition.mean((0, 1, 2)), 0.1, atol=0.002)
    np.testing.assert_allclose(transition.var((0, 1, 2)), 9 / 1100, rtol=0.03)
    np.testing.assert_allclose((transition > 0.3).mean(), 0.7**9, rtol=0.02)


def test_random_actions_return_10():
    """They collect the mean reward, 1, at each of the ten steps."""
    size = 4000
    # in an episode every step has its own row, so that a random table is a random policy
    policy = jax.random.randint(KEY, (size, HORIZON, 10), 0, 5)
    returns = episode_returns(mdps(size), policy)
    np.testing.assert_allclose(returns.mean(), 10.0, atol=4 * returns.std() / np.sqrt(size))


def test_optimal_value_is_the_published_one_and_the_environments_return():
    task = mdps(4000)
    value, policy = optimum(task)
    error = value.std() / np.sqrt(len(value))
    np.testing.assert_allclose(value.mean(), 21.80, atol=3 * error + 0.02)
    gap = episode_returns(task, jnp.asarray(policy)) - value
    np.testing.assert_allclose(gap.mean(), 0.0, atol=4 * gap.std() / np.sqrt(len(gap)))


def test_an_mdp_of_one_state_is_a_bandit():
    family = tasks.tabular(tasks.TabularConfig(num_states=1, num_actions=2, horizon=1))
    testing.check_env(family, num_steps=2)
    np.testing.assert_array_equal(family.sample(KEY).transition, np.ones((1, 2, 1)))
