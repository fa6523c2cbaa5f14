from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxmeta as jm
from jaxmeta import tasks
from jaxmeta.core.evaluate import interquartile_mean
from jaxmeta.core.rollout import episode_returns
from tests import tiny


def test_returns_are_summed_by_episode():
    reward = jnp.arange(12.0).reshape(6, 2)  # [T, E], two episodes of three steps
    np.testing.assert_array_equal(episode_returns(reward, 2), [[0 + 2 + 4, 6 + 8 + 10], [1 + 3 + 5, 7 + 9 + 11]])


def test_interquartile_mean_drops_the_outer_quarters():
    assert interquartile_mean(np.array([-100.0, 1.0, 3.0, 1000.0])) == 2.0


def test_summary_of_a_normal_sample():
    values = np.random.default_rng(0).normal(3.0, 2.0, 4000)
    summary = jm.summarize(values)
    assert summary["mean"] == pytest.approx(values.mean())
    assert summary["stderr"] == pytest.approx(2.0 / np.sqrt(4000), rel=0.05)
    low, high = summary["ci95"]
    assert (high - low) / 2 == pytest.approx(1.96 * summary["stderr"], rel=0.1)
    assert summary["iqm"] == pytest.approx(3.0, abs=0.1)


def test_interval_covers_the_variance_between_seeds():
    """Coverage of the 95 % interval: seeds and tasks vary alike, and tasks of a seed share its draw."""
    random = np.random.default_rng(0)
    hits = 0
    for _ in range(60):
        values = random.normal(size=(20, 1)) + random.normal(size=(20, 10))
        summary = jm.summarize(values)
        hits += summary["ci95"][0] < 0 < summary["ci95"][1]
    assert hits >= 51
    assert summary["stderr"] == pytest.approx(np.sqrt(1.1 / 20), rel=0.5)


def test_a_single_value_has_no_error():
    assert jm.summarize([2.0]) == {"mean": 2.0, "stderr": None, "iqm": 2.0, "ci95": [2.0, 2.0]}


def test_evaluating_again_traces_nothing_and_another_env_does():
    meta, family, traced = tiny.algo("maml"), tiny.family(), []

    def act(*given):
        traced.append(1)
        return meta.learner.act(*given)

    learner = meta.learner._replace(act=act)
    params = learner.init(jax.random.key(0))
    # environments with equal fields are equal, one with a list among its fields has no hash
    same = dataclasses.replace(family.env)
    returns = [
        jm.evaluate(learner, params, env, draw(4), jax.random.key(2), meta.plan).returns for env in (family.env, same)
    ]
    once = len(traced)
    assert once > 0
    np.testing.assert_array_equal(*returns)
    jm.evaluate(learner, params, Listed([family.env]), draw(4), jax.random.key(2), meta.plan)
    assert len(traced) == 2 * once
    jm.evaluate(learner, params, Listed([family.env]), draw(4), jax.random.key(2), meta.plan)
    assert len(traced) == 3 * once


@dataclasses.dataclass
class Listed:
    """An environment that cannot be hashed."""

    parts: list

    spec = property(lambda self: self.parts[0].spec)
    reset = property(lambda self: self.parts[0].reset)
    step = property(lambda self: self.parts[0].step)


def test_evaluation_can_adapt_for_more_rounds_than_training_and_act_by_the_mode():
    meta, family = tiny.algo("maml"), tiny.family()
    params = meta.learner.init(jax.random.key(0))
    plan = jm.Plan(rounds=2, streams=3)
    report = jm.evaluate(meta.learner, params, family.env, draw(4), jax.random.key(2), plan, deterministic=True)
    assert report.returns.shape == (4, 3, 3, 1)
    # without noise in the policy or the environment all streams of a round are the same
    np.testing.assert_array_equal(report.returns[:, 0, 0], report.returns[:, 0, 2])
    # and yet the agent adapts, on what it sampled
    assert (np.abs(report.returns[:, 1, 0] - report.returns[:, 0, 0]) > 1e-5).all()
    table = report.by_round_and_episode()
    assert len(table) == 3 and len(table[0]) == 1
    assert table[0][0]["mean"] == pytest.approx(float(report.returns[:, 0].mean()), rel=1e-5)


class Own(tasks.Navigation):
    """An environment of which no family has been checked, and which does not broadcast."""

    def reset(self, key, task):
        state, obs = super().reset(key, task)
        return state, obs + 0.0 * jnp.stack([task.goal[0], task.goal[1]])


