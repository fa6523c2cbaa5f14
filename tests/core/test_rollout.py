"""What reaches the policy, and when: episodes, trials, early ends."""

from __future__ import annotations

import dataclasses

import distrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxmeta as jm
from jaxmeta import devices, inner, nets, outer
from jaxmeta.core import rollout as engine
from jaxmeta.core.learner import Learner
from jaxmeta.outer.policy_gradient import with_values
from jaxmeta.types import Continuous, Output, Plan, Spec, Step
from tests import tiny


@dataclasses.dataclass(frozen=True)
class Counter:
    """Observes the step of the episode; pays 10 x task + step; ends early after `task` steps if it may."""

    horizon: int = 3
    terminates: bool = False

    @property
    def spec(self):
        return Spec((1,), Continuous(1), self.horizon, self.terminates)

    def reset(self, key, task):
        return jnp.zeros(()), jnp.zeros(1)

    def step(self, key, state, action, task):
        state = state + 1.0
        ended = (state >= task) if self.terminates else jnp.array(False)
        return state, Step(obs=state[None], reward=10 * task + state, terminated=ended)


def spy():
    """A learner whose carry counts steps, and that says what it saw."""

    def act(params, fast, carry, inputs):
        return carry + 1.0, Output(dist=(carry, inputs.obs), value=fast + 0.0, aux=inputs)

    return Learner(
        init=lambda key: (),
        start=lambda params, key: jnp.zeros(()),
        reset=lambda params, fast, key: jnp.zeros(()),
        act=act,
        adapt=lambda params, fast, experience, key: fast + experience.reward.sum(),
        head=lambda output: distrax.Independent(distrax.Normal(output.dist[0][..., None], 1e-9), 1),
    )


def collect(env, task, plan):
    return engine.collect(spy(), (), env, jnp.float32(task), jax.random.key(0), plan)


def test_carry_survives_the_end_of_an_episode_and_not_the_end_of_a_trial():
    rounds = collect(Counter(), 1.0, Plan(rounds=1, streams=2, episodes=2)).rounds
    steps, _ = rounds.output.dist
    assert steps.shape == (2, 6, 2)
    # each round is a new stream; within it the count runs on over the episode end
    np.testing.assert_array_equal(steps[:, :, 0], [[0, 1, 2, 3, 4, 5]] * 2)


def test_the_last_transition_of_an_episode_reaches_the_policy():
    seen = collect(Counter(), 2.0, Plan(episodes=2)).rounds.output.aux
    seen = jax.tree.map(lambda leaf: leaf[0, :, 0], seen)
    np.testing.assert_array_equal(seen.obs[:, 0], [0, 1, 2, 0, 1, 2])
    np.testing.assert_array_equal(seen.prev_reward, [0, 21, 22, 23, 21, 22])
    np.testing.assert_array_equal(seen.prev_done, [0, 0, 0, 1, 0, 0])
    np.testing.assert_array_equal(seen.first, [1, 0, 0, 0, 0, 0])
    np.testing.assert_allclose(seen.prev_action[:, 0], [0, 0, 1, 2, 3, 4], atol=1e-6)


def test_the_final_observation_is_kept_and_reaches_the_policy():
    rounds = collect(Counter(), 2.0, Plan(episodes=2)).rounds
    np.testing.assert_array_equal(rounds.inputs.obs[0, :, 0, 0], [0, 1, 2, 0, 1, 2])
    np.testing.assert_array_equal(rounds.next_obs[0, :, 0, 0], [1, 2, 3, 1, 2, 3])
    np.testing.assert_array_equal(rounds.done[0, :, 0], [0, 0, 1, 0, 0, 1])
    np.testing.assert_array_equal(rounds.terminated, np.zeros((1, 6, 1)))  # it is the horizon that ends them
    np.testing.assert_array_equal(rounds.output.aux.prev_next_obs[0, :, 0, 0], [0, 1, 2, 3, 1, 2])


