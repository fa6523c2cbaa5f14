"""Macro-steps and decisions against a plain loop, and the gradient of a policy over options by enumeration."""

from __future__ import annotations

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmeta import inner, rl
from jaxmeta.references.base import reference
from jaxmeta.types import Continuous, Discrete, Input, Output, Rollout, Spec

HORIZON, EPISODES, STREAMS, DURATION = 6, 2, 3, 3
LENGTH = HORIZON * EPISODES
LAST = np.array([[5, 3, 0], [4, 5, 1]])
"""Last step of every episode and stream; below 5 the episode ends early."""
FAULTS = ((2, 0), (3, 0), (7, 1))
"""Steps and streams with a fault: (3, 0) is a decision every three steps."""


def round_of(decided, seed=0):
    """A round of two episodes as `rollout` records it: after an early end inputs are frozen, and outputs arbitrary."""
    random: Any = np.random.default_rng(seed)
    draw = lambda *shape: random.normal(size=(LENGTH, STREAMS, *shape)).astype(np.float32)  # noqa: E731
    time, episode = np.arange(LENGTH) % HORIZON, np.arange(LENGTH) // HORIZON
    alive: Any = time[:, None] <= LAST[episode]
    valid = alive.copy()
    valid[tuple(np.transpose(FAULTS))] = False
    done = (time[:, None] == LAST[episode]) & valid
    ended: Any = np.concatenate([np.zeros((1, STREAMS)), done[:-1]])
    ended[HORIZON] = 1.0
    inputs = Input(
        obs=draw(2), prev_action=draw(1), prev_reward=draw(), prev_done=ended, prev_next_obs=draw(2), first=draw()
    )
    choice = rl.Decision.of(
        option=random.integers(0, 4, (LENGTH, STREAMS)).astype(np.int32),
        decided=jnp.where(alive, decided, 1.0).astype(jnp.float32),
        output=Output(dist=draw(4), value=draw()),
    )
    experience = Rollout(
        inputs=inputs,
        action=draw(1),
        next_obs=draw(2),
        reward=jnp.where(valid, draw(), 0.0),
        valid=valid.astype(np.float32),
        done=done.astype(np.float32),
        terminated=(done & (time[:, None] < HORIZON - 1)).astype(np.float32),
        output=Output(dist=draw(1), value=draw(), aux=choice),
        reset_key=jax.random.split(jax.random.key(0), STREAMS),
        success=valid & (draw() > 0.5),
        fault=(alive & ~valid).astype(np.int8),
    )
    return jax.tree.map(jnp.asarray, experience)


