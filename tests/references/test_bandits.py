from __future__ import annotations

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxmeta as jm
from jaxmeta import tasks
from jaxmeta.references import bandits

PULLS = 10
TRIALS = 4096


def trial_return(learner, num_arms):
    family = tasks.bandit(tasks.BanditConfig(num_arms, PULLS))
    machines = jax.vmap(family.sample)(jax.random.split(jax.random.key(1), TRIALS))
    params = learner.init(jax.random.key(0))
    report = jm.evaluate(learner, params, family.env, machines, jax.random.key(2), jm.Plan(episodes=PULLS))
    return report.trial_return()


@pytest.mark.parametrize(("num_arms", "value"), [(5, 6.660), (10, 6.714), (50, 6.714)])
def test_bayes_optimal_value_after_ten_pulls(num_arms, value):
    assert bandits.bayes_optimal_value(num_arms, PULLS) == pytest.approx(value, abs=5e-4)


def test_bayes_optimal_value_by_hand():
    assert bandits.bayes_optimal_value(1, 7) == pytest.approx(3.5)
    # the second pull repeats an arm that paid, 2/3, and leaves one that did not, 1/2
    assert bandits.bayes_optimal_value(2, 2) == pytest.approx(0.5 + 0.5 * 2 / 3 + 0.5 * 1 / 2)


@pytest.mark.parametrize(
    ("name", "num_arms", "value"),
    [
        ("random", 10, 5.0),
        ("thompson", 5, 5.84),
        ("thompson", 10, 5.58),
        ("greedy", 5, 6.62),
        ("greedy", 50, 6.71),
    ],
)
def test_classical_algorithms_have_their_published_returns(name, num_arms, value):
    result = trial_return(getattr(bandits, name)(num_arms), num_arms)
    assert abs(result["mean"] - value) < 3.5 * result["stderr"] + 0.005


@pytest.mark.parametrize(
    ("learner", "least"),
    [
        (bandits.gittins(5, PULLS), 6.6),
        (bandits.ucb1(5), 6.55),
        (bandits.epsilon_greedy(5), 6.45),
        (bandits.optimistic_thompson(5, num_draws=3), 6.4),
    ],
    ids=["gittins", "ucb1", "epsilon_greedy", "optimistic_thompson"],
)
def test_other_algorithms_are_near_but_not_above_the_optimum(learner, least):
    result = trial_return(learner, 5)
    assert least - 2 * result["stderr"] < result["mean"] < 6.660 + 3 * result["stderr"]


def test_gittins_index_of_the_last_pulls():
    index = bandits.gittins_index(PULLS)
    np.testing.assert_allclose(index[2, 1, 1], 3 / 5, atol=1e-6)  # nothing to learn for: the mean
    # one pull, and the arm again only if it paid: (1/2 + 1/2 * 2/3) / (1 + 1/2)
    np.testing.assert_allclose(index[0, 0, 2], 5 / 9, atol=1e-6)


def test_gittins_index_rises_with_success_and_with_the_horizon():
    index = bandits.gittins_index(PULLS)
    assert (np.diff(index[0, 0, 1:]) > 0).all()
    assert index[2, 1, 5] > index[1, 1, 5] > index[1, 2, 5]


@pytest.mark.parametrize("learner", [bandits.thompson(3), bandits.gittins(3, 4)], ids=["thompson", "gittins"])
def test_replay_reproduces_collection(learner):
    family, plan = tasks.bandit(tasks.BanditConfig(3, 4)), jm.Plan(streams=2, episodes=4)
    params = learner.init(jax.random.key(0))
    task = family.sample(jax.random.key(1))
    trial = jax.jit(lambda key: jm.collect(learner, params, family.env, task, key, plan))(jax.random.key(2))
    again = jax.jit(lambda trial: jm.replay(learner, params, trial))(trial)
    chex.assert_trees_all_equal(again, trial.rounds.output)


def test_ties_are_broken_uniformly_and_counts_decide():
    learner = bandits.greedy(3)
    blank = tasks.Bandit(3).spec.example_input()
    carry, output = learner.act((), (), learner.reset((), (), jax.random.key(0)), blank.replace(first=jnp.ones(())))
    np.testing.assert_allclose(learner.head(output).probs, np.ones(3) / 3, rtol=1e-6)
    told = blank.replace(prev_action=jnp.array(2), prev_reward=jnp.zeros(()))
    _, output = learner.act((), (), carry, told)
    np.testing.assert_allclose(learner.head(output).probs, [0.5, 0.5, 0.0], rtol=1e-6)


def test_invalid_arguments_are_refused():
    with pytest.raises(ValueError, match="num_arms is 0; it must be at least 1"):
        bandits.greedy(0)
    with pytest.raises(ValueError, match="epsilon is 2"):
        bandits.epsilon_greedy(3, 2.0)


def exact_two_arms(successes, failures):
    """P(the first of two arms is the better), by the finite sum of beta functions."""
    from math import exp, lgamma, log

    def log_beta(a, b):
        return lgamma(a) + lgamma(b) - lgamma(a + b)

    (a1, a2), (b1, b2) = (np.asarray(successes) + 1, np.asarray(failures) + 1)
    terms = (log_beta(a2 + i, b1 + b2) - log(b1 + i) - log_beta(1 + i, b1) - log_beta(a2, b2) for i in range(a1))
    return sum(map(exp, terms))


@pytest.mark.parametrize(("successes", "failures"), [((0, 0), (0, 0)), ((3, 1), (2, 5)), ((40, 44), (20, 19))])
def test_the_best_arm_of_two_has_the_closed_form(successes, failures):
    chance = bandits.best_arm_probability(jnp.float32(successes), jnp.float32(failures))
    first = exact_two_arms(successes, failures)
    np.testing.assert_allclose(chance, [first, 1 - first], atol=2e-6)


def test_the_best_arm_of_many_agrees_with_samples_and_with_more_nodes():
    successes, failures = jnp.array([3.0, 0.0, 10.0, 5.0, 1.0]), jnp.array([4.0, 0.0, 9.0, 5.0, 3.0])
    chance = bandits.best_arm_probability(successes, failures)
    rates = np.random.default_rng(0).beta(np.asarray(successes) + 1, np.asarray(failures) + 1, (200_000, 5))
    sampled = np.bincount(rates.argmax(1), minlength=5) / len(rates)
    np.testing.assert_allclose(chance, sampled, atol=4 * (0.25 / len(rates)) ** 0.5)
    # 45 pulls and four other arms: polynomials that 26 nodes integrate exactly
    np.testing.assert_allclose(chance, bandits.best_arm_probability(successes, failures, num_nodes=26), atol=2e-6)
    even = bandits.best_arm_probability(jnp.zeros(7), jnp.zeros(7))
    np.testing.assert_allclose(even, np.full(7, 1 / 7), rtol=1e-5)
