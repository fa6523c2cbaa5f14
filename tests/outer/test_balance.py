"""Balance of tasks: given weights, learned variances, and returns in units of each task, against closed forms."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxmeta as jm
from jaxmeta import nets, outer, rl
from jaxmeta.core.checkpoint import Checkpointer
from jaxmeta.outer import balance
from jaxmeta.outer.loss import _gaussian
from jaxmeta.types import Discrete, Spec
from tests import tiny
from tests.algos.test_multi_task import salaries

KEY = jax.random.key(0)
RANDOM = np.random.default_rng(0)
CONFIG = dataclasses.replace(tiny.ALGOS["multi-task"], network="conditioned", ppo=tiny.ONE_BATCH)


def quadratic(params, target, key):
    """A loss of one task whose gradient is params - target."""
    return 0.5 * jnp.sum(jnp.square(params - target)), {"distance": jnp.sum(jnp.abs(params - target))}


def batch_of(targets, weight):
    return outer.Batch(jnp.asarray(targets), jax.random.split(KEY, len(targets)), jnp.asarray(weight, jnp.float32))


def draw(weights, visits=2):
    sampler = outer.every(salaries(1.0, 2.0, 3.0), visits, weights)
    return sampler.sample(sampler.init(KEY), (), jax.random.split(KEY, 3 * visits))[1]


@pytest.mark.parametrize("aggregate", [outer.mean(), outer.combined(lambda gram, key: jnp.ones(3) / 3, num_tasks=3)])
def test_given_weights_are_losses_scaled_by_hand(aggregate):
    params, targets = jnp.array([0.3, -0.2]), RANDOM.normal(size=(6, 2)).astype(np.float32)
    weights = np.array([1.0, 2.0, 5.0])
    found = aggregate(quadratic, params, batch_of(targets, draw((1.0, 2.0, 5.0)).weight), None)
    by_hand = np.repeat(weights / weights.sum(), 2)[:, None] / 2 * (np.asarray(params) - targets)
    np.testing.assert_allclose(found.gradient, by_hand.sum(0), atol=1e-6)


def test_equal_weights_are_exactly_one():
    for equal in ((0.3, 0.3, 0.3), (7.0, 7.0, 7.0), None):
        np.testing.assert_array_equal(draw(equal).weight, np.ones(6))
    np.testing.assert_allclose(draw((1.0, 2.0, 3.0)).weight, [0.5, 0.5, 1.0, 1.0, 1.5, 1.5], rtol=1e-6)


def test_a_sampler_with_another_number_of_weights_is_refused():
    with pytest.raises(ValueError, match="weights has 2 entries; the family has 3 tasks"):
        outer.every(salaries(1.0, 2.0, 3.0), 1, (1.0, 2.0))


def test_statistics_of_targets_are_those_of_numpy():
    target = (1e3 + RANDOM.normal(size=(6, 5, 2))).astype(np.float32)
    weight = (RANDOM.uniform(size=(6, 5, 2)) < 0.7).astype(np.float32)
    task = np.array([0, 0, 1, 1, 3, 3])
    mean, variance, seen = balance.target_statistics(*map(jnp.asarray, (target, weight, task)), 4)
    np.testing.assert_array_equal(seen, [True, True, False, True])
    for one in (0, 1, 3):
        some = target[task == one][weight[task == one] > 0].astype(np.float64)
        np.testing.assert_allclose((mean[one], variance[one]), (some.mean(), some.var()), rtol=1e-5)


def test_statistics_are_the_moments_of_the_weighted_data():
    rate, updates = 0.2, RANDOM.normal([[0.0], [5.0]], [[1.0], [0.1]], size=(4, 2, 1000)).transpose(0, 1, 2)
    statistics = balance.no_statistics(2)
    np.testing.assert_array_equal(statistics.scale, 1.0)
    for done in range(1, 5):
        data = updates[done - 1]
        # the second task has no data in the third update
        seen = jnp.array([True, done != 3])
        statistics = balance.moved(statistics, jnp.asarray(data.mean(1)), jnp.asarray(data.var(1)), seen, rate)
        for task, used in enumerate(([1, 2, 3, 4], [1, 2, 4])):
            used = [index for index in used if index <= done]
            share = np.array([(1 - rate) ** (len(used) - 1 - place) for place in range(len(used))])
            share /= share.sum()
            rows = np.stack([updates[index - 1, task] for index in used])
            mean = share @ rows.mean(1)
            np.testing.assert_allclose(statistics.mean[task], mean, rtol=1e-4, atol=1e-6)
            variance = share @ np.square(rows - mean).mean(1)
            np.testing.assert_allclose(statistics.variance[task], variance, rtol=1e-4)


@pytest.fixture(scope="module")
def value_heads():
    """A network with an output of the values for each of 3 tasks, its perturbed params, and its values [K, 4]."""
    spec = Spec(observation=(5,), action=Discrete(2), horizon=3)
    network = nets.multi_head(spec, 3, hidden=(4,), policy_heads=False)
    leaves, form = jax.tree.flatten(network.init(KEY))
    keys = jax.random.split(KEY, len(leaves))
    params = form.unflatten([leaf + jax.random.normal(key, leaf.shape) for leaf, key in zip(leaves, keys, strict=True)])

    @jax.jit
    def values(params):
        code = jnp.broadcast_to(jnp.eye(3)[:, None], (3, 4, 3))
        seen = jnp.broadcast_to(jax.random.normal(KEY, (4, 2)), (3, 4, 2))
        example = spec.example_input()
        one = lambda obs: network.apply(params, (), example.replace(obs=obs))[1]  # noqa: E731
        output = jax.vmap(jax.vmap(one))(jnp.concatenate([seen, code], -1))
        return output.value, output.dist

    return params, values


def test_rescaling_preserves_predicted_returns_and_the_policy(value_heads):
    params, values = value_heads
    before = balance.ReturnStatistics(jnp.array([0.0, 3.0, -40.0]), jnp.array([0.0, 4.0, 9.0]), jnp.array([0.0, 1, 1]))
    after = balance.ReturnStatistics(jnp.array([2.0, 2.5, -50.0]), jnp.array([9.0, 1.0, 100.0]), jnp.ones(3))
    returns = lambda params, one: one.mean[:, None] + one.scale[:, None] * values(params)[0]  # noqa: E731
    changed = balance.rescaled(params, before, after)
    moved = np.abs(np.asarray(values(changed)[0]) - np.asarray(values(params)[0]))
    assert (moved.max(1) > 0.1).all()
    expected = np.asarray(returns(params, before))
    size = np.abs(expected).max(1, keepdims=True)
    np.testing.assert_allclose(returns(changed, after) / size, expected / size, rtol=0, atol=1e-6)
    np.testing.assert_array_equal(values(changed)[1], values(params)[1])


def test_params_without_values_per_task_are_refused():
    same = balance.no_statistics(2)
    with pytest.raises(ValueError, match="no param satisfies"):
        balance.rescaled({"Dense_0": {"kernel": jnp.ones((3, 1))}}, same, same)


def test_only_values_with_heads_reads_the_task_id_in_the_policy(value_heads):
    _, dist = value_heads[1](value_heads[0])
    assert np.abs(np.asarray(dist[0] - dist[1])).max() > 1e-3


def test_the_gradient_of_a_log_variance_is_its_closed_form():
    error = jnp.array([0.02, 1.0, 300.0])
    raw = jnp.array([-0.3, 0.0, 0.5])
    loss = lambda raw: jnp.sum(jax.vmap(_gaussian)(error, balance.log_variances(raw)))  # noqa: E731
    s = 10 * np.tanh(np.asarray(raw))
    expected = (0.5 - np.asarray(error) * np.exp(-s)) * 10 * (1 - np.tanh(np.asarray(raw)) ** 2)
    np.testing.assert_allclose(jax.grad(loss)(raw), expected, rtol=1e-5)
    # at the minimum the variance is the mean squared error, twice `error`
    best = jnp.arctanh(jnp.log(2 * error) / 10)
    np.testing.assert_allclose(jax.grad(loss)(best), 0.0, atol=1e-4)


def test_weights_of_learned_variances_are_bounded():
    weight = np.exp(-np.asarray(balance.log_variances(jnp.array([-1e6, 1e6]))))
    np.testing.assert_allclose(weight, [np.exp(10), np.exp(-10)], rtol=1e-5)


def updated(amounts=(3.0, -1.0, 2.0), updates=1, **changes):
    """The state and the metrics after some updates on tasks that pay what they say."""
    meta = jm.multi_task(salaries(*amounts), dataclasses.replace(CONFIG, **changes))
    state, update = jm.init_state(meta, KEY), jax.jit(meta.update)
    for _ in range(updates):
        state, metrics = update(state)
    return state, {name: float(value) for name, value in metrics.items()}


def of_tasks(metrics, name):
    return np.array([metrics[f"{name}/task_{index}"] for index in range(3)])


def test_equal_weights_leave_the_update_as_it_is():
    plain, _ = updated()
    given, metrics = updated(balance=(2.0, 2.0, 2.0))
    for one, other in zip(jax.tree.leaves(plain.params), jax.tree.leaves(given.params), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-7)
    np.testing.assert_array_equal(of_tasks(metrics, "weight"), 1.0)
    np.testing.assert_allclose(of_tasks(metrics, "grad_norm"), of_tasks(metrics, "grad_norm/unbalanced"), rtol=1e-6)


def test_normalised_returns_have_the_statistics_of_the_targets_and_are_in_the_log():
    state, metrics = updated(balance="returns")
    # untrained values are 0 in units of the task, and at first so are returns: targets are GAE's
    salary = np.array([3.0, -1.0, 2.0])
    target = np.stack([salary + 0.99 * 0.95 * salary, salary])
    kept = state.opt_state.balance
    np.testing.assert_allclose(kept.mean, target.mean(0), rtol=1e-5)
    np.testing.assert_allclose(kept.scale, target.std(0), rtol=1e-5)
    np.testing.assert_allclose(of_tasks(metrics, "weight"), 1 / target.std(0), rtol=1e-5)
    # all tasks are the same in their own units, so balanced gradients of the values are equally large
    balanced, plain = (of_tasks(metrics, f"grad_norm{name}") for name in ("", "/unbalanced"))
    assert balanced.max() / balanced.min() < 0.5 * plain.max() / plain.min()


@pytest.mark.slow
def test_identical_tasks_have_equal_weights():
    for choice in ("returns", "uncertainty"):
        _, metrics = updated((2.0, 2.0, 2.0), updates=3, balance=choice)
        np.testing.assert_allclose(of_tasks(metrics, "weight"), of_tasks(metrics, "weight")[0], rtol=1e-4)


@pytest.mark.slow
def test_learned_weights_equalise_tasks_of_different_scale():
    fast = dataclasses.replace(CONFIG.ppo, learning_rate=1e-2)
    state, metrics = updated((30.0, 1.0, 30.0), updates=60, balance="uncertainty", ppo=fast)
    weight = of_tasks(metrics, "weight")
    assert weight[1] > 3 * max(weight[0], weight[2])
    assert state.params[balance.LOG_VARIANCE].shape == (3,)


@pytest.mark.slow
def test_a_resumed_run_has_the_statistics(tmp_path):
    meta = jm.multi_task(salaries(3.0, -1.0), dataclasses.replace(CONFIG, balance="returns"))
    whole = jm.train(meta, jm.init_state(meta, KEY), 4, chunk=2)
    half = jm.train(meta, jm.init_state(meta, KEY), 2, chunk=2)
    Checkpointer(tmp_path).save(2, half)
    resumed = jm.train(meta, Checkpointer(tmp_path).restore(jm.init_state(meta, KEY)), 4, chunk=2)
    for one, other in zip(jax.tree.leaves(whole.opt_state), jax.tree.leaves(resumed.opt_state), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"balance": (1.0, 2.0)}, r"balance is \(1.0, 2.0\), but the family has 3 tasks; give a weight for every task"),
        ({"balance": (1.0, 0.0, 2.0)}, r"balance is \(1.0, 0.0, 2.0\); all weights must be positive and finite"),
        ({"balance": (1.0, float("nan"), 2.0)}, "all weights must be positive and finite"),
        ({"balance": (1.0, float("inf"), 2.0)}, "all weights must be positive and finite"),
        ({"balance": ()}, r"balance is \(\); give a weight for every task, or 'equal'"),
        ({"balance": "popart"}, "balance is 'popart'; it must be one of equal, uncertainty, returns"),
    ],
)
def test_wrong_weights_are_refused_in_one_line(changes, message):
    with pytest.raises(ValueError, match=message) as found:
        jm.multi_task(salaries(1.0, 2.0, 3.0), dataclasses.replace(CONFIG, **changes))
    assert "\n" not in str(found.value)


@pytest.mark.parametrize("choice", ["uncertainty", "returns", (1.0,)])
def test_one_task_cannot_be_balanced(choice):
    with pytest.raises(ValueError, match="but the family has 1 task; it needs at least 2"):
        jm.multi_task(salaries(1.0), dataclasses.replace(CONFIG, balance=choice))


@pytest.mark.parametrize("choice", ["uncertainty", "returns"])
def test_a_balance_of_values_needs_their_loss(choice):
    without = dataclasses.replace(CONFIG.ppo, value_weight=0.0)
    with pytest.raises(ValueError, match="value_weight is 0.0; balance '.*' weighs values: it must be positive"):
        dataclasses.replace(CONFIG, balance=choice, ppo=without)


def test_advantages_are_in_units_of_the_task():
    """The arguments of the loss of one trial, against the estimator that they wrap."""
    found = rl.Advantage(jnp.array([[2.0]]), jnp.array([[7.0]]))
    part = balance.by_returns(2, lambda experience: found)
    options = {"advantage": None, "value_weight": 0.5, "return_mean": jnp.array(3.0), "return_scale": jnp.array(4.0)}
    balanced, plain = (part.arguments((), options, flag) for flag in (True, False))
    assert "return_mean" not in balanced and balanced["value_weight"] == 0.5
    one, other = (arguments["advantage"](None) for arguments in (balanced, plain))
    assert (float(one.advantage[0, 0]), float(one.target[0, 0])) == (0.5, 1.0)
    assert (float(other.advantage[0, 0]), float(plain["value_weight"])) == (2.0, 8.0)
