"""Options: the policy gradient of a small MDP by finite differences, and the cases in which they are something else."""

from __future__ import annotations

import dataclasses
import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxmeta as jm
from jaxmeta import inner, nets, outer, rl
from jaxmeta.core.learner import deterministic
from jaxmeta.types import Discrete, Input, Output, Rollout, Spec, Trial
from tests import tiny

KEY = jax.random.key(0)
HORIZON, COST = 3, 0.3
SPEC = Spec((2,), Discrete(2), HORIZON)
REWARD = np.array([[0.5, -1.0], [2.0, 0.3]])  # [state, action]
NEXT = np.array([[0.8, 0.3], [0.1, 0.6]])  # probability of state 1 by [state, action]
AGENT = inner.options(nets.options(SPEC, 2, hidden=()), 2)


def tables(params):
    """Logits by state of actions [S, K, A], terminations [S, K] and the policy over options [S, K], in float64."""
    layers = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)["params"]
    act, master = layers["options_policy"]["Dense_0"], layers["heads_master"]
    actions = np.einsum("ksa->ska", act["kernel"]) + act["bias"]
    stop = layers["options_stop"]["kernel"] + layers["options_stop"]["bias"]
    return actions, stop, master["kernel"][0] + master["bias"][0]


def softmax(logits):
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def expected_return(params):
    """The return of an episode from state 0, less the costs of terminations, by dynamic programming."""
    actions, stop, choose = tables(params)
    act, over, ends = softmax(actions), softmax(choose), 1 / (1 + np.exp(-stop))
    value = np.zeros((2, 2))  # by [state, option of the previous step]
    for _ in range(HORIZON):
        after = NEXT[..., None] * value[1] + (1 - NEXT[..., None]) * value[0]  # [S, A, K]
        q = np.einsum("ska,sa->sk", act, REWARD) + np.einsum("ska,sak->sk", act, after)
        begun = (over * q).sum(-1)
        value = (1 - ends) * q + ends * (begun[:, None] - COST)
    return begun[0]


def trajectories():
    """All states, options, decisions and actions of an episode, [M, T] each."""
    steps = [(0, 0), (1, 0), (0, 1), (1, 1)]  # (option, decided): where it did not decide, the option is the previous
    rows = []
    for states in itertools.product((0, 1), repeat=HORIZON - 1):
        for drawn in itertools.product(steps, repeat=HORIZON):
            options, decided = zip(*drawn, strict=True)
            goes_on = all(decided[t] or options[t] == options[t - 1] for t in range(1, HORIZON))
            if decided[0] and goes_on:
                rows += [
                    ((0, *states), options, decided, actions) for actions in itertools.product((0, 1), repeat=HORIZON)
                ]
    return np.array(rows).transpose(1, 0, 2)


def probabilities(params, states, options, decided, actions):
    """The probability of each trajectory, float64 [M]."""
    act, stop, choose = tables(params)
    act, over, ends = softmax(act), softmax(choose), 1 / (1 + np.exp(-stop))
    total = np.ones(len(states))
    for time in range(HORIZON):
        state, option, action = states[:, time], options[:, time], actions[:, time]
        if time:
            ended = ends[state, options[:, time - 1]]
            total *= np.where(decided[:, time] > 0, ended, 1 - ended)
            one = NEXT[states[:, time - 1], actions[:, time - 1]]
            total *= np.where(state > 0, one, 1 - one)
        total *= np.where(decided[:, time] > 0, over[state, option], 1.0) * act[state, option, action]
    return total


