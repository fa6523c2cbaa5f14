"""Curricula in the engine: bits, devices, resuming, and what is refused."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxmeta as jm
from jaxmeta import outer, tasks
from jaxmeta.core.checkpoint import keys_as_data
from jaxmeta.core.train import make_chunk
from jaxmeta.experiment import registry
from tests import tiny
from tests.outer.levels import LEVELS, bandit, levels, numbers

FAMILY = tiny.family()


def curriculum(config=None, name="ppo", **changes):
    """A registered algorithm at its smallest, with a curriculum unless there is no config."""
    factory, _ = registry.ALGOS[name].load()
    meta = factory(FAMILY, dataclasses.replace(tiny.ALGOS[name], **changes))
    return meta if config is None else outer.with_sampler(meta, outer.sampler(config, FAMILY, meta))


def same(one, other):
    one, other = jax.device_get((keys_as_data(one), keys_as_data(other)))
    return all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True))


def test_uniform_is_the_engine_without_a_sampler():
    meta = curriculum()
    assert curriculum(outer.UniformConfig()).update.sampler.essential == ""
    assert outer.with_sampler(meta, meta.update.sampler) is meta
    # another object that samples in the same way gives the same bits, through the path of every curriculum
    other = outer.with_sampler(meta, outer.uniform(FAMILY))
    assert other.update is not meta.update and other.info == meta.info
    state = meta.init(jax.random.key(0))
    assert same(state, other.init(jax.random.key(0)))
    assert same(jax.jit(meta.update)(state), jax.jit(other.update)(state))


@pytest.fixture(scope="module")
def plr():
    meta = curriculum(outer.PrioritisedConfig(size=8, staleness=0.3))
    return meta, make_chunk(meta, 6)


def test_a_curriculum_resumes_with_the_same_bits(plr, tmp_path):
    meta, run = plr
    half, _ = run(jm.init_state(meta, jax.random.key(0)), 3)
    rest, _ = run(half, 3)
    assert run._cache_size() == 1  # the sampler's state stays where it was placed, so that nothing is compiled again
    whole, metrics = run(jm.init_state(meta, jax.random.key(0)), 6)
    assert same(whole, rest)
    checkpointer = jm.Checkpointer(tmp_path)
    checkpointer.save(3, half)
    checkpointer.wait()
    restored = checkpointer.restore(jm.state_form(meta), 3)
    checkpointer.close()
    assert same(whole, run(restored, 3)[0])
    assert whole.sampler.full.sum() == 8 and metrics["sampler/replayed"][-1] == 0.5
    assert all(np.isfinite(values).all() for values in metrics.values())


def test_a_curriculum_on_one_device_equals_that_on_two(plr):
    meta, run = plr
    one = jm.Execution(devices=1)
    alone, _ = make_chunk(meta, 6, execution=one)(jm.init_state(meta, jax.random.key(0), execution=one), 2)
    together, _ = run(jm.init_state(meta, jax.random.key(0)), 2)
    for a, b in zip(jax.tree.leaves(alone.params), jax.tree.leaves(together.params), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(alone.sampler.code, together.sampler.code)
    np.testing.assert_allclose(alone.sampler.score, together.sampler.score, rtol=1e-4)


@pytest.mark.slow
def test_robust_replay_learns_from_replayed_tasks_only(plr):
    meta = curriculum(outer.PrioritisedConfig(size=8, robust=True, staleness=0.0))
    parts = meta.update
    assert parts.sampler.learned == (True, False) and meta.info.spread == 1  # two minibatches of one task each
    seen = []

    def step(params, opt_state, batch, updates):
        seen.append(batch.weight.shape)
        return params, opt_state, {"goal": batch.data.rounds.reward.sum(), "weight": batch.weight.sum()}

    watched = dataclasses.replace(parts, improve=parts.improve._replace(step=step))
    state, metrics = jax.jit(watched)(meta.init(jax.random.key(0)))
    assert seen == [(2,)] and metrics["weight"] == 2  # at first new tasks take the place of replayed ones
    _, draw = parts.sampler.sample(state.sampler, None, jax.random.split(jax.random.key(0), 4))
    np.testing.assert_array_equal(draw.weight, [1, 0, 1, 0])


def test_probes_are_counted_as_environment_steps():
    meta = outer.with_sampler(bandit(outer.LearnabilityConfig(size=4)), outer.uniform(LEVELS))
    config = outer.LearnabilityConfig(size=4, probes=6, probe_streams=5)
    probing = outer.with_sampler(meta, outer.sampling_for_learnability(LEVELS, meta, config))
    state = jm.init_state(meta, jax.random.key(0), execution=jm.Execution(1))
    assert jax.jit(meta.update)(state)[1]["env_steps"] == 8 * 4
    state, metrics = jax.jit(probing.update)(probing.init(jax.random.key(0)))
    assert metrics["env_steps"] == 8 * 4 + 6 * 5
    assert set(np.asarray(state.sampler.tasks[state.sampler.full])) <= {0.5}


def test_a_supervised_curriculum_scores_by_the_query_loss():
    family = tiny.waves()
    meta = tiny.supervised("maml", family, num_tasks=4)
    other = outer.with_sampler(meta, outer.sampler(outer.PrioritisedConfig(size=6), family, meta))
    state = other.init(jax.random.key(0))
    task = family.sample(jax.random.key(3))
    score = other.update.sampler.score(state.params, task)
    loss = outer.query_loss(meta.learner, family.env, meta.plan.rounds)(state.params, task, jax.random.key(0))[0]
    np.testing.assert_allclose(score, loss, rtol=1e-5)
    state, metrics = jax.jit(other.update)(state)
    assert state.sampler.full.sum() == 4 and (jnp.diff(state.sampler.score) <= 0).all()
    assert {"sampler/task_0_q10", "sampler/task_1_q90"} <= set(metrics)


def test_near_tasks_are_near_to_a_hard_one_and_far_tasks_far_from_all():
    family = numbers(1000)
    meta = curriculum()
    meta = meta._replace(info=dataclasses.replace(meta.info, num_tasks=8))
    config = outer.NearFarConfig(near=0.25, far=0.25, candidates=64, size=8)
    sampler = outer.near_and_far(family, meta, config)
    known = sampler.init(jax.random.key(0)).replace(
        place=jnp.array([[400.0], [900.0], *[[10.0 * i] for i in range(6)]]),
        score=jnp.zeros(8).at[1].set(5.0),
        full=jnp.ones(8, bool),
    )
    keys = jax.random.split(jax.random.key(0), 8)
    _, draw = jax.jit(sampler.sample)(known, None, keys)
    usual = jax.vmap(family.sample)(keys)
    changed = np.flatnonzero(draw.tasks != usual)
    assert len(changed) == 4
    distance = np.abs(np.asarray(draw.tasks)[changed, None] - np.asarray(known.place)[:, 0])
    near, far = distance[::2], distance[1::2]
    assert near[:, 1].min() < 20  # of 64 candidates; the row with the highest score is drawn most often
    assert (far.min(1) > 150).all()
    state, metrics = sampler.update(known, draw, jnp.arange(8.0), jnp.arange(8) > 0)
    assert not state.full[0] and np.isfinite(metrics["sampler/distance_far"])


UNSUITABLE = [
    (lambda: curriculum(outer.PrioritisedConfig(size=1)), "size is 1; the buffer must hold the 2 tasks"),
    (lambda: bandit(outer.LearnabilityConfig(), streams=1), "probes is 0; a trial has 1 episode"),
    (lambda: curriculum(outer.PrioritisedConfig(score="query-loss")), "score is 'query-loss'; on these tasks"),
    (lambda: curriculum(outer.PrioritisedConfig(), "pearl"), "sampler cannot be replaced .* replay buffers"),
    (lambda: curriculum(outer.PrioritisedConfig(), "sac"), "sampler cannot be replaced .* replay buffers"),
    (lambda: curriculum(outer.PrioritisedConfig(), "clone"), "sampler cannot be replaced .* stored demonstrations"),
    (
        lambda: curriculum(outer.PrioritisedConfig(size=8, robust=True, share=0.25)),
        "share leaves 1 of every 4 tasks to learn from; 2 minibatches must divide the 1",
    ),
    (lambda: outer.NearFarConfig(near=0.6, far=0.4), "near is 0.6 and far 0.4; their sum must lie between 0 and 1"),
    (lambda: outer.LearnabilityConfig(probe_streams=1), "probe_streams is 1; learnability needs at least 2"),
]


@pytest.mark.parametrize(("build", "message"), UNSUITABLE)
def test_unsuitable_pairs_are_refused_before_anything_is_compiled(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize("known", [True, False])
def test_a_curriculum_needs_more_than_two_tasks(known):
    family = levels((0.0, 1.0))
    family = family._replace(train_tasks=jnp.array([0.0, 1.0])) if known else family
    meta = curriculum()
    with pytest.raises(ValueError, match="tasks has 2 tasks; a curriculum that chooses 2 of them"):
        outer.sampler(outer.PrioritisedConfig(), family, meta)


def test_multi_task_keeps_its_sampler():
    family = tasks.with_task_id(tasks.finite(FAMILY, 3, 1, jax.random.key(0)))
    meta = jm.multi_task(family, tiny.ALGOS["multi-task"])
    with pytest.raises(ValueError, match="every update visits all tasks"):
        outer.sampler(outer.ProgressConfig(), family, meta)
