"""Who acts and who labels: DAgger's mixture and its ring, contexts that do not know the task, and histories."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxmeta as jm
from jaxmeta import nets, outer, references
from jaxmeta.references import experts
from jaxmeta.references.base import reference
from jaxmeta.tasks.tabular import Tabular, TabularTask
from jaxmeta.types import Plan

HORIZON = 6
ON, OFF = 0, 1
STAY, LEAVE = 0, 1


def leash() -> jm.TaskFamily:
    """Two states, on and off the track: action 0 keeps the state and action 1 changes it; being on the track pays 1."""
    task = TabularTask(
        reward=jnp.array([[1.0, 0.0], [0.0, 1.0]]),
        transition=jnp.array([[[1.0, 0.0], [0.0, 1.0]], [[0.0, 1.0], [1.0, 0.0]]]),
    )
    return jm.TaskFamily(Tabular(2, 2, HORIZON), lambda key: task, lambda key: task, jm.tasks.flatten_task)


FAMILY = leash()
PLAN = Plan(streams=2)


def fixed(logits) -> jm.Learner:
    """A student whose params are its logits by state, [2, 2]."""
    learner = reference(2, lambda key: (), lambda params, carry, inputs: (carry, inputs.obs @ params))
    return learner._replace(init=lambda key: jnp.array(logits, jnp.float32))


WRONG = [[-50.0, 50.0], [50.0, -50.0]]
"""Leaves the track and stays off it."""


def draw_of(family, count, key=0):
    tasks = jax.vmap(family.sample)(jax.random.split(jax.random.key(key), count))
    return outer.Draw(tasks, jnp.full(count, -1), jnp.ones(count))


@pytest.fixture(scope="module")
def rounds_of_dagger():
    """Three rounds with a student that is always wrong: the ring after each."""
    student = fixed(WRONG)
    beta = lambda rounds: jnp.where(rounds == 0, 1.0, 0.0)  # noqa: E731
    roles = outer.mixing(student, experts.planner(FAMILY), beta)
    source = outer.aggregated(roles, FAMILY, PLAN, student, num_tasks=2, capacity=2)
    params, state, found = student.init(jax.random.key(0)), source.init(jax.random.key(0)), []
    step = jax.jit(lambda state, keys: source.next(state, params, draw_of(FAMILY, 2), (), keys)[:2])
    for index in range(3):
        state, batch = step(state, jax.random.split(jax.random.key(index), 2))
        found.append(batch)
    return found


def states(recall, slot):
    return np.asarray(recall.data.trial.rounds.inputs.obs[:, slot, 0].argmax(-1))


def test_round_0_of_dagger_is_the_experts(rounds_of_dagger):
    first = rounds_of_dagger[0]
    assert (first.rounds == 1).all()
    assert (states(first, 0) == ON).all() and (np.asarray(first.data.label[:, 0]) == STAY).all()
    assert (first.data.trial.rounds.action[:, 0] == STAY).all()


def test_later_rounds_have_the_students_states_with_the_experts_labels(rounds_of_dagger):
    second = rounds_of_dagger[1]
    visited = states(second, 1)
    assert (visited[:, 0] == ON).all() and (visited[:, 1:] == OFF).all()
    np.testing.assert_array_equal(second.data.label[:, 1], np.where(visited == ON, STAY, LEAVE))
    # the student's own actions, which are all wrong, are not the labels
    assert (second.data.trial.rounds.action[:, 1, 0] != second.data.label[:, 1]).all()


def test_the_ring_keeps_the_last_rounds_and_draws_from_all_of_them(rounds_of_dagger):
    second, third = rounds_of_dagger[1:]
    assert (third.rounds == 3).all() and (states(third, 0)[:, 1:] == OFF).all()  # round 2 has replaced round 0
    batch = outer.Batch(second, jax.random.split(jax.random.key(7), 2), jnp.ones(2))
    minibatches = outer.recalled(20)
    taken = jax.vmap(lambda keys: minibatches.take(batch, keys).data.label)(minibatches.deal(batch))
    off_track = (np.asarray(taken) == LEAVE).any((2, 3))  # [steps, lanes]: whether round 1 was drawn
    assert 0.2 < off_track.mean() < 0.8 and not (off_track[:, 0] == off_track[:, 1]).all()


def test_the_ring_can_be_a_checkpoint():
    """Checkpoints hold neither keys of another sharding nor empty arrays."""
    form = jax.eval_shape(jm.dagger(FAMILY).init, jax.random.key(0)).source
    for leaf in jax.tree.leaves(form):
        assert leaf.size and not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def test_a_mixture_is_replayed_and_not_drawn_again():
    student = fixed([[0.0, 0.0], [0.0, 0.0]])
    task = FAMILY.sample(jax.random.key(0))
    learner = outer.mixture(student, experts.planner(FAMILY), task, 0.5)
    params = student.init(jax.random.key(0))
    trial = jax.jit(lambda key: jm.collect(learner, params, FAMILY.env, task, key, Plan(streams=50)))(jax.random.key(1))
    asked = trial.rounds.output.dist.asked
    assert 0.4 < asked.mean() < 0.6
    again = jax.jit(lambda trial: jm.replay(learner, params, trial))(trial)
    np.testing.assert_array_equal(asked, again.dist.asked)
    state = trial.rounds.inputs.obs.argmax(-1)
    right = trial.rounds.action == jnp.where(state == ON, STAY, LEAVE)
    assert right[asked].all() and 0.3 < right[~asked].mean() < 0.7


def test_contexts_do_not_depend_on_the_task_and_labels_do():
    family = jm.tasks.bandit(jm.tasks.BanditConfig(num_arms=4, num_pulls=12))
    behaviour = experts.blind_behaviour(family)
    roles = outer.relabelling(behaviour, experts.planner(family))
    source = outer.labelled(roles, family, Plan(episodes=12))
    keys = jax.random.split(jax.random.key(0), 8)
    draws = [draw_of(family, 8, key) for key in (1, 2)]
    run = jax.jit(lambda draw: source.next((), (), draw, (), keys)[1])
    one, other = (run(draw) for draw in draws)
    # with the same keys a leak of the task into the actions is the only way to differ
    np.testing.assert_array_equal(one.trial.rounds.action, other.trial.rounds.action)
    for data, draw in zip((one, other), draws, strict=True):
        best = np.asarray(draw.tasks.probability).argmax(1)
        assert (np.asarray(data.label) == best[:, None, None]).all()


def test_an_informed_behaviour_is_refused():
    family = jm.tasks.bandit()
    with pytest.raises(ValueError, match="behaviour observes the task"):
        jm.dpt(family, behaviour=experts.planner(family))
    with pytest.raises(ValueError, match="expert observes the task"):
        jm.distill(family, expert=experts.planner(family))


def test_a_family_without_a_planner_is_refused_in_one_line():
    with pytest.raises(ValueError, match=r"no planner for CartPole; imitate a trained run \(try --expert"):
        jm.dagger(jm.tasks.cart_pole())


def test_the_best_streams_are_kept():
    family = jm.tasks.bandit(jm.tasks.BanditConfig(num_arms=3, num_pulls=5))
    learner = references.bandits.random(3)
    task, plan = family.sample(jax.random.key(0)), Plan(streams=6, episodes=5)
    trial = jm.collect(learner, (), family.env, task, jax.random.key(1), plan)
    rounds = trial.rounds
    kept = outer.best_streams(2)(outer.Labelled(trial, rounds.action[0]))
    returns = np.sort(rounds.reward[0].sum(0))[::-1]
    np.testing.assert_array_equal(kept.trial.rounds.reward[0].sum(0), returns[:2])
    np.testing.assert_array_equal(kept.label, kept.trial.rounds.action[0])
    assert kept.trial.rounds.reset_key.shape == (1, 2)


def test_a_history_is_one_stream_with_the_rounds_one_after_the_other():
    """A learner whose rounds end early and whose carry counts: the history says what happened before each step."""
    family = jm.tasks.random_walk(jm.tasks.RandomWalkConfig(num_states=3, horizon=4))
    learner = references.bandits.random(2)
    task = family.sample(jax.random.key(0))
    plan = Plan(rounds=2, streams=5)
    trial = jm.collect(learner, (), family.env, task, jax.random.key(1), plan)
    whole = jax.tree.map(lambda leaf: leaf[0], outer.history(trial).rounds.replace(output=(), reset_key=()))
    rounds = trial.rounds
    assert whole.reward.shape == (12, 5)
    np.testing.assert_array_equal(whole.inputs.first, np.eye(12)[0][:, None] * np.ones(5))
    for start in (4, 8):
        before = jax.tree.map(lambda leaf, index=start // 4 - 1: leaf[index], rounds.replace(output=(), reset_key=()))
        last = np.asarray(before.valid).sum(0).astype(int) - 1  # the last step before an early end
        streams = np.arange(5)
        np.testing.assert_array_equal(whole.inputs.prev_action[start], before.action[last, streams])
        np.testing.assert_array_equal(whole.inputs.prev_reward[start], before.reward[last, streams])
        np.testing.assert_array_equal(whole.inputs.prev_next_obs[start], before.next_obs[last, streams])
        assert (whole.inputs.prev_done[start] == 1).all()
    assert (np.asarray(rounds.valid) == 0).any()  # some walks end early


def test_the_loss_is_the_likelihood_of_valid_steps():
    student = fixed([[0.3, -0.2], [0.1, 0.5]])
    params = student.init(jax.random.key(0))
    task = FAMILY.sample(jax.random.key(0))
    trial = jm.collect(student, params, FAMILY.env, task, jax.random.key(1), PLAN)
    valid = trial.rounds.valid.at[0, 4:, 1].set(0.0)
    trial = trial.replace(rounds=trial.rounds.replace(valid=valid))
    label = jnp.ones((HORIZON, 2), jnp.int32)
    data = outer.Labelled(trial, label)
    loss, metrics = outer.imitation_loss(student)(params, data, jax.random.key(2))
    nll = -jax.nn.log_softmax(trial.rounds.inputs.obs[0] @ params)[..., 1] * valid[0]
    np.testing.assert_allclose(loss, nll.sum() / (2 * HORIZON), rtol=1e-6)
    np.testing.assert_allclose(metrics["nll"], nll.sum() / (2 * HORIZON - 2), rtol=1e-6)


def test_networks_of_any_kind_are_students():
    from jaxmeta.algos.imitation import student

    spec = jm.tasks.navigation().env.spec
    for kind in ("perceptron", "recurrent", "snail"):
        network = student.network(spec, student.StudentConfig(network=kind), length=4)
        assert isinstance(network, nets.Network)