def trial_of(params, states, options, decided, actions):
    """The trial [R = 1, T, E = 1] of one trajectory."""
    column = lambda values, kind: jnp.asarray(values, kind)[:, None]  # noqa: E731
    zero = jnp.zeros((HORIZON, 1))
    obs = jax.nn.one_hot(column(states, jnp.int32), 2)
    inputs = Input(obs, column(actions, jnp.int32), zero, zero, obs, zero.at[0].set(1.0))
    decision = rl.Decision.of(column(options, jnp.int32), column(decided, jnp.float32), Output((), zero))
    none = jnp.zeros(zero.shape, bool)
    experience = Rollout(
        inputs=inputs, action=column(actions, jnp.int32), next_obs=obs, reward=jnp.asarray(REWARD, jnp.float32)[
            column(states, jnp.int32), column(actions, jnp.int32)
        ], valid=jnp.ones_like(zero), done=zero.at[-1].set(1.0), terminated=zero, output=Output((), zero, decision),
        reset_key=jax.random.split(KEY, 1), success=none, fault=none.astype(jnp.int8),
    )  # fmt: skip
    experience = experience.replace(output=jm.unroll(AGENT, params, (), experience))
    return Trial(jax.tree.map(lambda leaf: leaf[None], experience), KEY, jax.random.split(KEY, 0))


def test_the_expected_gradient_of_the_loss_is_the_finite_difference_of_the_exact_return():
    params = AGENT.init(KEY)
    keys = jax.random.split(KEY, len(jax.tree.leaves(params)))
    params = jax.tree.unflatten(
        jax.tree.structure(params),
        [0.7 * jax.random.normal(key, leaf.shape) for key, leaf in zip(keys, jax.tree.leaves(params), strict=True)],
    )
    advantage = inner.deliberating(rl.plain_returns(), COST)
    loss = outer.trial_loss(AGENT, rl.clipped(0.2), advantage)
    drawn = trajectories()
    weight = probabilities(params, *drawn)
    np.testing.assert_allclose(weight.sum(), 1.0, rtol=1e-12)

    @jax.jit
    def gradient(params, drawn, weight):
        trials = jax.vmap(lambda *one: trial_of(params, *one))(*drawn)
        mean = lambda params: jnp.sum(weight * jax.vmap(lambda trial: loss(params, trial)[0])(trials))  # noqa: E731
        return jax.grad(mean)(params)

    found = gradient(params, tuple(map(jnp.asarray, drawn)), jnp.asarray(weight, jnp.float32))
    step, exact = 1e-5, jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    for path, leaf in jax.tree.leaves_with_path(exact):
        slope = np.zeros(leaf.shape)
        for index in np.ndindex(*leaf.shape):
            before = leaf[index]
            ends = []
            for change in (step, -step):
                leaf[index] = before + change
                ends.append(expected_return(exact))
            leaf[index] = before
            slope[index] = (ends[0] - ends[1]) / (2 * step)
        mine = -HORIZON * np.asarray(dict(jax.tree.leaves_with_path(found))[path])
        np.testing.assert_allclose(mine, slope, atol=2e-6, err_msg=jax.tree_util.keystr(path))


PPO = dataclasses.replace(tiny.ONE_BATCH, learning_rate=0.01)
FAMILY = tiny.family()


def test_one_option_is_ppo():
    config = dataclasses.replace(tiny.ALGOS["ppo"], ppo=PPO)
    flat = jm.ppo(FAMILY, config)
    agent = inner.options(nets.options(FAMILY.env.spec, 1, config.hidden), 1)
    single = outer.meta_update(
        agent, flat.plan, outer.uniform(FAMILY), outer.fresh(agent, FAMILY, flat.plan),
        outer.policy_gradient(agent, inner.deliberating(rl.value_baseline(config.discount, config.trace), 0.5), PPO),
        outer.Info(config.num_tasks, flat.plan, spread=config.num_tasks),
    )  # fmt: skip

    def as_option(params):
        layers = params["params"]
        first = lambda tree: jax.tree.map(lambda leaf: leaf[None], tree)  # noqa: E731
        return {
            "trunk_policy": layers["MLP_0"], "options_policy": first(layers["_ActionHead_0"]),
            "trunk_value": layers["MLP_1"], "heads_value": first(layers["Dense_0"]),
        }  # fmt: skip

    state, other = jm.init_state(flat, KEY), jm.init_state(single, KEY)
    other = other.replace(params={"params": other.params["params"] | as_option(state.params)})
    begun = other.params["params"]
    state = jm.train(flat, state, 2, execution=jm.Execution(devices=1))
    other = jm.train(single, other, 2, execution=jm.Execution(devices=1))
    begun, ours, theirs = jax.device_get((begun, other.params["params"], as_option(state.params)))
    for name, tree in theirs.items():
        chex.assert_trees_all_close(ours[name], tree, atol=1e-6)
    assert np.abs(jax.tree.leaves(ours["options_policy"])[0] - jax.tree.leaves(begun["options_policy"])[0]).max() > 1e-3
    for name in set(begun) - set(theirs):
        chex.assert_trees_all_equal(ours[name], begun[name])


