"""Tasks in progress: their ages, what adapts to them, and from which of them the params learn."""

from __future__ import annotations

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxmeta as jm
from jaxmeta import outer
from jaxmeta.algos.hierarchy import mlsh
from jaxmeta.core.checkpoint import Checkpointer
from tests import tiny

KEY = jax.random.key(0)
FAMILY = tiny.family()
PLAN = jm.Plan(streams=2)


def counted(params, fast, experience, key):
    """In place of an adaptation: adds one to all numbers of the master and of its optimiser."""
    return jax.tree.map(lambda leaf: leaf + 1, fast)


def total_times_return(params, trial, key):
    """A loss whose gradient is the mean return of a task in every number."""
    return sum(leaf.sum() for leaf in jax.tree.leaves(params)) * trial.rounds.reward.sum((0, 1)).mean(), {}


def built(num_tasks, warmup, joint, adapt=counted):
    """The agent of MLSH on tasks in progress, with a loss that is known, and its update."""
    learner = mlsh.agent(FAMILY.env.spec, tiny.ALGOS["mlsh"])._replace(adapt=adapt)
    source = outer.in_progress(learner, FAMILY, PLAN, num_tasks, warmup, joint)
    improve = outer.once_warm(outer.descend(total_times_return, optax.sgd(0.1, momentum=0.9)))
    info = outer.Info(num_tasks, PLAN, spread=num_tasks)
    meta = outer.meta_update(learner, PLAN, outer.uniform(FAMILY), source, improve, info)
    return meta, jax.jit(meta.update)


def entry(task, tree):
    return jax.tree.map(lambda leaf: leaf[task], tree)


@pytest.fixture(scope="module")
def counting():
    """Four updates on three tasks that last three rounds, with the keys of each."""
    meta, update = built(3, warmup=2, joint=1, adapt=counted)
    state = meta.init(KEY)
    states, keys, metrics = [state], [], []
    for _ in range(4):
        keys.append(tiny.keys_of(state, 3))
        state, told = update(state)
        states.append(state)
        metrics.append(told)
    return meta, states, keys, metrics


def test_ages_are_staggered_and_start_again(counting):
    _, states, _, _ = counting
    # after an update a task has one round more; those of age 3 are replaced in the next
    assert [state.source.age.tolist() for state in states[1:]] == [[1, 2, 3], [2, 3, 1], [3, 1, 2], [1, 2, 3]]


def test_the_master_of_a_new_task_equals_its_initialiser_with_moments_of_zero(counting):
    meta, states, keys, _ = counting
    start = lambda params, key: meta.learner.start(params, jax.random.split(key, 3)[0])  # noqa: E731
    begun = [0, 0, 0]
    for before, after, (_, source_keys, _) in zip(states, states[1:], keys, strict=False):
        for task in range(3):
            one = functools.partial(entry, task)
            if before.source.age[task] >= 3:
                initial = start(before.params, source_keys[task])
                assert all((leaf == 0).all() for leaf in jax.tree.leaves(initial.opt_state))
                chex.assert_trees_all_equal(one(after.source.fast), counted(None, initial, None, None))
                begun[task] += 1
            else:
                expected = counted(None, one(before.source.fast), None, None)
                chex.assert_trees_all_equal(one(after.source.fast), expected)
    assert begun == [2, 2, 2]


def test_a_new_task_is_the_one_that_the_sampler_drew(counting):
    _, states, keys, _ = counting
    for before, after, (draw_keys, _, _) in zip(states, states[1:], keys, strict=False):
        for task in range(3):
            same = FAMILY.encode(entry(task, before.source.tasks))
            drawn = FAMILY.encode(FAMILY.sample(draw_keys[task]))
            now = FAMILY.encode(entry(task, after.source.tasks))
            np.testing.assert_array_equal(now, drawn if before.source.age[task] >= 3 else same)
            assert not np.array_equal(drawn, same)


def test_sub_policies_do_not_change_in_warm_up_not_even_by_momentum():
    """With a single task they learn in every third update only, and their bits stay the same in between."""
    meta, update = built(1, warmup=2, joint=1)
    state, changed = meta.init(KEY), []
    for _ in range(6):
        before, (state, metrics) = state, update(state)
        same = jax.tree.map(np.array_equal, (before.params, before.opt_state), (state.params, state.opt_state))
        changed.append(not all(jax.tree.leaves(same)))
        assert (metrics["return/warmup"] != 0.0) != (metrics["return/joint"] != 0.0)
    assert changed == [False, False, True, False, False, True]


def test_params_learn_from_tasks_past_their_warm_up_alone(counting):
    """Of three tasks one is past its warm-up: the gradient is its return, not the mean of all."""
    _, states, _, metrics = counting
    for told in metrics:
        both = (2 * told["return/warmup"] + told["return/joint"]) / 3
        np.testing.assert_allclose(told["return/round_0"], both, rtol=1e-5)
        assert abs(told["return/joint"] - both) > 1e-3
    velocity = 0.0
    for before, after, told in zip(states, states[1:], metrics, strict=False):
        velocity = 0.9 * velocity + told["return/joint"]
        moved = jax.tree.map(lambda new, old: new - old, after.params.policies, before.params.policies)
        for leaf in jax.tree.leaves(moved):
            np.testing.assert_allclose(leaf, np.full(leaf.shape, -0.1 * velocity), rtol=1e-3, atol=1e-5)


def test_a_task_whose_master_is_not_finite_is_replaced():
    def adapt(params, fast, experience, key):
        late = jax.tree.leaves(fast.opt_state)[0] >= 1
        spoiled = jax.tree.map(lambda leaf: jnp.where(late, jnp.nan, leaf), fast.policy)
        return fast.replace(policy=spoiled, opt_state=jax.tree.map(lambda leaf: leaf + 1, fast.opt_state))

    meta, update = built(2, warmup=9, joint=9, adapt=adapt)
    state = meta.init(KEY)
    for ages in ([1, 10], [18, 18], [1, 1]):
        state, _ = update(state)
        assert state.source.age.tolist() == ages
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.source.fast))


def test_tasks_in_progress_are_resumed_in_bits(tmp_path, counting):
    meta, states, _, _ = counting
    Checkpointer(tmp_path).save(2, states[2])
    restored = Checkpointer(tmp_path).restore(jm.state_form(meta))
    chex.assert_trees_all_equal(restored.source, states[2].source)
    again, _ = jax.jit(meta.update)(restored)
    chex.assert_trees_all_equal((again.params, again.source), (states[3].params, states[3].source))


def test_a_task_needs_a_joint_round():
    with pytest.raises(ValueError, match="joint is 0; it must be at least 1"):
        built(1, warmup=9, joint=0)
