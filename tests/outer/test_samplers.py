"""Curricula: their weights, buffers and scores, by hand."""

from __future__ import annotations

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxmeta as jm
from jaxmeta import outer, testing
from jaxmeta.outer.samplers import buffer as buffers
from jaxmeta.outer.samplers import scores
from jaxmeta.outer.samplers.learnability import _of_trial
from jaxmeta.outer.samplers.prioritised import by_best_return
from jaxmeta.outer.samplers.progress import by_progress
from jaxmeta.types import Plan
from tests import tiny
from tests.outer.levels import LEVELS, PLAN, POLICY, bandit, buffer, numbers


def test_weights_by_rank_and_staleness():
    score, full = jnp.array([2.0, -1.0, 5.0, 0.5]), jnp.ones(4, bool)
    by_rank = np.array([0.08743, 0.00867, 0.88126, 0.02263])
    np.testing.assert_allclose(buffers.rank_weights(score, full, 0.3), by_rank, atol=1e-5)
    np.testing.assert_allclose(buffers.rank_weights(score, full, 1.0), [0.24, 0.12, 0.48, 0.16], rtol=1e-6)
    # ties by position
    assert (jnp.diff(buffers.rank_weights(jnp.zeros(4), full, 0.3)) < 0).all()
    known = buffer(score=score, visited=jnp.array([3, 3, 1, 2]), updates=jnp.int32(4))
    stale = np.array([1, 1, 3, 2]) / 7
    np.testing.assert_allclose(buffers.staleness_weights(known), stale, rtol=1e-6)
    by_score = lambda one: buffers.rank_weights(one.score, one.full, 0.3)  # noqa: E731
    np.testing.assert_allclose(buffers.mixed(by_score, 0.1)(known), 0.9 * by_rank + 0.1 * stale, atol=1e-5)


def test_empty_rows_are_never_drawn():
    full = jnp.array([True, False, True, False, False])
    known = buffers.empty(numbers(), 5, jax.random.key(0)).replace(full=full, score=jnp.where(full, -5.0, 0.0))
    for staleness in (0.0, 1.0):  # at update 0 nothing is stale, so that the second is uniform
        weight = buffers.mixed(lambda one: buffers.rank_weights(one.score, one.full, 0.3), staleness)(known)
        assert weight.sum() > 0 and (weight[~full] == 0).all()
        rows, drawn = jax.vmap(lambda key, weight=weight: buffers.without_replacement(key, weight, 3))(
            jax.random.split(jax.random.key(0), 500)
        )
        assert set(np.asarray(rows)[np.asarray(drawn)]) == {0, 2}
        np.testing.assert_array_equal(drawn.sum(1), 2)


def test_draws_without_replacement_follow_the_weights():
    weight = jnp.array([0.5, 0.3, 0.2, 0.0])
    rows, _ = jax.vmap(lambda key: buffers.without_replacement(key, weight, 2))(
        jax.random.split(jax.random.key(1), 20_000)
    )
    found = {pair: np.mean((np.asarray(rows) == pair).all(1)) for pair in itertools.permutations(range(3), 2)}
    for (a, b), share in found.items():
        assert abs(share - weight[a] * weight[b] / (1 - weight[a])) < 0.015


def test_a_better_task_replaces_the_worst_and_copies_are_left_out():
    family, known = numbers(), buffer(score=jnp.array([1.0, 4.0, 2.0, 3.0]), updates=jnp.int32(7))
    tasks = jnp.array([10.0, 11.0, 10.0, 1.0, 12.0])
    score, worth = jnp.array([3.5, 0.5, 9.0, 9.0, jnp.nan]), jnp.array([True, True, True, True, False])
    after = buffers.insert(known, tasks, buffers.fingerprints(family, tasks), score, score, worth)
    # 10 entered with the score of its first copy; the copy of task 1 did not
    np.testing.assert_array_equal(after.tasks, [1.0, 10.0, 3.0, 2.0])
    np.testing.assert_array_equal(after.score, [4.0, 3.5, 3.0, 2.0])
    np.testing.assert_array_equal(after.visited, [0, 7, 0, 0])


