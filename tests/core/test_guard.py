"""What is not finite: it stays where it is, is counted, and stops training that comes to nothing."""

from __future__ import annotations

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxmeta as jm
from jaxmeta import tasks
from jaxmeta.core import guard
from jaxmeta.core.train import make_chunk
from jaxmeta.experiment import registry
from jaxmeta.types import Fault, Plan, TrainState
from tests import tiny

LIMIT = 0.5


@dataclasses.dataclass(frozen=True)
class NonFinite(tasks.Navigation):
    """Navigation that breaks, one way or another, where the goal lies far to the right."""

    fault: str = "reward"
    always: bool = False

    def step(self, key, state, action, task):
        state, step = super().step(key, state, action, task)
        broken = (task.goal[0] > LIMIT * 0.9) | self.always
        worst = {"huge": 1e30}.get(self.fault, jnp.nan)
        if self.fault in ("reward", "huge"):
            step = step.replace(reward=jnp.where(broken, worst, step.reward))
        if self.fault == "obs":
            step = step.replace(obs=jnp.where(broken, jnp.inf, step.obs))
        if self.fault == "state":
            state = state.replace(position=jnp.where(broken, jnp.nan, state.position))
            step = step.replace(obs=state.position)
        return state, step


def nonfinite(fault="reward", always=False):
    return tiny.family()._replace(env=NonFinite(horizon=4, fault=fault, always=always))


def goals(*coordinates):
    return tasks.PointTask(goal=jnp.array(coordinates, jnp.float32))


def collector(meta, family, learner=lambda _: None):
    """Compiles the collection of trials, (tasks [N], what `learner` builds the agent from) -> trials [N, ...]."""

    @jax.jit
    def trials_of(tasks, given=None):
        agent, params = learner(given) or meta.learner, meta.learner.init(jax.random.key(0))
        one = lambda task, key: jm.collect(agent, params, family.env, task, key, meta.plan)  # noqa: E731
        return jax.vmap(one)(tasks, jax.random.split(jax.random.key(1), len(tasks.goal)))

    return trials_of


FINITE = goals((0.1, 0.2), (-0.3, 0.4), (0.2, -0.1))
BROKEN = goals((0.1, 0.2), (0.49, 0.4), (0.2, -0.1))


MORE_FAULTS = [pytest.param(fault, marks=pytest.mark.slow) for fault in ("reward", "obs", "huge")]


@pytest.mark.parametrize("fault", ["state", *MORE_FAULTS])
def test_a_fault_is_found_and_neighbours_are_the_same_bit_for_bit(fault):
    meta, family = tiny.algo("maml-vpg"), nonfinite(fault)
    trials_of = collector(meta, family)
    finite, broken = trials_of(FINITE), trials_of(BROKEN)
    np.testing.assert_array_equal(guard.nonfinite_trials(broken), [False, True, False])
    assert not guard.nonfinite_trials(finite).any()
    # what a fault leaves is finite, and not valid
    rounds = broken.rounds
    assert np.isfinite(rounds.reward).all() and np.isfinite(rounds.next_obs).all()
    at_fault = rounds.fault != Fault.NONE
    assert not (at_fault & (rounds.valid > 0)).any() and not (at_fault & (rounds.reward != 0)).any()
    np.testing.assert_array_equal(guard.causes(broken)["environment"], [False, True, False])

    def others(tree):
        return jax.tree.map(lambda leaf: np.asarray(leaf)[[0, 2]], tree)

    kept, emptied = (guard.empty_nonfinite(trials).rounds.replace(reset_key=()) for trials in (finite, broken))
    chex.assert_trees_all_equal(others(kept), others(emptied))
    for leaf in jax.tree.leaves(emptied.replace(fault=())):
        assert (leaf[1] == 0).all()

    loss = jm.outer.loss.trial_loss(meta.learner, jm.rl.ratio, jm.rl.plain_returns())
    each = jax.jit(jax.vmap(jax.grad(lambda params, trial: loss(params, trial)[0]), (None, 0)))
    params = jax.jit(meta.learner.init)(jax.random.key(0))
    one, other = (each(params, guard.empty_nonfinite(trials)) for trials in (finite, broken))
    chex.assert_trees_all_equal(others(one), others(other))
    for leaf in jax.tree.leaves(other):
        assert (leaf[1] == 0).all()


