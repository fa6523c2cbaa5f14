"""A master over sub-policies: when it decides, what it receives, and the cases in which it is an agent of one level."""

from __future__ import annotations

import dataclasses
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxmeta as jm
from jaxmeta import inner, nets, outer, rl
from jaxmeta.core.learner import Learner, deterministic
from jaxmeta.types import Discrete, Output, Spec, Step

KEY = jax.random.key(0)
HORIZON, DURATION, EPISODES, STREAMS = 6, 3, 2, 4


@dataclasses.dataclass(frozen=True)
class Row:
    """Counts steps and pays the action times the time; action 1 at `end` or later ends the episode."""

    end: int = 3
    spec = Spec((2,), Discrete(2), HORIZON, terminates=True)

    def reset(self, key, task):
        start = jnp.array([0.0, 1.0]) * jax.random.uniform(key)
        return start, start

    def step(self, key, state, action, task):
        state = state + jnp.array([1.0, 0.0])
        ends = (state[0] > self.end) & (action == 1)
        return state, Step(obs=state, reward=state[0] * action, terminated=ends)


FAMILY = jm.TaskFamily(Row(), jax.random.uniform, jax.random.uniform, encode=lambda task: task[None])
POLICY = inner.policy(nets.actor_critic(FAMILY.env.spec, (4,), value=True))


def remembering():
    """A master whose logits say what it received: a number from its reset key, decisions, last choice and reward."""

    def act(params, fast, carry, inputs):
        number, count = carry
        logits = jnp.stack([number, count, inputs.prev_action.astype(jnp.float32), inputs.prev_reward])
        return (number, count + 1.0), Output(dist=logits, value=jnp.zeros(()))

    def adapt(params, fast, experience, key):
        return experience.inputs.prev_reward, jm.unroll(master, params, fast, experience).dist, experience.output.dist

    master = Learner(
        init=lambda key: (),
        start=lambda params, key: (),
        reset=lambda params, fast, key: (jax.random.uniform(key), jnp.zeros(())),
        act=act,
        adapt=adapt,
        head=lambda output: nets.head_for(Discrete(2))(output.replace(dist=jnp.zeros_like(output.dist[..., :2]))),
    )
    return master


@pytest.fixture(scope="module")
def walk():
    """A round of a hierarchy with a master that remembers, and what that receives to adapt."""
    agent = inner.hierarchy(remembering(), POLICY, 2, DURATION)
    params = agent.init(KEY)

    @jax.jit
    def run(key):
        experience = jm.rollout(agent, params, (), FAMILY.env, jnp.zeros(()), key, STREAMS, EPISODES)
        return experience, agent.adapt(params, (), experience, key)

    return agent, params, *run(KEY)


def test_decisions_are_at_the_start_of_macro_steps_and_the_clock_restarts_after_an_early_end(walk):
    _, _, experience, _ = walk
    decision, valid = experience.output.aux, np.asarray(experience.valid)
    due = np.arange(HORIZON * EPISODES) % HORIZON % DURATION == 0
    # an episode that ends within a macro-step, and one that does not
    lengths = valid.reshape(EPISODES, HORIZON, STREAMS).sum(1)
    assert lengths[0].min() < 6 and {4, 5} & set(lengths[0])
    np.testing.assert_array_equal(decision.decided[valid > 0], np.broadcast_to(due[:, None], valid.shape)[valid > 0])
    option = np.asarray(decision.option)
    for time, stream in np.argwhere(valid > 0):
        if not due[time]:
            assert option[time, stream] == option[time - 1, stream]
    assert set(option[valid > 0]) == {0, 1}


def test_the_master_receives_its_last_choice_and_the_rewards_since(walk):
    _, _, experience, (_, again, stored) = walk
    macro = rl.macro_steps(experience, DURATION)
    number, count, action, reward = np.moveaxis(np.asarray(macro.output.dist), -1, 0)
    valid = np.asarray(macro.valid) > 0
    np.testing.assert_array_equal(action[valid], np.asarray(macro.inputs.prev_action)[valid])
    np.testing.assert_allclose(reward[valid], np.asarray(macro.inputs.prev_reward)[valid])
    np.testing.assert_array_equal(count[valid], (np.cumsum(valid, 0) - 1)[valid])
    assert len(np.unique(number)) == STREAMS and reward.max() > 0
    # it adapts to what it received, with the reset keys that it received
    np.testing.assert_allclose(np.asarray(again)[valid], np.asarray(stored)[valid], rtol=1e-6)


def test_a_replay_repeats_the_master_along_the_stored_choices(walk):
    agent, params, experience, _ = walk
    again = jax.jit(lambda params: jm.unroll(agent, params, (), experience))
    chex.assert_trees_all_close(again(params), experience.output, rtol=1e-5, atol=1e-8)
    changed = again(params.replace(policies=jax.tree.map(lambda leaf: leaf + 1.0, params.policies)))
    chex.assert_trees_all_equal(changed.aux.choice, experience.output.aux.choice)
    chex.assert_trees_all_close(changed.aux.output, experience.output.aux.output, rtol=1e-6)
    assert not np.allclose(changed.dist, experience.output.dist)


