"""Observations with parts and dtypes of their own, several choices at once, masks, success and truncation."""

from __future__ import annotations

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct

import jaxmeta as jm
from jaxmeta import inner, nets, outer, rl, testing
from jaxmeta.core.rollout import episode_successes
from jaxmeta.tasks.base import TaskFamily, flatten_task, reveal
from jaxmeta.types import Continuous, Discrete, MultiDiscrete, Output, Spec, Step
from tests import tiny

IMAGE = jax.ShapeDtypeStruct((8, 8, 3), jnp.uint8)
CODE = jax.ShapeDtypeStruct((2,), jnp.int32)
VALID = jax.ShapeDtypeStruct((5,), jnp.bool_)
PPO = outer.ActorCriticConfig(epochs=1, minibatches=1, value_weight=0.5, entropy_weight=0.01)


class Place(struct.PyTreeNode):
    """Where the agent is, and for how long."""

    cell: jax.Array
    time: jax.Array


@dataclasses.dataclass(frozen=True)
class Corridor:
    """Three cells, seen as a picture, a vector and codes; two choices: where to go (3), and with which hand (2).

    At the left end one cannot go left. The right end is a success, and terminates; the third step is the last.
    """

    horizon: int = 4

    @property
    def spec(self):
        parts = {"image": IMAGE, "vector": (2,), "code": CODE, "valid": VALID}
        return Spec(parts, MultiDiscrete((3, 2)), self.horizon, terminates=True, success=True, action_mask="valid")

    def reset(self, key, task):
        state = Place(jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32))
        return state, self._observe(state)

    def step(self, key, state, action, task):
        cell = jnp.clip(state.cell + action[0] - 1, 0, 2)
        state = Place(cell, state.time + 1)
        arrived, late = cell == 2, state.time == 3
        reward = jnp.where(action[1] == task, 1.0, 0.0)
        return state, Step(self._observe(state), reward, terminated=arrived, truncated=late & ~arrived, success=arrived)

    def _observe(self, state):
        image = jnp.zeros(IMAGE.shape, jnp.uint8).at[state.cell * 3].set(255)
        vector = jnp.stack([state.cell, state.time]).astype(jnp.float32)
        code = jnp.stack([state.cell, state.time])
        valid = jnp.array([True, True, True, True, True]).at[0].set(state.cell > 0)
        return {"image": image, "vector": vector, "code": code, "valid": valid}


def family():
    def sample(key):
        return jax.random.randint(key, (), 0, 2)

    return TaskFamily(Corridor(), sample, sample, flatten_task, episodes=2)


CONFIGS = {
    "rl2": jm.RL2Config(num_tasks=2, hidden=4, separate_value=False, ppo=PPO),
    "maml": jm.MAMLConfig(num_tasks=2, streams=2, hidden=(4,), baseline="none", outer_loop="vpg"),
    "ppo": jm.PPOConfig(num_tasks=2, streams=2, hidden=(4,), ppo=PPO),
}


def algo(name, of=None):
    return getattr(jm, name)(of or family(), CONFIGS[name])


@pytest.mark.parametrize("wrap", [lambda family: family, reveal])
def test_an_environment_of_parts_holds_the_contract(wrap):
    testing.check_env(wrap(family()))


@pytest.mark.parametrize("name", [name if name == "rl2" else tiny.slow(name) for name in CONFIGS])
def test_agents_replay_what_they_collected_and_learn_from_it(name):
    meta = algo(name)
    testing.check_learner(meta.learner, family(), meta.plan)
    state = jm.init_state(meta, jax.random.key(0))
    start = jax.tree.map(np.array, state.params)
    params = jm.train(meta, state, num_updates=2).params
    for (path, before), after in zip(jax.tree.leaves_with_path(start), jax.tree.leaves(params), strict=True):
        assert np.isfinite(after).all()
        if "encoder" in (where := jax.tree_util.keystr(path)):
            assert not np.array_equal(before, after), where


@pytest.mark.slow
@pytest.mark.parametrize("cell", ["lru", "associative", "snail"])
def test_sequence_models_replay_in_parallel_what_they_collected(cell):
    if cell == "snail":
        config = jm.SNAILConfig(num_tasks=2, filters=4, key_size=4, value_size=4, ppo=PPO)
        meta = jm.snail(family(), config)
    else:
        meta = jm.rl2(family(), dataclasses.replace(CONFIGS["rl2"], cell=cell, separate_value=True))
    testing.check_learner(meta.learner, family(), meta.plan)


