"""Lead policies: the exact derivative of a closed case, whose critic a decision has, and what a library must be."""

from __future__ import annotations

import dataclasses
import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxmeta as jm
from jaxmeta import inner, nets, outer, rl, tasks
from jaxmeta.algos.hierarchy.lead_policy import agent as lead_agent
from jaxmeta.core.learner import Learner, deterministic
from jaxmeta.types import Discrete, Input, Output, Rollout, Spec, Trial
from tests import tiny

KEY = jax.random.key(0)
LENGTH = 3


def constant(num: int) -> Learner:
    """A policy whose params are its logits [num], in every state."""
    spec = Spec((1,), Discrete(num), LENGTH)
    return inner.policy(
        nets.Network(
            init=lambda key: jnp.zeros(num),
            apply=lambda params, carry, inputs: (carry, Output(params, jnp.zeros(()))),
            initial_state=lambda: (),
            head=nets.head_for(spec.action),
        )
    )


@pytest.mark.parametrize(("chance", "theta"), [(0.1, 0.0), (0.3, 1.2), (0.9, -0.7)])
def test_the_derivative_of_hippos_closed_case_through_the_loss(chance, theta):
    # one state; option 0 acts 1 with probability e, option 1 with 1 - e; the reward is the action, and q is the
    # probability of option 1 for all p steps: J = p (e (1 - q) + (1 - e) q)
    logits = jnp.log(jnp.array([[1 - chance, chance], [chance, 1 - chance]]))
    agent = inner.lead(constant(2), constant(2), [(constant(2), logits[0])], duration=LENGTH)
    params = inner.LeadParams(lead=jnp.array([0.0, theta]), new=logits[1])
    loss = outer.trial_loss(agent, rl.ratio, rl.plain_returns())
    drawn = np.array([(z, *actions) for z in (0, 1) for actions in itertools.product((0, 1), repeat=LENGTH)])

    def trial_of(option, actions):
        zero, column = jnp.zeros((LENGTH, 1)), actions[:, None]
        inputs = Input(zero[..., None], column, zero, zero, zero[..., None], zero.at[0].set(1.0))
        decision = rl.Decision.of(jnp.full((LENGTH, 1), option), zero.at[0].set(1.0), Output((), zero))
        none = jnp.zeros(zero.shape, bool)
        experience = Rollout(
            inputs, column, zero[..., None], column.astype(jnp.float32), zero + 1.0, zero.at[-1].set(1.0), zero,
            Output((), zero, decision), jax.random.split(KEY, 1), none, none.astype(jnp.int8),
        )  # fmt: skip
        experience = experience.replace(output=jm.unroll(agent, params, inner.LeadFast((), ()), experience))
        return Trial(jax.tree.map(lambda leaf: leaf[None], experience), KEY, jax.random.split(KEY, 0))

    @jax.jit
    def slope(params, drawn, weight):
        trials = jax.vmap(trial_of)(drawn[:, 0], drawn[:, 1:])
        mean = lambda params: jnp.sum(weight * jax.vmap(lambda trial: loss(params, trial)[0])(trials))  # noqa: E731
        return jax.grad(mean)(params)

    q = 1 / (1 + np.exp(-theta))
    ones = drawn[:, 1:].sum(1)
    e = np.where(drawn[:, 0] > 0, 1 - chance, chance)
    weight = np.where(drawn[:, 0] > 0, q, 1 - q) * e**ones * (1 - e) ** (LENGTH - ones)
    np.testing.assert_allclose(weight.sum(), 1.0, rtol=1e-12)
    found = slope(params, jnp.asarray(drawn, jnp.int32), jnp.asarray(weight, jnp.float32))
    exact = LENGTH * (1 - 2 * chance) * q * (1 - q)
    np.testing.assert_allclose(-LENGTH * found.lead, [-exact, exact], atol=1e-6)
    # the new policy acts with probability q: its derivative is p q e (1 - e)
    np.testing.assert_allclose(-LENGTH * found.new[1], LENGTH * q * chance * (1 - chance), atol=1e-6)


FAMILY = tiny.family()
CONFIG = tiny.ALGOS["lead-policy"]