def loop(experience, decided, discount):
    """The records of all valid decisions, by (step, stream), from one step at a time."""
    data = jax.tree.map(np.asarray, experience.replace(reset_key=()))
    found = {}
    for stream in range(STREAMS):
        record, before = None, {"action": 0, "reward": 0.0}
        for step in range(LENGTH):
            if step % HORIZON > LAST[step // HORIZON, stream]:
                continue
            if decided[step, stream]:
                if record is not None:
                    before = record
                record, factor = None, 1.0
                if data.valid[step, stream]:
                    option = data.output.aux.option[step, stream]
                    record = {"action": option, "reward": 0.0, "done": 0.0, "terminated": 0.0, "success": False}
                    record |= {"prev_action": before["action"], "prev_reward": before["reward"]}
                    found[step, stream] = record
            if record is not None and data.valid[step, stream]:
                record["reward"] += factor * data.reward[step, stream]
                record["next_obs"] = data.next_obs[step, stream]
                for name in ("done", "terminated", "success"):
                    record[name] = max(record[name], getattr(data, name)[step, stream])
            factor *= discount
    return found


def assert_has(summary, found, experience, every):
    """Asserts that a summary consists of these records and of invalid steps."""
    for row, stream in np.ndindex(summary.reward.shape):
        record = found.get((row * every, stream))
        assert bool(summary.valid[row, stream]) == (record is not None)
        if record is None:
            assert summary.reward[row, stream] == summary.done[row, stream] == 0
            continue
        prev = {name: record.pop(name) for name in ("prev_action", "prev_reward")}
        for part, fields in ((summary, record), (summary.inputs, prev)):
            for name, value in fields.items():
                np.testing.assert_allclose(getattr(part, name)[row, stream], value, rtol=1e-5, atol=1e-6, err_msg=name)
    kept = lambda tree: jax.tree.map(lambda leaf: np.asarray(leaf[::every]), tree)  # noqa: E731
    for ours, theirs in (
        (summary.output, experience.output.aux.output),
        (summary.inputs.obs, experience.inputs.obs),
        (summary.inputs.prev_done, experience.inputs.prev_done),
        (summary.inputs.first, experience.inputs.first),
    ):
        jax.tree.map(np.testing.assert_array_equal, ours, kept(theirs))


EVERY_THIRD = np.broadcast_to((np.arange(LENGTH) % DURATION == 0)[:, None], (LENGTH, STREAMS))


@pytest.mark.parametrize("discount", [1.0, 0.9])
def test_macro_steps_equal_a_plain_loop(discount):
    experience = round_of(EVERY_THIRD)
    found = loop(experience, EVERY_THIRD, discount)
    # early ends inside of a macro-step, after which the clock restarts; one decision has a fault
    assert len(found) == 3 + 4 + 2 and (3, 0) not in found and (6, 2) in found
    summary = rl.macro_steps(experience, DURATION, discount)
    assert summary.reward.shape == (LENGTH // DURATION, STREAMS)
    assert_has(summary, found, experience, DURATION)


@pytest.mark.parametrize("discount", [1.0, 0.9])
@pytest.mark.parametrize("seed", [0, 1])
def test_decisions_at_any_time_equal_a_plain_loop(discount, seed):
    decided = np.random.default_rng(seed).random((LENGTH, STREAMS)) < 0.4
    decided[::HORIZON] = True
    experience = round_of(decided, seed)
    found = loop(experience, decided, discount)
    assert_has(rl.decision_steps(experience, discount), found, experience, every=1)


def test_a_decision_at_every_step_changes_rewards_and_masks_by_nothing():
    experience = round_of(np.ones((LENGTH, STREAMS)))
    for summary in (rl.macro_steps(experience, 1, 0.9), rl.decision_steps(experience, 0.9)):
        for name in ("reward", "valid", "done", "terminated", "success"):
            np.testing.assert_array_equal(getattr(summary, name), getattr(experience, name), err_msg=name)


def test_the_discount_of_a_decision_depends_on_its_length():
    """GAE in a loop over the decisions of a stream; and that of macro-steps of equal length, a decision at a time."""
    discount, trace = 0.9, 0.7
    decided = np.random.default_rng(3).random((LENGTH, STREAMS)) < 0.4
    decided[::HORIZON] = True
    experience = round_of(decided)
    estimate = rl.value_baseline(discount, trace, normalize=False, per_step=True)
    advantage = estimate(rl.decision_steps(experience, discount)).advantage
    found, value = loop(experience, decided, discount), np.asarray(experience.output.aux.output.value)
    for stream in range(STREAMS):
        steps = [step for step, other in found if other == stream]
        following = later = 0.0
        for step, after in reversed(list(zip(steps, [*steps[1:], LENGTH], strict=True))):
            factor = 0.0 if found[step, stream]["done"] else discount ** (after - step)
            later = found[step, stream]["reward"] + factor * (following + trace * later) - value[step, stream]
            following = value[step, stream]
            np.testing.assert_allclose(advantage[step, stream], later, rtol=1e-4, atol=1e-5)

    regular = round_of(EVERY_THIRD)
    by_step = estimate(rl.decision_steps(regular.replace(fault=regular.fault), discount)).advantage[::DURATION]
    by_macro = rl.value_baseline(discount**DURATION, trace, normalize=False)(
        rl.macro_steps(regular, DURATION, discount)
    )
    complete = [1, 2]  # a fault at the decision of stream 0 is a gap, which is time per step and none per macro-step
    np.testing.assert_allclose(by_step[:, complete], by_macro.advantage[:, complete], rtol=1e-4, atol=1e-6)


def test_the_spec_of_a_policy_over_options():
    spec = Spec((3,), Continuous(2), horizon=50, terminates=True, success=True)
    assert rl.macro_spec(spec, 4, 10) == Spec((3,), Discrete(4), horizon=5, terminates=True, success=True)
    for arguments, message in (
        ((1, 10), "num_options is 1; a choice needs at least 2 options"),
        ((2, 7), "duration is 7; it must be at least 1 and divide the horizon, which is 50"),
        ((2, 0), "duration is 0; it must be at least 1"),
    ):
        with pytest.raises(ValueError, match=message):
            rl.macro_spec(spec, *arguments)
    with pytest.raises(ValueError, match="duration is 5; it must be at least 1 and divide the length of the round"):
        rl.macro_steps(round_of(EVERY_THIRD), 5)


def enumerated(states, actions, options, rewards, duration):
    """Trajectories [M, T], with options [M, T / duration], as rounds [M, T, 1, ...] of one stream."""
    column = lambda values, kind=jnp.float32: jnp.asarray(values, kind)[..., None]  # noqa: E731
    zero = jnp.zeros((*np.shape(actions), 1))
    last = jnp.zeros_like(zero).at[:, -1].set(1.0)
    obs = jax.nn.one_hot(column(states, jnp.int32), 2)
    each = np.repeat(options, duration, axis=1)
    logits = jnp.zeros((*zero.shape, 2))
    choice = rl.Decision.of(column(each, jnp.int32), zero, Output(dist=logits, value=zero))
    inputs = Input(obs, column(actions, jnp.int32), zero, zero, obs, zero)
    keys = jax.random.split(jax.random.key(0), (len(actions), 1))
    none = jnp.zeros(zero.shape, bool)
    output = Output(dist=logits, value=zero, aux=choice)
    return Rollout(
        inputs, inputs.prev_action, obs, column(rewards), zero + 1.0, last, zero, output, keys, none, none.astype(int)
    )


def expected_gradient(policy: Any, theta, rounds, probability, duration, objective):
    """The mean, over all trajectories, of the gradient of the inner loss on macro-steps, at the behaviour policy."""

    @jax.jit
    @jax.vmap
    def gradient(experience):
        macro = rl.macro_steps(experience, duration)
        output = jax.vmap(jax.vmap(lambda inputs: policy.act(theta, (), (), inputs)[1]))(macro.inputs)
        loss = inner.policy_loss(policy, objective, rl.plain_returns())
        # the loss is per step, the return that of an episode
        return jax.grad(loss)(theta, macro.replace(output=output)) * macro.reward.shape[0]

    return -np.tensordot(probability, np.asarray(gradient(rounds), np.float64), 1)


@pytest.mark.parametrize("objective", [rl.log_prob, rl.ratio, rl.clipped(0.2)])
@pytest.mark.parametrize("duration", [1, 3])
def test_the_gradient_of_one_choice_between_two_options_has_its_closed_form(objective, duration):
    """Option z pays 1 per step with probability e or 1 - e: dJ/dθ = p (1 - 2e) q (1 - q), with q = sigmoid(θ)."""
    e, theta = 0.1, jnp.float32(0.4)
    q = 1 / (1 + np.exp(-0.4))
    policy = reference(2, lambda key: (), lambda theta, carry, inputs: (carry, jnp.stack([0.0 * theta, theta])))
    option, *actions = np.array(list(itertools.product((0, 1), repeat=1 + duration))).T
    actions = np.stack(actions, 1)
    pays = np.where(option == 1, 1 - e, e)[:, None]
    probability = np.where(option == 1, q, 1 - q) * np.where(actions == 1, pays, 1 - pays).prod(1)
    assert probability.sum() == pytest.approx(1.0)
    assert probability @ actions.sum(1) == pytest.approx(duration * (e * (1 - q) + (1 - e) * q))
    rounds = enumerated(np.zeros_like(actions), actions, option[:, None], actions, duration)
    found = expected_gradient(policy, theta, rounds, probability, duration, objective)
    assert found == pytest.approx(duration * (1 - 2 * e) * q * (1 - q), abs=1e-6)


def test_the_gradient_of_choices_in_two_states_equals_finite_differences():
    """Four steps with a choice every two; the next state is the action, and the reward depends on both."""
    random = np.random.default_rng(0)
    act, pay, theta = random.uniform(0.1, 0.9, (2, 2)), random.normal(size=(2, 2)), random.normal(size=2)
    every = np.array(list(itertools.product((0, 1), repeat=6)))
    options, actions = every[:, :2], every[:, 2:]
    states = np.concatenate([np.zeros_like(actions[:, :1]), actions[:, :-1]], 1)
    one = act[np.repeat(options, 2, axis=1), states]
    given = np.where(actions == 1, one, 1 - one).prod(1)
    rewards = pay[states, actions]

    def probability(theta):
        chosen = 1 / (1 + np.exp(-theta[states[:, ::2]]))
        return given * np.where(options == 1, chosen, 1 - chosen).prod(1)

    value = lambda theta: probability(theta) @ rewards.sum(1)  # noqa: E731
    steps = 1e-5 * np.eye(2)
    expected = [(value(theta + step) - value(theta - step)) / 2e-5 for step in steps]
    policy = reference(
        2, lambda key: (), lambda theta, carry, inputs: (carry, jnp.stack([0.0 * theta[0], inputs.obs @ theta]))
    )
    rounds = enumerated(states, actions, options, rewards, 2)
    found = expected_gradient(policy, jnp.asarray(theta, jnp.float32), rounds, probability(theta), 2, rl.ratio)
    np.testing.assert_allclose(found, expected, atol=1e-6)