def test_dtypes_last_up_to_the_encoder_and_masked_actions_are_never_drawn():
    meta, env = algo("ppo"), Corridor()
    params = jax.jit(meta.learner.init)(jax.random.key(0))
    plan, dtypes = jm.Plan(streams=64), {"image": jnp.uint8, "vector": jnp.float32, "code": jnp.int32, "valid": bool}
    rounds = jax.jit(lambda key: jm.collect(meta.learner, params, env, jnp.int32(1), key, plan))(
        jax.random.key(1)
    ).rounds
    for obs in (rounds.inputs.obs, rounds.inputs.prev_next_obs, rounds.next_obs):
        assert {name: part.dtype for name, part in obs.items()} == dtypes
    assert rounds.success.dtype == jnp.bool_ and rounds.fault.dtype == jnp.int8 and rounds.fault.shape == (1, 4, 64)
    at_left_end = (rounds.inputs.obs["vector"][..., 0] == 0) & (rounds.valid > 0)
    assert at_left_end.any() and not (rounds.action[..., 0] == 0)[at_left_end].any()
    assert (rounds.action[..., 0] == 0)[~at_left_end].any()
    assert set(np.unique(rounds.action[..., 1])) == {0, 1}


def test_a_masked_head_equals_the_distribution_over_the_valid_actions():
    spec = Corridor().spec
    logits, others = jax.random.normal(jax.random.key(0), (2, 5))
    mask = jnp.array([True, False, True, True, True])
    head = nets.head_for(spec.action)
    read = lambda logits: head(Output(nets.mask_logits(logits, mask, spec), jnp.zeros(())))  # noqa: E731
    actions = jnp.array(list(itertools.product(range(3), range(2))))

    def exact(logits):
        """The log probability of every valid action, -inf of the others."""
        first = jax.nn.log_softmax(jnp.where(mask[:3], logits[:3], -jnp.inf))
        return (first[:, None] + jax.nn.log_softmax(logits[3:])[None]).reshape(-1)

    @jax.jit
    def measured(logits, others):
        one, other = read(logits), read(others)
        return jax.vmap(one.log_prob)(actions), one.entropy(), one.kl_divergence(other), one.mode()

    log_prob, entropy, divergence, mode = jax.device_get(measured(logits, others))
    valid = np.array([True, True, False, False, True, True])
    log_p, log_q = jax.device_get(jax.jit(jax.vmap(exact))(jnp.stack([logits, others])))[:, valid]
    np.testing.assert_allclose(log_prob[valid], log_p, rtol=1e-5)
    assert (np.exp(log_prob[~valid]) == 0).all()
    p = np.exp(log_p)
    np.testing.assert_allclose(entropy, -(p * np.log(p)).sum(), rtol=1e-5)
    np.testing.assert_allclose(divergence, (p * (np.log(p) - log_q)).sum(), rtol=1e-5)
    assert valid[2 * mode[0] + mode[1]]

    def all_of_it(logits):
        divergence = read(logits).kl_divergence(read(others)) + read(others).kl_divergence(read(logits))
        return divergence + read(logits).entropy() + read(logits).log_prob(jnp.array([2, 1]))

    gradient, second = jax.jit(lambda logits: (jax.grad(all_of_it)(logits), jax.hessian(all_of_it)(logits)))(logits)
    assert np.isfinite(gradient).all() and np.isfinite(second).all() and gradient[1] == 0


def test_where_no_action_is_valid_all_are():
    spec = Spec({"seen": (1,), "valid": jax.ShapeDtypeStruct((3,), jnp.bool_)}, Discrete(3), 1, action_mask="valid")
    logits = jnp.arange(3.0)
    np.testing.assert_array_equal(nets.mask_logits(logits, jnp.zeros(3, bool), spec), logits)
    np.testing.assert_array_equal(nets.mask_logits(logits, jnp.array([1, 0, 1], bool), spec)[::2], logits[::2])


@dataclasses.dataclass(frozen=True)
class Counter:
    """Counts two steps. Task 0 then terminates, task 1 is truncated; the first step is a success in task 0."""

    @property
    def spec(self):
        return Spec((1,), Discrete(2), horizon=3, terminates=True, success=True)

    def reset(self, key, task):
        return jnp.zeros(()), jnp.zeros(1)

    def step(self, key, state, action, task):
        state = state + 1.0
        over = state == 2.0
        first = (state == 1.0) & (task == 0)
        return state, Step(state[None], jnp.float32(1.0), over & (task == 0), over & (task == 1), first)