@pytest.fixture(scope="module")
def walk():
    """A round of a lead policy over two known policies and a new one."""
    library = tiny.library(FAMILY)
    meta = jm.lead_policy(FAMILY, dataclasses.replace(CONFIG, streams=8), library=library)
    params = meta.learner.init(KEY)
    params = params.replace(new=jax.tree.map(lambda leaf: leaf + 0.1, params.new))

    @jax.jit
    def run(params):
        fast = meta.learner.start(params, KEY)
        return jm.rollout(meta.learner, params, fast, FAMILY.env, FAMILY.sample(KEY), KEY, 8)

    return library, params, run(params)


def test_the_value_is_the_new_policys_whoever_acts_and_the_library_acts_as_it_did(walk):
    library, params, experience = walk
    option, output = experience.output.aux.option, experience.output
    assert set(np.unique(option)) == {0, 1, 2}
    policy = inner.policy(nets.actor_critic(FAMILY.env.spec, CONFIG.hidden, value=True))
    own = jax.vmap(jax.vmap(lambda inputs: policy.act(params.new.policy, (), (), inputs)[1]))(experience.inputs)
    np.testing.assert_allclose(output.value, own.value, atol=1e-6)
    theirs = [
        jax.vmap(jax.vmap(lambda inputs, one=one: one.learner.act(one.params, (), (), inputs)[1]))(experience.inputs)
        for one in library
    ]
    assert np.abs(output.value - theirs[0].value).max() > 0.01
    for index, dist in enumerate([*(one.dist for one in theirs), own.dist]):
        here = option == index
        np.testing.assert_allclose(output.dist.acting.loc[here], dist.loc[here], atol=1e-6)
    chex.assert_trees_all_close(output.dist.new, own.dist, atol=1e-6)


def test_the_new_policy_learns_from_the_steps_on_which_it_acted_and_its_values_from_all(walk):
    *_, experience = walk
    acted = (experience.output.aux.option == 2) & (experience.valid > 0)
    seen = experience.replace(output=experience.output.replace(aux=acted.astype(jnp.float32)))
    whole = rl.value_baseline(0.9, 0.8, normalize=False)(experience)
    found = inner.own_steps(rl.value_baseline(0.9, 0.8, normalize=False))(seen)
    assert not np.any(found.advantage[~np.asarray(acted)])
    mine = np.asarray(whole.advantage)[np.asarray(acted)]
    np.testing.assert_allclose(found.advantage[np.asarray(acted)], (mine - mine.mean()) / mine.std(), atol=1e-5)
    np.testing.assert_array_equal(found.target, whole.target)


def test_a_pull_is_towards_the_meta_learned_policy():
    policy = constant(2)
    zero, action = jnp.zeros((4, 1)), jnp.array([[0], [1], [1], [0]])
    inputs = Input(zero[..., None], action, zero, zero, zero[..., None], zero)
    start, none = jnp.array([0.4, -0.3]), jnp.zeros(zero.shape, bool)
    experience = Rollout(
        inputs, action, zero[..., None], action * 1.0, zero + 1.0, zero.at[-1].set(1.0), zero,
        Output(jnp.broadcast_to(start, (4, 1, 2)), zero), jax.random.split(KEY, 1), none, none.astype(jnp.int8),
    )  # fmt: skip

    def adapted(pull, steps):
        config = inner.ProximalConfig(learning_rate=0.01, steps=steps)
        learner = inner.proximal(policy, rl.plain_returns(), config, meta_learned=True, pull=pull)
        params = inner.GradientParams(start, ())
        return learner.adapt(params, learner.start(params, KEY), experience, KEY).policy

    # at the start the divergence has no gradient
    np.testing.assert_allclose(adapted(5.0, 1), adapted(0.0, 1), atol=1e-6)
    free, held = adapted(0.0, 100) - start, adapted(50.0, 100) - start
    assert 0.0 < held[1] - held[0] < 0.2 * (free[1] - free[0])
    with pytest.raises(ValueError, match="pull is 1.0; it is towards meta-learned params"):
        inner.proximal(policy, rl.plain_returns(), pull=1.0)