def test_an_adaptation_that_is_not_finite_is_a_fault_of_its_task_alone():
    meta, family = tiny.algo("maml-vpg"), tiny.family()

    def breaking_below(worst):
        def adapt(params, fast, experience, key):
            after = meta.learner.adapt(params, fast, experience, key)
            odd = jnp.sum(experience.reward) < worst
            return after.replace(policy=jax.tree.map(lambda leaf: jnp.where(odd, jnp.nan, leaf), after.policy))

        return meta.learner._replace(adapt=adapt)

    trials_of = collector(meta, family, breaking_below)
    finite = trials_of(FINITE, -np.float32(np.inf))
    paid = np.sort(np.asarray(finite.rounds.reward)[:, 0].sum((1, 2)))
    broken = trials_of(FINITE, np.float32(paid[:2].mean()))
    found = np.asarray(guard.nonfinite_trials(broken))
    assert found.sum() == 1
    np.testing.assert_array_equal(guard.causes(broken)["adapted_policy"], found)
    # the round before the adaptation was finite
    assert not np.asarray(broken.rounds.fault)[:, 0].any() and np.asarray(broken.rounds.fault)[found, 1].all()
    for leaf, other in zip(*(jax.tree.leaves(t.rounds.replace(reset_key=())) for t in (finite, broken)), strict=True):
        np.testing.assert_array_equal(np.asarray(leaf)[~found], np.asarray(other)[~found])


def half_nonfinite():
    """A family half of whose tasks break."""
    family = nonfinite("state")

    def sample(key):
        task = family.sample(key)
        side = jnp.where(jax.random.bernoulli(jax.random.fold_in(key, 1)), 0.49, 0.1)
        return task.replace(goal=task.goal.at[0].set(side))

    return family._replace(sample=sample)


# one of each outer loop
QUICK = {"dagger", "maml", "pearl", "reptile", "rl2"}
NAMES = [name if name in QUICK else tiny.slow(name) for name in registry.ALGOS]


@functools.cache
def on_half_nonfinite(name):
    """An algorithm on these tasks, and up to 8 of its updates, compiled once for all tests."""
    meta = tiny.algo(name, half_nonfinite())
    return meta, make_chunk(meta, 8)


@pytest.mark.parametrize("name", NAMES)
def test_every_algorithm_learns_from_the_finite_tasks(name):
    meta, updates = on_half_nonfinite(name)
    # with a fixed set of training tasks, a seed for which some of the four are finite and some are not
    state = jm.init_state(meta, jax.random.key(5 if meta.info.warmup else 3))
    begun = jax.tree.map(np.array, state.params)
    state, metrics = updates(state, 4)
    metrics = {name: np.asarray(rows[:4]) for name, rows in metrics.items()}
    num_tasks = meta.info.num_tasks
    assert 0 < metrics["nonfinite_tasks"].sum() < 4 * num_tasks
    for leaf in jax.tree.leaves(state.params):
        assert np.isfinite(leaf).all()
    assert any((a != b).any() for a, b in zip(*map(jax.tree.leaves, (begun, state.params)), strict=True))
    # only where all tasks had a fault did an update come to nothing
    np.testing.assert_array_equal(metrics["skipped"] > 0, metrics["nonfinite_tasks"] == num_tasks)


def test_means_are_over_the_finite_tasks():
    meta, updates = on_half_nonfinite("rl2")
    _, metrics = updates(jm.init_state(meta, jax.random.key(0)))
    nonfinite_tasks, returns = np.asarray(metrics["nonfinite_tasks"]), np.asarray(metrics["return/last"])
    assert set(nonfinite_tasks) > {1.0, 2.0} and np.isnan(returns[nonfinite_tasks == 4]).all()
    # 4 steps, each of which costs the distance to a goal 0.1 to 0.7 away
    assert (returns[nonfinite_tasks < 4] < -4 * 0.05).all()


@pytest.fixture(scope="module")
def always_broken():
    """A meta-learner whose tasks all break. `jm.train` compiles ten updates of it once for all tests."""
    return tiny.algo("maml-vpg", nonfinite(always=True))


def test_skipped_updates_stop_training_without_changing_params(always_broken):
    meta, state = always_broken, jm.init_state(always_broken, jax.random.key(0))
    begun = jax.tree.map(np.array, (state.params, state.opt_state))
    num_tasks = meta.info.num_tasks
    message = f"not finite: the environment in {num_tasks} tasks; the params are those of update 0"
    with pytest.raises(guard.NonFiniteError, match=f"5 updates in a row were {message}") as stopped:
        jm.train(meta, state, 20, chunk=10)
    # at once in a call of ten: none after the fifth changed anything
    after = stopped.value.state
    chex.assert_trees_all_equal(begun, jax.device_get((after.params, after.opt_state)))
    assert int(after.skipped) == 10 and int(after.step) == 10