def silent():
    network = nets.Network(
        init=lambda key: {},
        apply=lambda params, carry, inputs: (carry, Output(jnp.zeros(2), inputs.obs[0] * 10.0)),
        initial_state=lambda: (),
        head=nets.head_for(Discrete(2)),
    )
    return inner.policy(network)


def test_truncation_ends_an_episode_without_terminating_it():
    run = jax.jit(lambda task: jm.rollout(silent(), {}, (), Counter(), task, jax.random.key(0), episodes=2))
    ended, cut = (run(jnp.int32(task)) for task in range(2))
    for rollout in (ended, cut):
        np.testing.assert_array_equal(rollout.valid[:, 0], [1, 1, 0, 1, 1, 0])
        np.testing.assert_array_equal(rollout.done[:, 0], [0, 1, 0, 0, 1, 0])
        np.testing.assert_array_equal(rollout.inputs.prev_done[:, 0], [0, 0, 1, 1, 0, 1])
    np.testing.assert_array_equal(ended.terminated[:, 0], [0, 1, 0, 0, 1, 0])
    np.testing.assert_array_equal(cut.terminated[:, 0], 0)
    np.testing.assert_array_equal(cut.next_obs[:2, 0, 0], [1, 2])  # the final observation
    # on-policy estimators within an episode treat truncation as they do the horizon
    one, other = (rl.value_baseline(normalize=False)(rollout).advantage for rollout in (ended, cut))
    np.testing.assert_array_equal(one, other)


@dataclasses.dataclass(frozen=True)
class Moment:
    """Pays 1 for its only step and shows the task, 0 or 1; task 0 terminates then, task 1 is truncated."""

    @property
    def spec(self):
        return Spec((1,), Continuous(1), horizon=2, terminates=True)

    def reset(self, key, task):
        return (), task[None]

    def step(self, key, state, action, task):
        return (), Step(task[None], jnp.float32(1.0), terminated=task == 0, truncated=task == 1)


def test_off_policy_critics_bootstrap_from_the_final_observation_of_a_truncated_episode():
    tasks = jnp.arange(2.0)
    sample = lambda key: tasks[jax.random.randint(key, (), 0, 2)]  # noqa: E731
    config = outer.OffPolicyConfig(
        learning_rate=1e-2,
        gradient_steps=500,
        meta_batch=2,
        batch_size=8,
        discount=0.5,
        target_rate=0.1,
        reward_scale=1.0,
        temperature=1e-3,
        replay_capacity=16,
    )
    moments = TaskFamily(Moment(), sample, sample, lambda task: task[None], train_tasks=tasks)
    meta = jm.sac(moments, jm.SACConfig(num_train_tasks=2, tasks_per_update=2, streams=4, hidden=(8,), sac=config))
    params = jm.train(meta, jm.init_state(meta, jax.random.key(0)), num_updates=3).params
    critics = nets.soft_actor_critic(Moment().spec, 0, (8,)).critics
    values = critics(params.critics, tasks[:, None], jnp.zeros((2, 1)), jnp.zeros((2, 0)))
    np.testing.assert_allclose(values[0], [1.0, 2.0], atol=0.05)  # 1, and 1 / (1 - discount)


def test_an_episode_succeeds_if_any_of_its_steps_does():
    tasks = jnp.array([0, 1, 0, 0])
    report = jm.evaluate(silent(), {}, Counter(), tasks, jax.random.key(0), jm.Plan(streams=2, episodes=2))
    assert report.successes.shape == report.returns.shape == (4, 1, 2, 2)
    np.testing.assert_array_equal(report.successes[:, 0, 0, 0], [1, 0, 1, 1])
    assert report.success()[0][1]["mean"] == 0.75
    success = np.array([[0.0, 1.0, 1.0, 0.0, np.nan, 0.0]]).T
    np.testing.assert_array_equal(episode_successes(jnp.asarray(success), 3), [[1, 1, np.nan]])


def test_the_log_has_the_success_rates_of_the_first_and_last_episode():
    tasks, plan = jnp.array([0, 1, 0, 0]), jm.Plan(streams=2, episodes=2)
    family = TaskFamily(Counter(), lambda key: jnp.int32(0), lambda key: jnp.int32(0), lambda task: task[None])
    draw = outer.Draw(tasks, jnp.full(4, -1), jnp.ones(4))
    source = outer.fresh(silent(), family, plan)
    keys = jax.random.split(jax.random.key(0), 4)
    seen = jax.jit(lambda: source.next((), {}, draw, (), keys)[2])()
    assert (seen.metrics["success/first"], seen.metrics["success/last"]) == (0.75, 0.75)
    plain = outer.sources.trial_metrics(seen.outcome, plan)
    assert "success/last" not in plain and plain["return/last"] == seen.metrics["return/last"] == 2.0