@pytest.mark.parametrize(("num_tasks", "share"), [(64, 0.5), (8, 0.25), (12, 0.75), (10, 0.3), (2, 0.0)])
def test_equal_blocks_hold_as_many_replayed_tasks(num_tasks, share):
    replayed = buffers.replayed_positions(num_tasks, share)
    count = min(max(round(share * num_tasks), 1), num_tasks - 1)
    assert replayed.sum() == count
    for blocks in (2, 4):
        if count % blocks == 0 and num_tasks % blocks == 0:
            assert (replayed.reshape(blocks, -1).sum(1) == count // blocks).all()


def test_learnability_is_unbiased():
    for total in (2, 3, 5):
        for chance in (0.0, 0.2, 0.5, 0.9):
            outcomes = np.array(list(itertools.product((0, 1), repeat=total)))
            mass = np.prod(np.where(outcomes, chance, 1 - chance), axis=1)
            mean = mass @ np.asarray(scores.learnability(jnp.asarray(outcomes.sum(1), jnp.float32), total))
            np.testing.assert_allclose(mean, chance * (1 - chance), atol=1e-6)


def trial_of(rewards, valid=None, values=0.0):
    """A trial of one stream with these rewards, in an environment of `Levels`."""
    env = dataclasses.replace(tiny.family().env, horizon=len(rewards))
    learner = jm.inner.policy(jm.nets.actor_critic(env.spec, (4,)))
    task = tiny.family().sample(jax.random.key(0))
    trial = jm.collect(learner, learner.init(jax.random.key(0)), env, task, jax.random.key(0), Plan())
    shape = lambda numbers: jnp.asarray(numbers, jnp.float32)[None, :, None]  # noqa: E731
    valid = jnp.ones(len(rewards)) if valid is None else jnp.asarray(valid)
    rounds = trial.rounds.replace(
        reward=shape(rewards), valid=shape(valid), done=shape(jnp.arange(len(rewards)) == len(rewards) - 1)
    )
    return trial.replace(
        rounds=rounds.replace(output=rounds.output.replace(value=shape(jnp.broadcast_to(values, len(rewards)))))
    )


def stored(params, last):
    return last.output.value


def test_scores_by_value_in_closed_form():
    rewards, values = [-1.0, -2.0, 1.0], jnp.array([-3.0, 0.0, 2.0])
    trial = trial_of(rewards, values=values)
    # without a trace the advantages are the residuals 2 = -1 + 0 + 3, 0 = -2 + 2 - 0, and -1 = 1 - 2
    loss = scores.positive_value_loss(stored, Plan(), discount=1.0, trace=0.0)(None, trial)
    np.testing.assert_allclose(loss, 2.0 / 3.0, rtol=1e-6)
    # they are not standardised: the score grows with the rewards
    twice = trial_of([2 * reward for reward in rewards], values=2 * values)
    np.testing.assert_allclose(scores.positive_value_loss(stored, Plan(), 1.0, 0.0)(None, twice), 4.0 / 3.0, rtol=1e-6)
    found = scores.max_monte_carlo(stored, Plan(), discount=0.5)(None, trial)
    np.testing.assert_allclose([found["best"], found["value"]], [-1.0 - 1.0 + 0.25, -1.0 / 3.0], rtol=1e-6)
    # with the values of the task's return there is nothing to regret
    exact = trial_of([0.0, 0.0, -4.0], values=-4.0)
    assert scores.positive_value_loss(stored, Plan(), 1.0)(None, exact) == 0.0
    found = scores.max_monte_carlo(stored, Plan(), 1.0)(None, exact)
    assert by_best_return(None).first(buffer(), None, found)[0] == 0.0


def test_scores_without_values_fit_a_linear_baseline():
    # rewards linear in time are explained by the baseline's time features
    trial = trial_of([1.0] * 8)
    assert scores.positive_value_loss(None, Plan(), 1.0)(None, trial) < 0.05
    noisy = trial_of(np.where(np.random.default_rng(0).random(40) < 0.5, -5.0, 5.0))
    assert scores.positive_value_loss(None, Plan(), 1.0)(None, noisy) > 0.2


def test_the_best_return_may_be_negative():
    rating = by_best_return(None)
    score, best, _ = rating.first(buffer(), None, {"best": jnp.array([-5.0]), "value": jnp.array([-6.0])})
    np.testing.assert_array_equal((score, best), [[1.0], [-5.0]])  # not 6: no return of 0 was seen
    score, best = rating.again(score, best, {"best": jnp.array([-9.0]), "value": jnp.array([-7.0])})
    np.testing.assert_array_equal((score, best), [[2.0], [-5.0]])
    _, best = rating.again(score, best, {"best": jnp.array([-3.0]), "value": jnp.array([-3.0])})
    np.testing.assert_array_equal(best, [-3.0])


def run_alone(sampler, updates, measure):
    """Draws and scores without learning."""
    state, draws = sampler.init(jax.random.key(0)), []
    step = jax.jit(lambda state, keys: sampler.sample(state, None, keys))
    told = jax.jit(lambda state, draw, key: sampler.update(state, draw, measure(draw, key), jnp.ones(8, bool)))
    for key in jax.random.split(jax.random.key(1), updates):
        state, draw = step(state, jax.random.split(key, 8))
        draws.append(draw)
        state, metrics = told(state, draw, key)
    return state, draws, metrics


def test_learnability_puts_all_mass_on_the_level_that_is_solved_sometimes():
    config = outer.LearnabilityConfig(size=4)
    sampler = bandit(config).update.sampler

    def measure(draw, key):
        solved = jax.random.bernoulli(key, draw.tasks, (4, 8)).sum(0)
        return scores.learnability(solved.astype(jnp.float32), 4)

    state, draws, metrics = run_alone(sampler, 12, measure)
    np.testing.assert_array_equal(np.unique(state.tasks[state.full]), [0.5])
    slots = np.stack([draw.slot for draw in draws])
    replayed = np.stack([draw.tasks for draw in draws])[slots >= 0]
    assert len(replayed) and (replayed == 0.5).all() and metrics["sampler/replayed"] > 0
    assert (slots.reshape(-1, 2)[:, 1] == -1).all()  # the other half is always new
    # the measure of the engine on a trial with two successes of four
    trial = jm.collect(POLICY, POLICY.init(jax.random.key(0)), LEVELS.env, jnp.float32(1.0), jax.random.key(0), PLAN)
    half = trial.replace(rounds=trial.rounds.replace(success=jnp.array([True, False, True, False])[None, None]))
    assert _of_trial(LEVELS.env.spec, PLAN)(None, trial) == 0.0
    np.testing.assert_allclose(_of_trial(LEVELS.env.spec, PLAN)(None, half), 1.0 / 3.0, rtol=1e-6)


def test_nonfinite_tasks_are_never_scored_and_forgotten():
    sampler = bandit(outer.PrioritisedConfig(size=8, staleness=0.0)).update.sampler
    draw = outer.Draw(jnp.arange(8.0), jnp.array([0, -1, 1, -1, 2, -1, 3, -1]), jnp.ones(8))
    known = sampler.init(jax.random.key(0))
    rows = jnp.arange(8.0)
    known = known.replace(tasks=rows, code=buffers.fingerprints(LEVELS, rows), full=rows < 4, score=(rows < 4) * 1.0)
    finite = jnp.array([True, True, False, False, True, True, True, True])
    measures = jnp.array([5.0, 3.0, jnp.nan, 9.0, 2.0, jnp.inf, 0.0, 4.0])
    state, metrics = sampler.update(known, draw, measures, finite)
    # the task of row 1 was non-finite, so that its copy among the new ones enters; 3 was masked, the score of 5 is not
    # finite
    by_task = dict(zip(np.asarray(state.tasks[state.full]), np.asarray(state.score[state.full]), strict=True))
    assert by_task == {0.0: 5.0, 1.0: 3.0, 2.0: 2.0, 3.0: 0.0, 7.0: 4.0}
    assert np.isfinite(state.score).all() and all(np.isfinite(value) for value in metrics.values())


@pytest.mark.parametrize("config", [outer.PrioritisedConfig(size=4), outer.LearnabilityConfig(size=4)])
def test_samplers_hold_the_contract(config):
    testing.check_sampler(bandit(config, num_tasks=4).update.sampler, LEVELS)


def test_progress_is_the_change_since_the_last_visit():
    rating = by_progress(numbers(), lambda params, trial: trial, rate=0.5)
    known = buffer(value=jnp.array([0.0, 1.0, 2.0, 3.0]), full=jnp.array([True, True, True, False]))
    score, value, worth = rating.first(known, jnp.array([0.4, 2.9, 1.0]), jnp.array([5.0, 1.5, 1.0]))
    # compared with tasks 0, 2 (row 3 is empty) and 1
    np.testing.assert_allclose(score, [5.0, 0.5, 0.0])
    np.testing.assert_array_equal(value, [5.0, 1.5, 1.0])
    assert worth.all()
    score, value = rating.again(jnp.array([2.0]), jnp.array([1.0]), jnp.array([-3.0]))
    np.testing.assert_array_equal((score, value), [[3.0], [-3.0]])