def test_state_is_frozen_after_an_early_end_until_the_next_episode():
    env = Counter(horizon=4, terminates=True)
    rounds = collect(env, 2.0, Plan(episodes=2)).rounds.replace(reset_key=())
    rounds = jax.tree.map(lambda leaf: leaf[0, :, 0], rounds)
    np.testing.assert_array_equal(rounds.valid, [1, 1, 0, 0, 1, 1, 0, 0])
    np.testing.assert_array_equal(rounds.done, [0, 1, 0, 0, 0, 1, 0, 0])
    np.testing.assert_array_equal(rounds.terminated, rounds.done)
    np.testing.assert_array_equal(rounds.reward, [21, 22, 0, 0, 21, 22, 0, 0])
    valid = rounds.valid > 0
    # to the policy the episodes follow each other without a gap
    np.testing.assert_array_equal(rounds.output.dist[0][valid], [0, 1, 2, 3])
    np.testing.assert_array_equal(rounds.inputs.prev_reward[valid], [0, 21, 22, 21])
    np.testing.assert_array_equal(rounds.inputs.prev_done[valid], [0, 0, 1, 0])
    np.testing.assert_array_equal(rounds.inputs.prev_next_obs[valid, 0], [0, 1, 2, 1])


def test_rounds_adapt_on_the_data_before_them():
    values = collect(Counter(), 1.0, Plan(rounds=2)).rounds.output.value[:, 0, 0]
    np.testing.assert_array_equal(values, [0, 36, 72])  # 11 + 12 + 13 a round


def test_the_task_reaches_every_reset_of_the_trial():
    trial = collect(Counter(), 3.0, Plan(rounds=1, episodes=3))
    np.testing.assert_array_equal(trial.rounds.reward[:, ::3, 0], np.full((2, 3), 31.0))


def test_a_memoryless_policy_replays_in_one_batched_call(monkeypatch):
    calls = []
    monkeypatch.setattr(jax.lax, "scan", lambda *args, **kwargs: calls.append(args))
    agent = tiny.algo("maml").learner
    params, experience = jax.eval_shape(lambda: (agent.init(jax.random.key(0)), _blank(tiny.family().env.spec)))
    output = jax.eval_shape(
        lambda p, e: engine.unroll(agent, p, agent.start(p, jax.random.key(0)), e), params, experience
    )
    assert output.value.shape == (4, 2) and not calls


def _blank(spec):
    inputs = jax.tree.map(lambda leaf: jnp.zeros((4, 2, *leaf.shape), leaf.dtype), spec.example_input())
    flat, never, keys = jnp.zeros((4, 2)), jnp.zeros((4, 2), bool), jax.random.split(jax.random.key(0), 2)
    return engine.Rollout(inputs, flat, inputs.obs, flat, flat, flat, flat, (), keys, never, never)


@pytest.mark.parametrize("plan", [{"rounds": -1}, {"streams": 0}, {"episodes": 0}])
def test_invalid_plans_are_refused(plan):
    ((name, value),) = plan.items()
    with pytest.raises(ValueError, match=f"plan.{name} is {value}; it must be at least"):
        Plan(**plan)


def test_recurrent_policy_sees_the_reward_of_the_last_step_of_an_episode():
    """Through the real RL² network: another reward at an episode end changes what is said right after it."""
    meta = tiny.algo("rl2")
    params = meta.learner.init(jax.random.key(0))
    experience = engine.rollout(meta.learner, params, (), tiny.family().env, _goal(), jax.random.key(1), episodes=2)
    changed = experience.inputs.prev_reward.at[4].add(1.0)
    other = experience.replace(inputs=experience.inputs.replace(prev_reward=changed))
    before, after = (engine.unroll(meta.learner, params, (), e).dist.loc for e in (experience, other))
    np.testing.assert_array_equal(before[:4], after[:4])
    assert not np.allclose(before[4], after[4])


def test_a_policy_has_no_recurrent_state():
    network = nets.recurrent_actor_critic(Counter().spec, "gru", hidden=4)
    with pytest.raises(ValueError, match="use inner.memory"):
        inner.policy(network)


