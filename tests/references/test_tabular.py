from __future__ import annotations

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct
from scipy import optimize

import jaxmeta as jm
from jaxmeta import types
from jaxmeta.references import tabular

STATES, ACTIONS, HORIZON = SIZES = 10, 5, 10


class Mdp(struct.PyTreeNode):
    reward: jax.Array
    transition: jax.Array


@dataclasses.dataclass(frozen=True)
class MdpEnv:
    spec = types.Spec(observation=(STATES,), action=types.Discrete(ACTIONS), horizon=HORIZON)

    def reset(self, key, task):
        return jnp.zeros((), jnp.int32), jax.nn.one_hot(0, STATES)

    def step(self, key, state, action, task):
        noise_key, move_key = jax.random.split(key)
        reward = task.reward[state, action] + jax.random.normal(noise_key)
        state = jax.random.categorical(move_key, jnp.log(task.transition[state, action])).astype(jnp.int32)
        return state, types.Step(obs=jax.nn.one_hot(state, STATES), reward=reward, terminated=jnp.array(False))


def draws(number, seed=0):
    rng = np.random.default_rng(seed)
    return Mdp(
        reward=jnp.asarray(rng.normal(1.0, 1.0, (number, STATES, ACTIONS)), jnp.float32),
        transition=jnp.asarray(rng.dirichlet(np.ones(STATES), (number, STATES, ACTIONS)), jnp.float32),
    )


def test_optimal_and_random_returns_on_the_distribution_of_rl2():
    mdps = draws(4000)
    optimum = jax.vmap(lambda mdp: tabular.optimal_value(mdp.reward, mdp.transition, HORIZON))(mdps)
    assert abs(optimum.mean() - 21.80) < 3 * optimum.std() / 4000**0.5 + 0.02
    chance = jax.vmap(lambda mdp: tabular.random_value(mdp.reward, mdp.transition, HORIZON))(mdps)
    assert abs(chance.mean() - 10.0) < 3 * chance.std() / 4000**0.5


def test_values_equal_a_recursion_over_all_histories():
    rng = np.random.default_rng(0)
    reward, transition = rng.normal(size=(3, 2)), rng.dirichlet(np.ones(3), (3, 2))

    def value(state, steps, combine):
        if steps == 0:
            return 0.0
        return combine(
            reward[state, action] + sum(transition[state, action, n] * value(n, steps - 1, combine) for n in range(3))
            for action in range(2)
        )

    optimum = tabular.optimal_value(jnp.asarray(reward), jnp.asarray(transition), 4, start=1)
    assert optimum == pytest.approx(value(1, 4, max), rel=1e-5)
    chance = tabular.random_value(jnp.asarray(reward), jnp.asarray(transition), 4, start=2)
    assert chance == pytest.approx(value(2, 4, lambda values: np.mean(list(values))), rel=1e-5)


def test_the_optimistic_transition_solves_its_linear_program():
    rng = np.random.default_rng(1)
    value, transition = rng.normal(size=4), rng.dirichlet(np.ones(4))
    for distance in (0.0, 0.3, 1.1, 2.0, 5.0):
        # p - transition = up - down with up, down >= 0 and their sum at most the distance
        program = optimize.linprog(
            np.concatenate([-value, value]),
            A_ub=np.concatenate([np.ones((1, 8)), np.concatenate([-np.eye(4), np.eye(4)], 1)]),
            b_ub=np.concatenate([[distance], transition]),
            A_eq=np.concatenate([np.ones((1, 4)), -np.ones((1, 4))], 1),
            b_eq=[0.0],
        )
        got = tabular._best_expectation(
            jnp.asarray(value), jnp.asarray(transition)[None, None], jnp.full((1, 1), distance)
        )
        assert got[0, 0] == pytest.approx(transition @ value - program.fun, abs=1e-5)


@pytest.mark.parametrize(
    ("learner", "least"),
    [
        (tabular.epsilon_greedy(*SIZES), 146),
        (tabular.psrl(*SIZES), 131),
        (tabular.optimistic_psrl(*SIZES, num_draws=2), 134),
        (tabular.ucrl2(*SIZES), 151),
        (tabular.beb(*SIZES), 149),
    ],
    ids=["epsilon_greedy", "psrl", "optimistic_psrl", "ucrl2", "beb"],
)
def test_planning_learners_have_their_known_returns_on_ten_episodes(learner, least):
    report = jm.evaluate(learner, (), MdpEnv(), draws(64), jax.random.key(1), jm.Plan(episodes=10))
    result = report.trial_return()
    assert least - 2 * result["stderr"] < result["mean"] < least + 8 + 2 * result["stderr"]


def test_replay_reproduces_collection():
    learner, plan, task = (
        tabular.psrl(*SIZES),
        jm.Plan(streams=2, episodes=2),
        jax.tree.map(lambda leaf: leaf[0], draws(1)),
    )
    trial = jax.jit(lambda key: jm.collect(learner, (), MdpEnv(), task, key, plan))(jax.random.key(1))
    again = jax.jit(lambda trial: jm.replay(learner, (), trial))(trial)
    chex.assert_trees_all_equal(again, trial.rounds.output)


def test_experience_counts_every_reward_but_no_transitions_across_episodes():
    learner = tabular.beb(3, 2, 2)
    blank = types.Spec(observation=(3,), action=types.Discrete(2), horizon=2).example_input()
    at = lambda state: jax.nn.one_hot(state, 3)  # noqa: E731
    one = jnp.ones(())
    carry = learner.reset((), (), jax.random.key(0))
    for inputs in (
        blank.replace(obs=at(0), first=one),
        blank.replace(obs=at(2), prev_action=jnp.array(1), prev_reward=jnp.array(5.0)),
        blank.replace(obs=at(0), prev_action=jnp.array(0), prev_reward=jnp.array(7.0), prev_done=one),
    ):
        carry, _ = learner.act((), (), carry, inputs)
    np.testing.assert_array_equal(carry.visits, [[0, 1], [0, 0], [1, 0]])
    np.testing.assert_array_equal(carry.reward_sum, [[0, 5], [0, 0], [7, 0]])
    np.testing.assert_array_equal(carry.moves.nonzero(), [[0], [1], [2]])
    assert (int(carry.time), int(carry.episode), int(carry.state)) == (0, 2, 0)
