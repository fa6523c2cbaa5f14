"""Planners on scores with a known optimum, and particles of ensembles with a known signature."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmeta import rl
from jaxmeta.rl import planning
from jaxmeta.types import Continuous, Discrete, MultiDiscrete

KEY = jax.random.key(0)
PAIR = Continuous(2, limit=2.0)
BEST = jnp.array([[0.5, -1.0], [1.5, 0.2], [-0.3, 0.0]])


def towards(best):
    """A quadratic score of candidates [P, H, A], highest at `best` [H, A]."""
    return lambda actions: -jnp.sum(jnp.square(actions - best), axis=(1, 2))


@pytest.mark.parametrize("planner", [rl.cem(PAIR, 3, 200, 20, iterations=15), rl.mppi(PAIR, 3, 2000, 25, 0.2, 0.01)])
def test_cem_and_mppi_find_the_optimum_of_a_quadratic(planner):
    plan = planner.improve(towards(BEST), planner.initial(), KEY, planner.iterations)
    np.testing.assert_allclose(plan, BEST, atol=0.05)


def test_cem_stays_within_the_limit_and_reaches_it():
    planner = rl.cem(PAIR, 3, 200, 20, iterations=15)
    plan = planner.improve(towards(10.0 * BEST), planner.initial(), KEY, 15)
    assert jnp.abs(plan).max() <= PAIR.limit
    np.testing.assert_allclose(plan[0], [2.0, -2.0], atol=0.02)


def test_cem_returns_the_mean_of_the_elites_not_the_best_sample():
    seen = []

    def score(actions):
        seen.append(actions)
        return towards(BEST)(actions)

    planner = rl.cem(PAIR, 3, 50, 5, iterations=1, keep=0.25)
    start = 0.4 * jnp.ones((3, 2))
    plan = planner.improve(score, start, KEY, 1)
    order = jnp.argsort(-towards(BEST)(seen[0]))
    elites = seen[0][order[:5]]
    np.testing.assert_allclose(plan, 0.25 * start + 0.75 * elites.mean(0), rtol=1e-5)
    assert float(jnp.abs(plan - elites[0]).max()) > 0.05
    # samples are truncated at two standard deviations, which are at most half of the room to the limit
    assert jnp.abs(seen[0] - 0.4).max() <= 2 * min(0.5 * (2.0 - 0.4), 0.5 * 2.0) + 1e-6


def test_a_single_iteration_is_the_first_of_several():
    planner = rl.cem(PAIR, 3, 20, 4, iterations=1)
    inside = jax.jit(lambda count: planner.improve(towards(BEST), planner.initial(), KEY, count))
    np.testing.assert_allclose(
        inside(1), planner.improve(towards(BEST), planner.initial(), KEY, 1), rtol=1e-6, atol=1e-7
    )
    np.testing.assert_array_equal(inside(0), planner.initial())


def test_weights_of_mppi_are_those_of_the_closed_form():
    values, temperature = jnp.array([1.0, 2.0, -0.5, 2.0]), 0.7
    exact = np.exp(np.asarray(values) / temperature)
    np.testing.assert_allclose(rl.mppi_weights(values, temperature), exact / exact.sum(), rtol=1e-6)
    # one iteration moves the plan to the weighted mean of its candidates
    seen = []

    def score(actions):
        seen.append(actions)
        return towards(BEST)(actions)

    planner = rl.mppi(PAIR, 3, 30, temperature=0.7)
    plan = planner.improve(score, planner.initial(), KEY, 1)
    weights = np.exp(np.asarray(towards(BEST)(seen[0])) / 3 / 0.7)
    np.testing.assert_allclose(plan, np.tensordot(weights / weights.sum(), seen[0], 1), rtol=1e-4, atol=1e-6)


def test_noise_of_mppi_has_the_given_deviation_and_correlation():
    seen = []

    def score(actions):
        seen.append(actions)
        return jnp.zeros(len(actions))

    planner = rl.mppi(Continuous(1, limit=100.0), 6, 20_000, std=0.01, smoothing=0.8)
    planner.improve(score, planner.initial(), KEY, 1)
    noise = np.asarray(seen[0][:, :, 0])
    np.testing.assert_allclose(noise.std(0), 1.0, atol=0.03)
    between = [np.corrcoef(noise[:, time], noise[:, time + 1])[0, 1] for time in range(5)]
    np.testing.assert_allclose(between, 0.8, atol=0.02)


@pytest.mark.parametrize("action", [Discrete(3), MultiDiscrete((2, 3))])
def test_random_shooting_finds_the_best_discrete_sequence(action):
    size = planning.action_size(action)
    wanted = jnp.arange(1.0, size + 1) * jnp.array([[1.0], [-1.0]])
    planner = rl.random_shooting(action, 2, 300)
    plan = planner.improve(lambda actions: jnp.sum(actions * wanted, (1, 2)), planner.initial(), KEY, 1)
    chosen = [np.asarray(rl.chosen(action, step)).tolist() for step in plan]
    assert chosen == ([2, 0] if isinstance(action, Discrete) else [[1, 2], [0, 0]])


def test_replanning_moves_the_plan_by_one_step():
    planner = rl.random_shooting(PAIR, 3, 10)._replace(improve=lambda score, plan, key, iterations: plan + 1.0)
    action, plan = rl.replan(planner, towards(BEST), BEST, KEY)
    np.testing.assert_allclose(action, BEST[0] + 1.0)
    np.testing.assert_allclose(plan, jnp.concatenate([BEST[1:] + 1.0, jnp.zeros((1, 2))]))


def adding(member, obs, action, noise):
    """A model that adds its signature to the state, and pays the state."""
    after = obs + member
    return after, after[:, 0]


SIGNATURES, STILL = jnp.array([1.0, 10.0, 100.0]), jnp.zeros((1, 4, 1))


def met(particles, spread=2, horizon=4):
    """The mean over particles of the squared sum of the signatures of the members that they met."""

    def imagine(member, obs, action, noise):
        after = obs + jnp.stack([member, 1.0])
        return after, jnp.where(after[:, 1] == horizon, jnp.square(after[:, 0]), 0.0)

    kind = rl.Particles(particles, spread)
    return float(rl.imagined_returns(imagine, SIGNATURES, jnp.zeros(2), STILL, KEY, horizon, 2, kind)[0])


def test_ts_infinity_keeps_one_member_per_particle_and_ts_1_does_not():
    # the mean of the squared sum of signatures tells whether a particle met one member only
    kept = float(jnp.mean(jnp.square(4 * SIGNATURES)))
    np.testing.assert_allclose(met("ts-inf"), kept, rtol=1e-6)
    assert met("ts-1") < 0.9 * kept


def test_ts_1_gives_every_member_as_many_particles():
    # the reward of the first step is the signature of the member, whose mean is 37
    actions = jnp.zeros((1, 1, 1))
    balanced = rl.Particles("ts-1", spread=4)
    mean = rl.imagined_returns(adding, SIGNATURES, jnp.zeros(1), actions, KEY, 1, outputs=1, particles=balanced)
    np.testing.assert_allclose(mean, [37.0], rtol=1e-6)


def test_rewards_after_the_end_of_the_episode_do_not_count():
    actions = jnp.zeros((2, 5, 1))
    for remaining, expected in ((5, 15.0), (2, 3.0), (0, 0.0)):
        found = rl.imagined_returns(adding, jnp.ones(1), jnp.zeros(1), actions, KEY, jnp.int32(remaining), outputs=1)
        np.testing.assert_allclose(found, [expected] * 2)


def test_candidates_share_the_noise_and_rewards_that_are_not_finite_are_the_worst():
    def imagine(member, obs, action, noise):
        return obs + noise, jnp.where(action[:, 0] > 0, jnp.nan, obs[:, 0])

    actions = jnp.array([0.0, 0.0, 1.0])[:, None, None] * jnp.ones((3, 4, 1))
    found = rl.imagined_returns(imagine, jnp.zeros(2), jnp.zeros(1), actions, KEY, 4, outputs=1)
    assert found[0] == found[1] and found[0] != 0.0
    np.testing.assert_allclose(found[2], 4 * planning.WORST)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda: rl.cem(Discrete(3)),
            "planner is 'cem', which needs real-valued actions; the tasks have Discrete actions .try 'random'",
        ),
        (lambda: rl.mppi(MultiDiscrete((2, 2))), "planner is 'mppi', which needs real-valued actions"),
        (lambda: rl.cem(Continuous(1, limit=np.inf)), "planner is 'cem'; it samples actions within a limit"),
        (lambda: rl.cem(PAIR, candidates=4, elites=5), "elites is 5; it must be from 1 to candidates, which is 4"),
        (lambda: rl.check_horizon(rl.cem(PAIR, 9), 8), "horizon is 9; a plan must not be longer than an episode, 8"),
    ],
)
def test_bad_input(build, message):
    with pytest.raises(ValueError, match=message):
        build()
