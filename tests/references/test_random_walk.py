from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxmeta as jm
from jaxmeta.references import random_walk


def belief_value(slip, num_states, horizon, episodes):
    """Solves the belief MDP with none of the arguments of the reference; the belief is the chance that right pays."""
    last, middle = num_states + 1, (num_states + 1) // 2

    @functools.cache
    def value(episode, time, place, right):
        if episode == episodes:
            return 0.0
        if time == horizon:
            return value(episode + 1, 0, middle, right)
        return max(moves(episode, time, place, right, chance) for chance in (slip, 1 - slip))

    def moves(episode, time, place, right, chance):
        return chance * after(episode, time, place + 1, right) + (1 - chance) * after(episode, time, place - 1, right)

    def after(episode, time, place, right):
        if 0 < place < last:
            return value(episode, time + 1, place, right)
        pays = right if place == last else 1 - right
        true, false = (1.0, 0.0) if place == last else (0.0, 1.0)
        won = 1 + value(episode + 1, 0, middle, true) if pays else 0.0
        lost = value(episode + 1, 0, middle, false) if pays < 1 else 0.0
        return pays * won + (1 - pays) * lost

    return value(0, 0, middle, 0.5)


@pytest.mark.parametrize("slip", [0.0, 0.2, 0.45])
@pytest.mark.parametrize(("num_states", "horizon", "episodes"), [(1, 1, 2), (3, 3, 3), (5, 8, 2)])
def test_the_optimum_equals_that_of_the_belief_mdp(slip, num_states, horizon, episodes):
    total = random_walk.bayes_optimal_returns(slip, num_states, horizon, episodes).sum()
    np.testing.assert_allclose(total, belief_value(slip, num_states, horizon, episodes), rtol=1e-5)


def test_with_much_time_it_is_the_gamblers_ruin():
    for slip in (0.0, 0.1, 0.3):
        expected = 1 / (1 + (slip / (1 - slip)) ** 3)
        np.testing.assert_allclose(random_walk.unlimited_return(slip), expected, rtol=1e-6)
        np.testing.assert_allclose(random_walk.oracle_return(slip, horizon=300), expected, rtol=1e-5)


def test_what_the_learners_are_paid_is_what_was_computed():
    num, slip, horizon, episodes = 8192, 0.25, 6, 3
    family = jm.tasks.random_walk(jm.tasks.RandomWalkConfig(slip=(slip, slip), horizon=horizon))
    key, plan = jax.random.key(0), jm.Plan(episodes=episodes)
    drawn = jax.vmap(family.sample_test)(jax.random.split(key, num))
    for learner, on, expected in (
        (random_walk.bayes_optimal(), family, random_walk.bayes_optimal_returns(slip, 5, horizon, episodes)),
        (
            random_walk.oracle(),
            jm.tasks.reveal(family),
            jnp.full(episodes, random_walk.oracle_return(slip, 5, horizon)),
        ),
    ):
        report = jm.evaluate(learner, learner.init(key), on.env, drawn, key, plan)
        # the largest standard error is 0.5 / sqrt(8192) = 0.0055
        np.testing.assert_allclose(np.asarray(report.returns)[:, 0, 0].mean(0), expected, atol=0.022)


def test_the_chain_moves_as_the_tables_say():
    env, key = jm.tasks.RandomWalk(num_states=3), jax.random.key(0)
    table, task = random_walk.transitions(0.3, 3), jm.tasks.RandomWalkTask(jnp.array(True), jnp.float32(0.3))
    keys = jax.random.split(key, 4000)
    for action in (0, 1):
        state, _ = env.reset(key, task)
        step = jax.jit(
            jax.vmap(lambda key, action=action, state=state: env.step(key, state, jnp.int32(action), task)[1])
        )
        # the standard deviation is 0.0072
        np.testing.assert_allclose(step(keys).obs.mean(0), table[2, action], atol=0.03)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_states": 4}, "tasks.num_states is 4; it must be odd"),
        ({"slip": (0.3, 0.1)}, r"tasks.slip is \(0.3, 0.1\); a range is LOW HIGH"),
        ({"slip": (0.0, 1.5)}, r"tasks.slip is \(0.0, 1.5\); a range is LOW HIGH"),
        ({"horizon": 0}, "tasks.horizon is 0; an episode needs at least 1 step"),
    ],
)
def test_bad_configs_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        jm.tasks.RandomWalkConfig(**fields)