def test_specialists_are_a_multi_task_agent_on_one_task_each():
    meta = tiny.algo("multi-task")
    family = tiny.observed_by("multi-task", FAMILY)
    params = meta.learner.init(KEY)
    policies = outer.specialists(family, meta.learner, params)
    assert len(policies) == 3
    seen = FAMILY.env.spec.example_input().replace(obs=jnp.array([0.2, -0.1]))
    for index, one in enumerate(policies):
        output = one.learner.act(one.params, (), (), seen)[1]
        told = seen.replace(obs=jnp.concatenate([seen.obs, jax.nn.one_hot(index, 3)]))
        chex.assert_trees_all_equal(output, meta.learner.act(params, (), (), told)[1])


def test_a_hypernetwork_changes_the_new_policy_after_the_first_round_only():
    learner = lead_agent(FAMILY.env.spec, tiny.library(FAMILY), dataclasses.replace(CONFIG, meta_policy="hypernetwork"))
    params = learner.init(KEY)
    params = params.replace(new=params.new.replace(generator=params.new.generator + 1.0))
    fast = learner.start(params, KEY)
    chex.assert_trees_all_equal(fast.new.agent.policy, params.new.agent.policy)
    experience = jm.rollout(learner, params, fast, FAMILY.env, FAMILY.sample(KEY), KEY, 2)
    fast = learner.adapt(params, fast, experience, KEY)
    encoder = nets.round_encoder(FAMILY.env.spec, 16)
    shift = encoder.apply(params.new.encoder, experience).sum()
    assert abs(float(shift)) > 1e-3
    chex.assert_trees_all_close(
        fast.new.agent.policy, jax.tree.map(lambda leaf: leaf + shift, params.new.agent.policy), atol=1e-5
    )


def refusals():
    """By case, a library that cannot be and the message."""
    other = tasks.bandit()
    blind = tiny.library(FAMILY)
    recurrent = tiny.algo("rl2", FAMILY).learner
    oracle = outer.Expert(blind[0].learner, blind[0].params, observe=lambda obs, task: obs)
    certain = outer.Expert(deterministic(blind[0].learner), blind[0].params)
    return {
        "empty": ([], "library is empty; a lead policy needs at least 1 known policy"),
        "another spec": (
            tiny.library(other),
            r"library\[0\] cannot act on these tasks, which have observations \(2,\)",
        ),
        "a memory": ([*blind, outer.Expert(recurrent, recurrent.init(KEY))], r"library\[2\] adapts or has a memory"),
        "informed": ([oracle], r"library\[0\] observes the task"),
        "another distribution": ([certain], r"library\[0\] has actions with _Mode; here they are Independent"),
    }


@pytest.mark.parametrize("case", ["empty", "another spec", "a memory", "informed", "another distribution"])
def test_a_library_that_cannot_be_is_refused_in_one_line(case):
    library, message = refusals()[case]
    with pytest.raises(ValueError, match=message) as found:
        jm.lead_policy(FAMILY, CONFIG, library=library)
    assert "\n" not in str(found.value)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: jm.OptionCriticConfig(num_options=1), "num_options is 1; there must be at least 2"),
        (lambda: jm.OptionCriticConfig(deliberation_cost=-1.0), "deliberation_cost is -1.0; it must not be negative"),
        (lambda: jm.LeadPolicyConfig(rounds=0), "rounds is 0; it must be at least 1"),
        (lambda: jm.option_critic(FAMILY, jm.OptionCriticConfig(masters="per-task")), "train_tasks is None"),
        (
            lambda: jm.lead_policy(
                FAMILY, dataclasses.replace(CONFIG, duration=3), library=tiny.library(FAMILY)
            ),
            "duration is 3; it must be at least 1 and divide the horizon, which is 4",
        ),
        (
            lambda: jm.option_critic(
                tiny.observed_by("multi-task", FAMILY), jm.OptionCriticConfig(masters="per-task", num_tasks=4)
            ),
            "num_tasks is 4; with masters per-task it must be a multiple of the 3 tasks times minibatches, 12",
        ),
    ],
)  # fmt: skip
def test_bad_input_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