def test_a_family_without_success_reports_none():
    env, task = jm.tasks.bandit().env, jax.vmap(jm.tasks.bandit().sample)(jax.random.split(jax.random.key(0), 2))
    agent = jm.ppo(jm.tasks.bandit(), CONFIGS["ppo"]).learner
    report = jm.evaluate(agent, agent.init(jax.random.key(0)), env, task, jax.random.key(0), jm.Plan())
    assert report.successes is None and report.success() is None


def test_a_spec_is_hashable_and_says_what_is_wrong():
    parts = {"image": IMAGE, "vector": (2,)}
    spec = Spec(parts, Discrete(2), 3)
    parts["vector"] = (3,)  # the spec has its own copy
    assert spec == Spec({"vector": (2,), "image": IMAGE}, Discrete(2), 3) and len({spec, spec}) == 1
    assert hash(spec) == hash(Spec({"vector": (2,), "image": IMAGE}, Discrete(2), 3))
    assert Spec(jax.ShapeDtypeStruct((27,), jnp.float32), Discrete(2), 3) == Spec((27,), Discrete(2), 3)
    for observation, action, mask, message in (
        ({}, Discrete(2), None, "it needs at least one array"),
        ({"a": "b"}, Discrete(2), None, "spec.observation has 'b'"),
        ((2,), Discrete(2), "valid", "spec.action_mask is 'valid'; it must be a key of a dict observation"),
        ({"valid": VALID}, Discrete(2), "valid", r"as an action mask it must be bool\[2\]"),
        ({"valid": VALID}, Continuous(5), "valid", "continuous actions have no mask"),
    ):
        with pytest.raises(ValueError, match=message):
            Spec(observation, action, 3, action_mask=mask)


def test_algorithms_without_an_encoder_refuse_pytree_observations():
    @dataclasses.dataclass(frozen=True)
    class Real(Corridor):
        @property
        def spec(self):
            return dataclasses.replace(super().spec, action=Continuous(2), action_mask=None)

        def step(self, key, state, action, task):
            return super().step(key, state, jnp.zeros(2, jnp.int32), task)

    real = family()._replace(env=Real())
    for build in (jm.sac, jm.pearl, jm.varibad, lambda of: jm.cavia(of, jm.CAVIAConfig(baseline="none"))):
        with pytest.raises(ValueError, match=r"tasks.observation is .* needs one float32 array \("):
            build(real)
    with pytest.raises(ValueError, match=r"tasks.action is MultiDiscrete\(nums=\(3, 2\)\); soft actor-critic"):
        jm.sac(family())

    @dataclasses.dataclass(frozen=True)
    class Screen(Corridor):
        @property
        def spec(self):
            return Spec(jax.ShapeDtypeStruct((64, 64, 3), jnp.uint8), Discrete(2), 4, terminates=True, success=True)

        def reset(self, key, task):
            state, _ = super().reset(key, task)
            return state, jnp.zeros((64, 64, 3), jnp.uint8)

        def step(self, key, state, action, task):
            state, step = super().step(key, state, jnp.zeros(2, jnp.int32), task)
            return state, step.replace(obs=jnp.zeros((64, 64, 3), jnp.uint8))

    with pytest.raises(ValueError, match="'linear'; for an observation of 12288 numbers it would need 2.3 GiB"):
        jm.maml(family()._replace(env=Screen()))


@pytest.mark.parametrize("fault", ["missing", "dtype", "shape", "success"])
def test_check_env_names_the_part_that_is_wrong(fault):
    class Broken(Corridor):
        @property
        def spec(self):
            return dataclasses.replace(super().spec, success=fault != "success")

        def _observe(self, state):
            obs = super()._observe(state)
            if fault == "missing":
                del obs["code"]
            if fault == "dtype":
                obs["image"] = obs["image"].astype(jnp.float32)
            if fault == "shape":
                obs["vector"] = obs["vector"][:1]
            return obs

    message = {
        "missing": "the observation of env.reset has the structure",
        "dtype": r"the observation of env.reset has float32\[8, 8, 3\] at \['image'\]; spec.observation has uint8",
        "shape": r"the observation of env.reset has float32\[1\] at \['vector'\]; spec.observation has float32\[2\]",
        "success": "env.step returns success, but spec.success is False",
    }[fault]
    with pytest.raises(testing.ContractError, match=message):
        testing.check_env(family()._replace(env=Broken()), num_steps=16)