def draw(count):
    return jax.vmap(tiny.family().sample_test)(jax.random.split(jax.random.key(1), count))


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: draw(1).replace(goal=jnp.zeros((0, 2))), "tasks is an empty batch; an evaluation needs at least 1"),
        (lambda: [tiny.family().sample(jax.random.key(1))] * 3, r"tasks is a list; stack it \(try jax.tree.map"),
        (tiny.family, r"tasks is a TaskFamily; it must be a batch of its tasks \(try jax.vmap"),
        (lambda: (), "tasks holds no arrays"),
        (lambda: draw(1).replace(goal=jnp.zeros(())), r"tasks.goal is float32\[\]; a batch of tasks has a first axis"),
        (lambda: draw(1).replace(goal="left"), "tasks.goal is a str; a batch of tasks has a first axis"),
    ],
)
def test_an_invalid_batch_of_tasks_is_refused_in_one_line(own, make, message):
    meta, env = tiny.algo("ppo"), Own(4) if own else tiny.family().env
    with pytest.raises(ValueError, match=message) as found:
        jm.evaluate(meta.learner, (), env, make(), jax.random.key(2), meta.plan)
    assert "\n" not in str(found.value)


def test_tasks_without_a_batch_axis_are_refused():
    family, meta = tiny.family(), tiny.algo("ppo")
    one = family.sample_test(jax.random.key(1))
    for env in (family.env, family):
        # a goal [2] would be two goals [] to an environment that broadcasts
        with pytest.raises(ValueError, match=r"tasks.goal is float32\[2\], which is one task; it must be a batch"):
            jm.evaluate(meta.learner, (), env, one, jax.random.key(2), meta.plan)
    with pytest.raises(ValueError, match="tasks is not a batch of tasks of this Own: env.reset.* raises"):
        jm.evaluate(meta.learner, (), Own(4), one, jax.random.key(2), meta.plan)


def test_tasks_of_another_family_are_refused():
    meta = tiny.algo("ppo")
    other = jax.vmap(tasks.grid_navigation().sample)(jax.random.split(jax.random.key(0), 3))
    with pytest.raises(ValueError, match="tasks holds a GridTask; a task of this Navigation is a PointTask"):
        jm.evaluate(meta.learner, (), tiny.family().env, other, jax.random.key(2), meta.plan)
    arms = jax.vmap(tasks.bandit().sample)(jax.random.split(jax.random.key(0), 3))
    with pytest.raises(ValueError, match="tasks is not a batch of tasks of this Own: .* raises AttributeError"):
        jm.evaluate(meta.learner, (), Own(4), arms, jax.random.key(2), meta.plan)


def test_a_family_stands_for_its_environment():
    family, meta = tiny.family(), tiny.algo("ppo")
    params = meta.learner.init(jax.random.key(0))
    one, other = (
        jm.evaluate(meta.learner, params, env, draw(2), jax.random.key(2), meta.plan) for env in (family, family.env)
    )
    np.testing.assert_array_equal(one.returns, other.returns)


def test_summaries_by_task_take_the_trials_of_that_task():
    # 2 seeds, 3 tasks twice, 1 round, 2 streams, 2 episodes; the last episode's return is 100 task + seed
    seed, trial = jnp.arange(2.0), jnp.arange(6)
    last = 100.0 * (trial % 3)[None] + seed[:, None]
    returns = jnp.broadcast_to(last[:, :, None, None, None], (2, 6, 1, 2, 2)).at[..., 0].set(-1.0)
    report = jm.Report(returns, jnp.ones_like(returns), (returns > 50).astype(jnp.float32))
    table = report.per_task(3)
    assert [one["return"]["mean"] for one in table] == [0.5, 100.5, 200.5]
    assert [one["success"]["mean"] for one in table] == [0.0, 1.0, 1.0]
    # over seeds: their means are 0 and 1
    assert table[0]["return"]["stderr"] == pytest.approx(0.5) and table[0]["return"]["ci95"] == [0.0, 1.0]
    with pytest.raises(ValueError, match="num_tasks is 4; it must divide the number of trials, which is 6"):
        report.per_task(4)


def test_streams_that_share_an_adaptation_are_one_sample():
    values = jnp.array([[0.0, 2.0], [4.0, 6.0]])  # [trials, streams] of one task
    for rounds, sample in ((1, [0.0, 2.0, 4.0, 6.0]), (2, [1.0, 5.0])):
        returns = jnp.broadcast_to(values[:, None, :, None], (2, rounds, 2, 1))
        (found,) = jm.Report(returns, jnp.ones_like(returns)).per_task(1)
        assert found == {"return": jm.summarize(sample)}
