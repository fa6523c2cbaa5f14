"""Normalised observations and scaled rewards: who changes the statistics, when, and what the others receive."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxmeta as jm
from jaxmeta import inner, nets, outer, rl
from jaxmeta.core.learner import Learner
from jaxmeta.core.rollout import collect, replay, replay_fast
from jaxmeta.core.train import init_state, make_chunk
from jaxmeta.devices import Execution
from jaxmeta.experiment import registry
from jaxmeta.outer.meta_update import Batch
from jaxmeta.types import Output, Plan, Step
from tests import tiny

FAMILY = tiny.family()
SPEC = FAMILY.env.spec
PLAN = Plan(rounds=1, streams=3)
OFF_POLICY = {"grbal", "pearl", "pets", "rebal", "sac", "varibad"}


def agent():
    policy = inner.policy(nets.actor_critic(SPEC, (4,)))
    return inner.gradient(policy, rl.ratio, inner.sgd(0.1), rl.linear_baseline())


def only_passes_on():
    """An improvement that changes nothing and returns the data that it received."""
    return outer.Improve(
        init=lambda params: jax.tree.map(jnp.zeros_like, params),
        step=lambda params, opt_state, batch, updates: (params, opt_state, {"received": batch.data}),
    )


@pytest.fixture(scope="module")
def trials():
    """Params with statistics of a first batch, and the trials of a second that was collected with them."""
    learner = inner.normalised(agent(), SPEC)
    improve = outer.with_statistics(only_passes_on())

    @jax.jit
    def update(params, key):
        keys = jax.random.split(key, 4)
        tasks = jax.vmap(FAMILY.sample)(keys)
        found = jax.vmap(lambda task, key: collect(learner, params, FAMILY.env, task, key, PLAN))(tasks, keys)
        batch = Batch(found, keys, jnp.ones(4))
        return found, *improve.step(params, improve.init(params), batch, jnp.int32(0))

    params = learner.init(jax.random.key(0))
    first, moved, _, _ = update(params, jax.random.key(1))
    second, after, opt_state, metrics = update(moved, jax.random.key(2))
    return params, first, moved, second, after, opt_state, metrics


def test_statistics_are_those_of_all_valid_steps(trials):
    """Over all rounds, adaptation included; the family ends episodes early, and these steps are left out."""
    _, first, _, second, after, *_ = trials
    valid = np.concatenate([np.asarray(some.rounds.valid, bool).ravel() for some in (first, second)])
    obs = np.concatenate([np.asarray(some.rounds.inputs.obs, np.float64).reshape(-1, 2) for some in (first, second)])
    np.testing.assert_allclose(after.statistics.mean[0], obs[valid].mean(0), rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(after.statistics.variance[0], obs[valid].var(0), rtol=1e-5)
    assert after.statistics.count == valid.sum()


def test_the_improvement_inside_receives_what_the_agent_inside_acted_on(trials):
    """Its replay equals the collection: the statistics move after its steps. Its optimiser never sees them."""
    params, _, moved, second, _, opt_state, metrics = trials
    received = metrics["received"]
    output = jax.jit(jax.vmap(functools.partial(replay, agent()), (None, 0)))(moved.learner, received)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), output, second.rounds.output)
    assert np.abs(received.rounds.inputs.obs - second.rounds.inputs.obs).max() > 0.1
    assert jax.tree.structure(opt_state) == jax.tree.structure(params.learner)


def test_an_inner_loop_neither_adapts_nor_differentiates_the_statistics(trials):
    _, _, moved, second, _, _, metrics = trials
    learner, trial = inner.normalised(agent(), SPEC), jax.tree.map(lambda leaf: leaf[0], second)
    received = jax.tree.map(lambda leaf: leaf[0], metrics["received"])
    both = lambda moved: (replay_fast(learner, moved, trial), replay_fast(agent(), moved.learner, received))  # noqa: E731
    fast, inside = jax.jit(both)(moved)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), fast, inside)
    loss = outer.meta_loss(learner, rl.ratio, rl.plain_returns())
    gradient = jax.jit(jax.grad(loss))(moved, second)
    assert all((leaf == 0.0).all() for leaf in jax.tree.leaves(gradient.statistics))
    assert any((leaf != 0.0).any() for leaf in jax.tree.leaves(gradient.learner))


def policy_gradient_update(normalised):
    policy, plan = inner.policy(nets.actor_critic(SPEC, (4,), value=True)), Plan(streams=2)
    config = outer.ActorCriticConfig(epochs=1)
    learner, improve = policy, outer.policy_gradient(policy, rl.value_baseline(), config)
    if normalised:
        learner, improve = inner.normalised(policy, SPEC), outer.with_statistics(improve)
    source, info = outer.fresh(learner, FAMILY, plan), outer.Info(2, plan, spread=2)
    meta = outer.meta_update(learner, plan, outer.uniform(FAMILY), source, improve, info)
    return jax.jit(meta.update)(jax.jit(meta.init)(jax.random.key(0)))


def test_mean_0_and_variance_1_change_nothing():
    """The first update acts on the initial statistics: params, optimiser and metrics are those without, bit for bit."""
    (plain, plain_metrics), (state, metrics) = policy_gradient_update(False), policy_gradient_update(True)
    assert metrics.pop("clipped_observations") == 0.0
    jax.tree.map(np.testing.assert_array_equal, state.params.learner, plain.params)
    jax.tree.map(np.testing.assert_array_equal, state.opt_state, plain.opt_state)
    jax.tree.map(np.testing.assert_array_equal, metrics, plain_metrics)
    assert state.params.statistics.count > 0


@pytest.fixture(scope="module")
def observer():
    """A meta-learner that collects, and moves nothing but statistics: no gradient is compiled."""
    policy, plan = inner.policy(nets.actor_critic(SPEC, (4,))), Plan(streams=2)
    still = outer.Improve(lambda params: (), lambda params, opt_state, batch, updates: (params, opt_state, {}))
    learner = inner.normalised(policy, SPEC)
    improve = outer.with_statistics(outer.with_scaled_rewards(still, 0.9))
    source, info = outer.fresh(learner, FAMILY, plan), outer.Info(4, plan, spread=4)
    return outer.meta_update(learner, plan, outer.uniform(FAMILY), source, improve, info)


def trained(meta, updates, state=None, execution=Execution()):
    chunk = make_chunk(meta, 2, execution=execution)
    return chunk(init_state(meta, jax.random.key(0), execution=execution) if state is None else state, updates)


def test_statistics_do_not_depend_on_the_number_of_devices(observer):
    (one, told), (two, told_by_two) = (trained(observer, 2, execution=Execution(devices=count)) for count in (1, 2))
    moved = lambda state: (state.params.statistics, state.opt_state.returns)  # noqa: E731
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), moved(one), moved(two))
    np.testing.assert_allclose(told["reward_scale"], told_by_two["reward_scale"], rtol=1e-5)
    jax.tree.map(np.testing.assert_array_equal, one.params.learner, observer.init(jax.random.key(0)).params.learner)


@pytest.mark.slow
def test_every_seed_has_statistics_of_its_own(observer):
    keys = jax.random.split(jax.random.key(0), 2)
    start = init_state(observer, jax.random.key(0), num_seeds=2)
    together, _ = make_chunk(observer, 2, num_seeds=2)(start, 2)
    alone = [trained(observer, 2, init_state(observer, key))[0].params.statistics for key in keys]
    jax.tree.map(
        lambda both, *each: np.testing.assert_allclose(both, np.stack(each), rtol=1e-5, atol=1e-7),
        together.params.statistics,
        *alone,
    )
    assert not np.array_equal(*together.params.statistics.mean[0])


def test_statistics_survive_resume_and_stay_in_evaluation(observer, tmp_path):
    whole, _ = trained(observer, 2)
    half, _ = trained(observer, 1)
    checkpointer = jm.Checkpointer(tmp_path)
    checkpointer.save(1, half)
    restored = jm.Checkpointer(tmp_path).restore(jm.state_form(observer))
    before = jax.device_get(restored.params)
    tasks = jax.vmap(FAMILY.sample_test)(jax.random.split(jax.random.key(3), 2))
    jm.evaluate(observer.learner, restored.params, FAMILY, tasks, jax.random.key(4), observer.plan)
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(restored.params), before)
    resumed, _ = trained(observer, 1, restored)
    moved = lambda state: (state.params, state.opt_state)  # noqa: E731
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(moved(resumed)), jax.device_get(moved(whole)))


def test_rewards_are_divided_by_the_deviation_of_discounted_returns(trials):
    """In the last round only, by the returns of all updates so far and of this one."""
    _, first, _, second, *_ = trials
    improve = outer.with_scaled_rewards(only_passes_on(), 0.9)
    state, sums = improve.init(()), []
    for some in (first, second):
        batch = Batch(some, jax.random.split(jax.random.key(0), 4), jnp.ones(4))
        _, state, metrics = improve.step((), state, batch, jnp.int32(0))
        reward, valid = (np.asarray(leaf[:, -1], np.float64) for leaf in (some.rounds.reward, some.rounds.valid))
        total = np.zeros_like(reward[:, 0])
        for time in range(reward.shape[1]):
            total = reward[:, time] + 0.9 * total
            sums.append(total[valid[:, time] > 0])
        scale = np.concatenate(sums).std()
        np.testing.assert_allclose(metrics["reward_scale"], scale, rtol=1e-5)
        received = metrics["received"].rounds
        np.testing.assert_allclose(received.reward[:, -1], reward / scale, rtol=1e-5)
        np.testing.assert_array_equal(received.reward[:, :-1], some.rounds.reward[:, :-1])
        np.testing.assert_array_equal(received.inputs.prev_reward, some.rounds.inputs.prev_reward)


def mean_follower():
    """A learner of a user's own: it adapts to the mean observation, and acts on the difference from it."""
    return Learner(
        init=lambda key: jnp.zeros(()),
        start=lambda params, key: jnp.zeros(2),
        reset=lambda params, fast, key: (),
        act=lambda params, fast, carry, inputs: (
            (),
            Output(dist=nets.Gaussian(inputs.obs - fast, jnp.zeros(2)), value=params),
        ),
        adapt=lambda params, fast, experience, key: experience.inputs.obs.mean((0, 1)),
        head=nets.actor_critic(SPEC, (4,)).head,
    )