@pytest.fixture(scope="module")
def walk():
    """A round of options that always terminate, with the network and its params."""
    network = nets.options(FAMILY.env.spec, 3, (4,))
    agent = inner.options(network, 3)
    params = agent.init(KEY)
    stop = params["params"]["options_stop"]
    params = {"params": params["params"] | {"options_stop": stop | {"bias": jnp.full(3, 100.0)}}}
    run = jax.jit(lambda params: jm.rollout(agent, params, (), FAMILY.env, FAMILY.sample(KEY), KEY, 5, 2))
    return network, agent, params, run(params)


def test_options_that_always_terminate_are_call_and_return_of_length_one(walk):
    network, agent, params, experience = walk
    decision = experience.output.aux
    assert bool((decision.decided == 1.0).all()) and len(np.unique(decision.option)) == 3
    chex.assert_trees_all_equal(rl.decision_steps(experience), rl.macro_steps(experience, 1))
    heads = jax.vmap(jax.vmap(lambda inputs: network.apply(params, (), inputs)[1]))(experience.inputs)
    option = decision.option[..., None]
    action = jax.tree.map(lambda leaf: jnp.take_along_axis(leaf, option[..., None], 2)[:, :, 0], heads.dist.actions)
    chosen = jnp.take_along_axis(jax.nn.log_softmax(heads.dist.choose), option, -1)[..., 0]
    acted = network.head(Output(action, decision.decided)).log_prob(experience.action)
    log_prob = agent.head(experience.output).log_prob(experience.action)
    np.testing.assert_allclose(log_prob, acted + chosen, atol=1e-6)
    over = jnp.sum(jax.nn.softmax(heads.dist.choose) * heads.value, -1)
    np.testing.assert_allclose(experience.output.value, over, atol=1e-6)


def test_the_cost_is_paid_where_an_option_terminates_and_not_at_the_start_of_an_episode(walk):
    *_, experience = walk
    plain, less = (inner.deliberating(rl.plain_returns(), cost)(experience).target for cost in (0.0, 2.0))
    starts = np.arange(8) % 4 == 0
    left = 3.0 - np.arange(8) % 4 + (1.0 - starts)  # terminations from a step to the end of its episode
    alive = np.asarray(experience.valid) > 0
    assert alive.all(1).any()
    whole = alive.reshape(2, 4, -1).all(1).repeat(4, 0)  # episodes that do not end early
    np.testing.assert_allclose(
        (plain - less)[whole], 2.0 * np.broadcast_to(left[:, None], alive.shape)[whole], atol=1e-5
    )


def test_by_mode_options_are_chosen_and_not_drawn():
    params, inputs = AGENT.init(KEY), SPEC.example_input().replace(first=jnp.ones(()))

    def chosen(agent):
        def one(key):
            return agent.act(params, (), agent.reset(params, (), key), inputs)[1].aux.option

        return set(jax.vmap(one)(jax.random.split(KEY, 32)).tolist())

    assert len(chosen(AGENT)) == 2 and len(chosen(deterministic(AGENT))) == 1