def test_with_one_choice_the_gradient_is_that_of_its_policy_alone(walk):
    """One option is PPO: the loss of a hierarchy is that of the policy that acts, and others have no gradient."""
    agent, params, experience, _ = walk
    agent, estimate = agent._replace(adapt=lambda params, fast, experience, key: fast), rl.value_baseline(0.9, 0.8)
    trial = lambda rounds: jm.types.Trial(  # noqa: E731
        jax.tree.map(lambda leaf: leaf[None], rounds), KEY, jax.random.split(KEY, 0)
    )
    make = lambda learner: outer.trial_loss(learner, rl.clipped(0.2), estimate, value_weight=0.5, entropy_weight=0.1)  # noqa: E731
    decision = experience.output.aux
    only = experience.replace(
        output=experience.output.replace(aux=rl.Decision.of(decision.option * 0 + 1, decision.decided, decision.output))
    )
    found = jax.jit(jax.grad(lambda params: make(agent)(params, trial(only))[0]))(params).policies
    theta = jax.tree.map(lambda leaf: leaf[1], params.policies)
    flat = only.replace(output=only.output.replace(aux=()))
    expected = jax.jit(jax.grad(lambda theta: make(POLICY)(theta, trial(flat))[0]))(theta)
    chex.assert_trees_all_close(jax.tree.map(lambda leaf: leaf[1], found), expected, rtol=1e-5, atol=1e-8)
    assert max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(expected)) > 1e-3
    assert all((np.asarray(leaf[0]) == 0.0).all() for leaf in jax.tree.leaves(found))


def one_action() -> Learner:
    """A policy whose params are the action that it always takes."""

    def act(theta, fast, carry, inputs):
        return carry, Output(dist=jnp.where(jnp.arange(2) == theta, 0.0, -jnp.inf), value=jnp.zeros(()))

    return POLICY._replace(init=lambda key: jnp.zeros((), jnp.int32), act=act)


def test_macro_steps_of_length_one_over_single_actions_are_ppo_over_the_actions():
    estimate = rl.value_baseline(0.9, 0.8)
    ppo: Any = inner.proximal(POLICY, estimate, inner.ProximalConfig(steps=2))
    assert rl.macro_spec(FAMILY.env.spec, 2, 1) == dataclasses.replace(FAMILY.env.spec)
    agent = inner.hierarchy(ppo, one_action(), 2, duration=1)
    params = agent.init(KEY).replace(policies=jnp.arange(2))
    start = agent.start(params, KEY)
    chex.assert_trees_all_equal(start, ppo.start(ppo.init(KEY), KEY))

    @jax.jit
    def both():
        experience = jm.rollout(agent, params, start, FAMILY.env, jnp.zeros(()), KEY, STREAMS)
        flat = experience.replace(output=experience.output.aux.output)
        return experience, agent.adapt(params, start, experience, KEY), ppo.adapt(params.master, start, flat, KEY)

    experience, ours, theirs = both()
    valid = np.asarray(experience.valid) > 0
    np.testing.assert_array_equal(experience.action[valid], experience.output.aux.option[valid])
    chex.assert_trees_all_close(ours, theirs, rtol=1e-6)
    moved = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), ours.policy, start.policy)
    assert max(jax.tree.leaves(moved)) > 1e-3


def test_random_choices_are_part_of_the_distribution():
    probabilities = np.array([0.7, 0.2, 0.1])
    master = inner.policy(nets.actor_critic(Spec((2,), Discrete(3), 4)))
    output = Output(dist=jnp.log(jnp.array(probabilities)), value=jnp.zeros(()))
    found = inner.exploring(master, 0.1).head(output)
    expected = 0.9 * probabilities + 0.1 / 3
    np.testing.assert_allclose(np.exp(found.log_prob(jnp.arange(3))), expected, rtol=1e-6)
    drawn = np.bincount(np.asarray(found.sample(seed=KEY, sample_shape=(20_000,))), minlength=3) / 20_000
    np.testing.assert_allclose(drawn, expected, atol=4 * 0.5 / np.sqrt(20_000))
    never = inner.exploring(master, 0.0).head(output)
    np.testing.assert_allclose(np.exp(never.log_prob(jnp.arange(3))), probabilities, rtol=1e-6)


def test_by_mode_sub_policies_are_chosen_and_not_drawn():
    master = inner.policy(nets.actor_critic(rl.macro_spec(FAMILY.env.spec, 2, DURATION), (4,), value=True))
    agent = inner.hierarchy(inner.exploring(master, 0.5), POLICY, 2, DURATION)
    params, inputs = agent.init(KEY), FAMILY.env.spec.example_input().replace(first=jnp.ones(()))

    def chosen(agent):
        def one(key):
            return agent.act(params, (), agent.reset(params, (), key), inputs)[1].aux.option

        return set(jax.vmap(one)(jax.random.split(KEY, 32)).tolist())

    assert len(chosen(agent)) == 2 and len(chosen(deterministic(agent))) == 1