def test_a_nonfinite_policy_is_named_as_the_cause(always_broken):
    """Not the environment, which breaks only after the policy has."""
    state = jm.init_state(always_broken, jax.random.key(0))
    broken = jax.tree.map(lambda leaf: jnp.full_like(leaf, jnp.nan), state.params.policy)
    state, num_tasks = state.replace(params=state.params.replace(policy=broken)), always_broken.info.num_tasks
    with pytest.raises(guard.NonFiniteError, match=f"not finite: the policy in {num_tasks} tasks; the"):
        jm.train(always_broken, state, 5, chunk=10)


def test_an_optimiser_without_a_derivative_at_zero_is_named():
    """Adam inside, where nothing is ever paid: its root has an infinite derivative at a gradient of zero."""

    class Unpaid(tasks.Navigation):
        def step(self, key, state, action, task):
            state, step = super().step(key, state, action, task)
            return state, step.replace(reward=jnp.zeros(()))

    family = tiny.family()._replace(env=Unpaid(horizon=4))
    policy = jm.inner.policy(jm.nets.actor_critic(family.env.spec, (4,)))
    messages = {}
    for eps_root in (0.0, 1e-8):
        updater = jm.inner.fixed(optax.adam(1e-2, eps_root=eps_root))
        loss = jm.inner.policy_loss(policy, jm.rl.ratio, jm.rl.plain_returns())
        learner = jm.inner.descent(policy, loss, updater)
        improve = jm.outer.policy_gradient(learner, jm.rl.plain_returns())
        source = jm.outer.fresh(learner, family, Plan(streams=2, rounds=1))
        info = jm.outer.Info(4, Plan(streams=2, rounds=1), spread=4)
        meta = jm.outer.meta_update(learner, info.plan, jm.outer.uniform(family), source, improve, info)
        try:
            jm.train(meta, jm.init_state(meta, jax.random.key(0)), 5, chunk=5)
        except guard.NonFiniteError as error:
            messages[eps_root] = str(error)
    assert list(messages) == [0.0] and "grad_norm" in messages[0.0] and "needs eps_root > 0" in messages[0.0]


def scripted(bad):
    """A meta-learner whose params count updates, of which some are not finite."""

    def init(key):
        return TrainState(params=jnp.zeros(()), opt_state=(), key=key, step=jnp.zeros((), jnp.int32))

    def update(state, data=()):
        broken = jnp.isin(state.step, jnp.array(bad))
        params = jnp.where(broken, jnp.nan, state.params + 1.0)
        return state.replace(params=params, step=state.step + 1), {"loss": jnp.zeros(())}

    return jm.MetaLearner(learner=None, plan=Plan(), init=init, update=update)


@pytest.mark.parametrize("chunk", [1, 4, 10])
def test_five_in_a_row_stop_wherever_device_calls_end(chunk):
    meta = scripted([2, 3, 4, 5, 7, 8, 9, 10, 11])
    with pytest.raises(guard.NonFiniteError) as stopped:
        jm.train(meta, jm.init_state(meta, jax.random.key(0)), 30, chunk=chunk)
    # four in a row were forgiven; updates 0, 1 and 6 counted
    assert (float(stopped.value.state.params), stopped.value.update) == (3.0, 7)


def test_training_can_continue_from_the_final_state_of_a_stopped_run():
    bad = [7, 8, 9, 10, 11]
    with pytest.raises(guard.NonFiniteError) as stopped:
        jm.train(scripted(bad), jm.init_state(scripted(bad), jax.random.key(0)), 30)
    state = jm.train(scripted([*bad, 12]), stopped.value.state, 20)
    assert (float(state.params), int(state.skipped)) == (7.0 + 7.0, 0)


def test_an_evaluation_does_not_hide_a_fault():
    meta, family = tiny.algo("ppo"), nonfinite()
    params = meta.learner.init(jax.random.key(0))
    report = jm.evaluate(meta.learner, params, family.env, BROKEN, jax.random.key(1), meta.plan)
    np.testing.assert_array_equal(np.isnan(report.returns).any((1, 2, 3)), [False, True, False])