def test_a_learner_of_ones_own_can_be_normalised():
    learner = inner.normalised(mean_follower(), SPEC)
    params = learner.init(jax.random.key(0))
    mean, variance = jnp.array([0.1, -0.2]), jnp.array([4.0, 0.25])
    params = params.replace(statistics=rl.Statistics(jnp.float32(9), (mean,), (variance,)))
    task = FAMILY.sample(jax.random.key(1))
    trial = jax.jit(lambda params: collect(learner, params, FAMILY.env, task, jax.random.key(2), PLAN))(params)
    normal = (np.asarray(trial.rounds.inputs.obs) - mean) / np.sqrt(variance)
    acted = np.asarray(trial.rounds.output.dist.loc)
    np.testing.assert_allclose(acted[0], normal[0], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(acted[1], normal[1] - normal[0].mean((0, 1)), rtol=1e-5, atol=1e-6)


def with_field(name, **fields):
    factory, _ = registry.ALGOS[name].load()
    return factory(tiny.observed_by(name, FAMILY), dataclasses.replace(tiny.ALGOS[name], **fields))


IMITATION = {"clone", "dagger", "distill", "dpt", "gatekeeper", "mil"}
# their policies over options are read by other agents
OPTIONS = {"lead-policy", "option-critic"}


def test_recipes_that_learn_from_stored_experience_do_not_offer_normalisation():
    without = {name for name, config in tiny.ALGOS.items() if not hasattr(config, "normalize_observations")}
    assert without == OFF_POLICY | IMITATION | OPTIONS


# the policy of mb-mpo is normalised as MAML's, in a part of the params
@pytest.mark.parametrize("name", sorted(tiny.ALGOS.keys() - OFF_POLICY - IMITATION - OPTIONS - {"federated", "mb-mpo"}))
def test_recipes_offer_normalisation(name):
    """It is off by default, except in mlsh; on, statistics are a part of the params, without the task ID."""
    key = jax.random.key(0)
    off, on = (jax.eval_shape(with_field(name, normalize_observations=it).init, key) for it in (False, True))
    assert jax.tree.structure(off) == jax.tree.structure(jax.eval_shape(with_field(name).init, key))
    assert jax.tree.structure(on.params.learner) == jax.tree.structure(off.params)
    assert jax.tree.structure(on.opt_state) == jax.tree.structure(off.opt_state)
    assert on.params.statistics.mean[0].shape == (2,)


@pytest.mark.parametrize("name", ["ppo", "multi-task", "rl2", "l2rl", "snail"])
def test_recipes_with_learned_values_offer_scaled_rewards(name):
    key = jax.random.key(0)
    off, on = (jax.eval_shape(with_field(name, scale_rewards=it).init, key) for it in (False, True))
    assert jax.tree.structure(on.opt_state.optimiser) == jax.tree.structure(off.opt_state)
    assert jax.tree.structure(on.params) == jax.tree.structure(off.params)


@dataclasses.dataclass(frozen=True)
class BadlyScaled:
    """An environment whose observations are multiplied by 100 and shifted."""

    env: jm.tasks.Env

    @property
    def spec(self):
        return self.env.spec

    def _show(self, obs):
        return 100.0 * obs + 1000.0

    def reset(self, key, task):
        state, obs = self.env.reset(key, task)
        return state, self._show(obs)

    def step(self, key, state, action, task) -> tuple:
        state, step = self.env.step(key, state, action, task)
        return state, Step(self._show(step.obs), step.reward, step.terminated, step.truncated, step.success)


@pytest.mark.slow
def test_a_policy_learns_on_badly_scaled_observations():
    """Three seeds of PPO that is conditioned on the goal."""
    family = jm.tasks.reveal(jm.tasks.navigation(jm.tasks.NavigationConfig(horizon=20)))
    family = family._replace(env=BadlyScaled(family.env))

    def learned(normalised):
        config = jm.PPOConfig(num_tasks=16, streams=4, hidden=(32, 32), normalize_observations=normalised)
        meta = jm.ppo(family, config)
        start = init_state(meta, jax.random.key(0), num_seeds=3)
        _, metrics = make_chunk(meta, 60, num_seeds=3)(start, 60)
        return np.asarray(metrics["return/last"])[-10:].mean(0)

    assert (learned(True) > -3.0).all() and (learned(False) < -6.0).all()