@pytest.mark.parametrize("cell", ["gru", "associative"])
def test_values_of_a_network_of_their_own_are_those_of_stepping_it(cell):
    """Through an environment that ends early, where a network that is not needed to act sees only what happened."""
    env = Counter(4, terminates=True)
    network = nets.recurrent_actor_critic(env.spec, cell, hidden=4)
    both = nets.scale_value(nets.separate_value(network, network), 3.0)
    learner, critic = inner.memory(both), inner.critic(both)
    params = jax.tree.map(lambda leaf: leaf + 0.1, learner.init(jax.random.key(0)))
    experience = engine.rollout(learner, params, (), env, jnp.float32(3), jax.random.key(1), 2, episodes=2)
    carry = learner.reset(params, (), jax.random.key(0))
    assert isinstance(carry, dict) == (cell == "gru")  # that of both networks, or of the one that acts

    stepped = inner.memory(network._replace(unroll=None))
    value = 3.0 * engine.unroll(stepped, params["value"], (), experience).value
    assert np.abs(value[np.asarray(experience.valid) > 0]).min() > 0.01
    assert (critic is None) == (cell == "gru")
    if critic is not None:
        np.testing.assert_array_equal(experience.output.value, 0.0)
        np.testing.assert_allclose(critic(params, experience), value, rtol=1e-4)
        return
    for ours in (experience.output.value, engine.unroll(learner, params, (), experience).value):
        np.testing.assert_allclose(ours, value, rtol=1e-4)


def test_a_trial_whose_critic_is_not_finite_is_left_out():
    env = Counter()
    network = nets.recurrent_actor_critic(env.spec, "associative", hidden=4)
    network = nets.separate_value(network, network)
    learner, critic = inner.memory(network), inner.critic(network)
    params = learner.init(jax.random.key(0))
    collect = lambda key: engine.collect(learner, params, env, jnp.float32(1), key, jm.Plan(0, 2, 2))  # noqa: E731
    trials = jax.vmap(collect)(jax.random.split(jax.random.key(1), 3))
    batch = outer.Batch(trials, jax.random.split(jax.random.key(2), 3), jnp.ones(3))
    spoiled = trials.rounds.reset_key[1, 0]

    def broken(params, experience):
        odd = (jax.random.key_data(experience.reset_key) == jax.random.key_data(spoiled)).all()
        return jnp.where(odd, jnp.nan, critic(params, experience))

    whole, left = (with_values(learner, one, params, batch) for one in (critic, broken))
    np.testing.assert_array_equal(whole.weight, [1, 1, 1])
    np.testing.assert_array_equal(left.weight, [1, 0, 1])
    assert np.abs(whole.data.rounds.output.value).max() == 0 and not left.data.rounds.valid[1].any()
    np.testing.assert_array_equal(left.data.rounds.reward[::2], whole.data.rounds.reward[::2])


def _goal(where=0.3):
    return jax.tree.map(lambda leaf: jnp.full_like(leaf, where), tiny.family().sample(jax.random.key(0)))


def test_the_carry_counts_in_how_many_trials_are_stepped_in_parallel():
    """An environment state of 4 bytes beside a carry: no carry, one that fits, one that exceeds the cache."""
    env, plan = Counter(), Plan(streams=2)
    chunk = lambda carry: engine.stepping_chunk(env, jnp.zeros(8), plan, carry)  # noqa: E731
    cache = devices.CACHE_BYTES
    assert chunk(0) == cache // 8
    assert chunk(60) == cache // (2 * 64)
    # fewer than 128 streams fit: up to 128 of them may take four caches
    assert chunk(4092) == 64
    assert chunk(16 * 1024) == 4 * cache // (2 * (16 * 1024 + 4))
    assert chunk(10**9) == 1


def test_the_size_of_a_carry_counts_keys_and_needs_no_arrays():
    learner = spy()._replace(init=lambda key: jnp.zeros(3), reset=lambda params, fast, key: (params, key))
    assert engine.carry_bytes(learner, jax.ShapeDtypeStruct((3,), jnp.float32)) == 12 + 8
    assert engine.carry_bytes(tiny.algo("maml").learner, tiny.algo("maml").learner.init(jax.random.key(0))) == 0
