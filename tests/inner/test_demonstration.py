"""Inner losses on demonstrations: the step with a closed form, and what reaches a loss learned from observations."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxmeta as jm
from jaxmeta import inner, nets, outer
from jaxmeta.core.learner import Learner
from jaxmeta.types import Continuous, Discrete, Output, Plan, Spec, Step

LIMIT = 2.0


@dataclasses.dataclass(frozen=True)
class Line:
    """A point on a line, with a random start; the task is a goal, a scalar."""

    spec = Spec(observation=(1,), action=Continuous(1, LIMIT), horizon=4)

    def reset(self, key, task):
        position = jax.random.normal(key, (1,))
        return position, position

    def step(self, key, state, action, task):
        position = state + 0.1 * action
        return position, Step(obs=position, reward=-jnp.abs(position - task)[0], terminated=jnp.array(False))


def line() -> jm.TaskFamily:
    sample = lambda key: jax.random.uniform(key, (), minval=-3.0, maxval=3.0)  # noqa: E731
    return jm.TaskFamily(Line(), sample, sample, encode=lambda task: task[None])


FAMILY, PLAN, GAIN = line(), Plan(rounds=1), 1.5


def linear() -> Learner:
    """The policy a = -gain s + shift, in which `gain` and `shift` are params."""
    idle = jm.references.base.certain(lambda inputs: inputs.obs)

    def act(params, fast, carry, inputs):
        return carry, Output(dist=params["shift"] - params["gain"] * inputs.obs, value=jnp.zeros(()))

    init = lambda key: {"gain": jnp.float32(GAIN), "shift": jnp.array([-0.7])}  # noqa: E731
    return idle._replace(init=init, act=act)


def expert() -> outer.Expert:
    """a = gain (goal - s), which observes the goal."""
    learner = jm.references.base.certain(lambda inputs: GAIN * (inputs.obs[1:] - inputs.obs[:1]))
    return outer.Expert(learner, (), lambda obs, task: jnp.append(obs, task))


def one_step() -> Learner:
    """One step of half the squared units of the loss: 1/2 where actions are measured in units of 1."""
    rule = inner.adapt_only(inner.sgd(0.5 * LIMIT**2), "shift")
    return inner.descent(linear(), inner.cloning_loss(linear(), Continuous(1, LIMIT)), rule)


def demonstration(task, seed):
    demonstrate = outer.demonstrator(expert(), FAMILY.env, PLAN)
    return demonstrate(jnp.float32(task), jax.random.key(seed))


@pytest.fixture(scope="module")
def shift_after():
    """(goal, seed) -> the shift after one step on a demonstration."""
    learner = one_step()
    params = learner.init(jax.random.key(0))

    @jax.jit
    def shift(task, key):
        shown = outer.demonstrator(expert(), FAMILY.env, PLAN)(task, key)
        fast = learner.adapt(params, learner.start(params, key), shown, key)
        return fast.policy["shift"][0], fast.policy["gain"]

    return shift


@pytest.mark.parametrize("goal", [-2.5, 0.0, 1.7])
def test_one_step_on_any_demonstration_is_exact(goal, shift_after):
    for seed in range(5):
        shift, gain = shift_after(jnp.float32(goal), jax.random.key(seed))
        assert shift == pytest.approx(GAIN * goal, abs=1e-5) and gain == GAIN


def test_a_demonstration_of_another_task_costs_the_squared_difference(shift_after):
    """The cost in every state is (gain (g - g'))²: what the agent imitates is what it was shown."""
    goals = np.linspace(-2.0, 2.0, 5)
    for shown, asked in zip(goals, np.roll(goals, 1), strict=True):
        shift, _ = shift_after(jnp.float32(shown), jax.random.key(0))
        query = demonstration(asked, 1)
        action = shift - GAIN * query.inputs.obs
        np.testing.assert_allclose((action - query.action) ** 2, (GAIN * (shown - asked)) ** 2, rtol=1e-4)


def test_discrete_actions_are_cloned_by_their_likelihood():
    spec = Spec(observation=(1,), action=Discrete(3), horizon=4)
    policy = inner.policy(nets.actor_critic(spec, hidden=()))
    params, shown = policy.init(jax.random.key(0)), demonstration(1.0, 0)
    shown = shown.replace(action=jnp.array([[0], [2], [1], [1]]), valid=jnp.array([[1.0], [1.0], [1.0], [0.0]]))
    logits = jax.vmap(lambda obs: policy.act(params, (), (), spec.example_input().replace(obs=obs))[1].dist)(
        shown.inputs.obs[:, 0]
    )
    expected = -np.mean([jax.nn.log_softmax(logits)[time, action] for time, action in enumerate([0, 2, 1])])
    shown = shown.replace(inputs=shown.inputs.replace(prev_action=jnp.zeros((4, 1), jnp.int32)))
    assert inner.cloning_loss(policy, spec.action)(params, shown) == pytest.approx(expected, rel=1e-5)


@pytest.fixture(scope="module")
def observer():
    """The fast state of an agent after adapting to a demonstration by observations, and a function to adapt again."""
    spec = FAMILY.env.spec
    criterion = nets.temporal_loss(inner.feature_size(spec), hidden=(4,), outputs=2)
    policy, loss = inner.observing(nets.actor_critic(spec, (4,)), criterion, spec)
    learner = inner.descent(policy, loss, inner.adapt_only(inner.sgd(0.1), "policy"))
    params = learner.init(jax.random.key(0))
    start = learner.start(params, jax.random.key(0))
    adapt = jax.jit(lambda shown: learner.adapt(params, start, shown, jax.random.key(0)).policy)
    return params, adapt


def differ(one, other) -> bool:
    return any((a != b).any() for a, b in zip(*map(jax.tree.leaves, (one, other)), strict=True))


def test_neither_actions_nor_rewards_reach_a_loss_of_observations(observer):
    params, adapt = observer
    shown = demonstration(1.0, 0)
    found = adapt(shown)
    assert differ(found["policy"], params.policy["policy"]) and not differ(found["loss"], params.policy["loss"])
    inputs = shown.inputs.replace(
        prev_action=shown.inputs.prev_action + 3.0, prev_reward=shown.inputs.prev_reward - 5.0
    )
    output = jax.tree.map(lambda leaf: leaf + 1.0, shown.output)
    other = shown.replace(action=-shown.action, inputs=inputs, output=output, reward=shown.reward + 1.0)
    assert not differ(adapt(other), found)


def test_each_observation_of_a_demonstration_reaches_the_loss(observer):
    _, adapt = observer
    shown = demonstration(1.0, 0)
    for time in range(4):
        obs = shown.inputs.obs.at[time].add(1.0)
        assert differ(adapt(shown.replace(inputs=shown.inputs.replace(obs=obs))), adapt(shown))


def test_invalid_steps_have_no_effect_on_a_temporal_loss():
    loss = nets.temporal_loss(size=2, hidden=(3,), width=3)
    params = loss.init(jax.random.key(0))
    features = jax.random.normal(jax.random.key(1), (5, 2))
    valid = jnp.array([1.0, 1.0, 1.0, 0.0, 0.0])
    found, other = (loss.apply(params, some, valid) for some in (features, features.at[3:].add(7.0)))
    np.testing.assert_array_equal(found[:3], other[:3])
    assert (loss.apply(params, features.at[2].add(1.0), valid)[1:3] != found[1:3]).all()  # neighbours are compared


def test_repeated_steps_are_adaptations_to_the_same_round():
    once = inner.descent(linear(), inner.cloning_loss(linear(), Continuous(1, LIMIT)), inner.sgd(0.1))
    thrice = inner.repeated(once, 3)
    params, shown, key = once.init(jax.random.key(0)), demonstration(1.0, 0), jax.random.key(0)
    fast = once.start(params, key)
    for _ in range(3):
        fast = once.adapt(params, fast, shown, key)
    together = thrice.adapt(params, thrice.start(params, key), shown, key)
    for name in ("gain", "shift"):
        np.testing.assert_allclose(together.policy[name], fast.policy[name], rtol=1e-6)
