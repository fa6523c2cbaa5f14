"""Supervised outer loops: what they follow is the gradient that one would write down, and tasks hide their answers."""

from __future__ import annotations

import json

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxmeta as jm
from jaxmeta import cli, inner, nets, outer, tasks
from jaxmeta.algos.gradient import few_shot
from jaxmeta.core import guard
from jaxmeta.tasks.few_shot import FewShot
from tests import tiny

FAMILY = tiny.waves()
ENV = FAMILY.env
NETWORK = nets.perceptron(1, 1, (8,))
TASK = FAMILY.sample(jax.random.key(3))


@jax.jit
def error(theta, examples):
    return jnp.mean((NETWORK.apply(theta, examples.inputs) - examples.targets) ** 2)


@jax.jit
def descend(theta, examples, lr):
    return jax.tree.map(lambda leaf, grad: leaf - lr * grad, theta, jax.grad(error)(theta, examples))


def learner(updater):
    loss = inner.support_loss(NETWORK, ENV.split, ENV.loss)
    return inner.descent(inner.predictor(NETWORK, ENV.split), loss, updater)


def on_examples(agent, improve, num_tasks, rounds, family=FAMILY):
    plan = jm.Plan(rounds=rounds)
    info = outer.Info(num_tasks, plan, spread=num_tasks)
    return outer.meta_update(agent, plan, outer.uniform(family), outer.examples(plan), improve, info)


def following(agent, num_tasks, config=outer.SupervisedConfig(), family=FAMILY):
    return on_examples(agent, outer.follow_query(agent, ENV, 1, config), num_tasks, 1, family)


def reptile(agent, num_tasks, rounds=1, config=outer.ReptileConfig(), family=FAMILY):
    return on_examples(agent, outer.reptile(outer.after_batches(agent, ENV, rounds), config), num_tasks, rounds, family)


@pytest.mark.parametrize("steps", [0, 1, 3])
def test_gradient_of_the_query_goes_through_all_steps(steps):
    agent = learner(inner.sgd(0.1))
    params = agent.init(jax.random.key(0))

    def by_hand(theta):
        for _ in range(steps):
            theta = descend(theta, TASK.support, 0.1)
        return error(theta, TASK.query)

    loss = outer.query_loss(agent, ENV, steps)
    gradient, metrics = jax.jit(jax.grad(loss, has_aux=True))(params, TASK, jax.random.key(0))
    value, expected = jax.jit(jax.value_and_grad(by_hand))(params.policy)
    chex.assert_trees_all_close(gradient.policy, expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(metrics["loss"], value, rtol=1e-5)
    np.testing.assert_allclose(metrics["return/last"], -value, rtol=1e-5)
    np.testing.assert_allclose(metrics["return/first"], -error(params.policy, TASK.query), rtol=1e-5)


def test_gradient_of_a_learned_step_size_is_minus_the_product_of_both_gradients():
    agent = learner(inner.per_parameter(0.1))
    params = agent.init(jax.random.key(0))
    loss = outer.query_loss(agent, ENV, 1)
    meta_gradient, _ = jax.jit(jax.grad(loss, has_aux=True))(params, TASK, jax.random.key(0))
    gradient_of = jax.jit(jax.grad(error))
    gradient, outer_gradient = (
        gradient_of(params.policy, TASK.support),
        gradient_of(descend(params.policy, TASK.support, 0.1), TASK.query),
    )
    expected = jax.tree.map(lambda one, other: -one * other, gradient, outer_gradient)
    chex.assert_trees_all_close(meta_gradient.updater, expected, rtol=1e-4, atol=1e-6)


def one_update(meta):
    state = meta.init(jax.random.key(0))
    task = FAMILY.sample(tiny.keys_of(state, 1)[0][0])
    return state.params.policy, task, jax.jit(meta.update)(state)[0].params.policy


def test_reptile_with_one_task_and_a_full_step_ends_where_the_task_ends():
    meta = reptile(learner(inner.sgd(0.1)), 1, rounds=2, config=outer.ReptileConfig(step_size=1.0))
    theta, task, after = one_update(meta)
    # 3 + 4 examples are two batches of 3, and one that is left over
    examples = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), task.support, task.query)
    for batch in (slice(0, 3), slice(3, 6)):
        theta = descend(theta, jax.tree.map(lambda leaf, batch=batch: leaf[batch], examples), 0.1)
    chex.assert_trees_all_close(after, theta, rtol=1e-4, atol=1e-6)


def test_reptile_of_one_step_is_gradient_descent():
    meta = reptile(learner(inner.sgd(0.1)), 1, config=outer.ReptileConfig(step_size=0.5))
    theta, task, after = one_update(meta)
    chex.assert_trees_all_close(after, descend(theta, task.support, 0.05), rtol=1e-4, atol=1e-6)


def test_reptile_leaves_a_learned_update_rule_as_it_is():
    meta = reptile(learner(inner.per_parameter(0.1)), 1)
    state = meta.init(jax.random.key(0))
    after, _ = jax.jit(meta.update)(state)
    chex.assert_trees_all_equal(after.params.updater, state.params.updater)
    assert any(
        (a != b).any() for a, b in zip(*map(jax.tree.leaves, (after.params.policy, state.params.policy)), strict=True)
    )


BOUNDED = learner(inner.bounded(inner.sgd(0.1), 1e-3))


@pytest.mark.parametrize(
    ("factor", "most", "counts"),
    [
        (jnp.inf, None, {"nonfinite_tasks": 1.0}),
        (jnp.inf, 1e3, {"nonfinite_tasks": 1.0, "masked_tasks": 0.25}),
        (1e3, 1e3, {"nonfinite_tasks": 0.0, "masked_tasks": 0.25}),
        (1.0, 1e3, {"nonfinite_tasks": 0.0, "masked_tasks": 0.0}),
    ],
)
def test_a_task_that_diverges_is_left_out_and_counted(factor, most, counts):
    """An update by four tasks, one of them spoiled, follows the mean of what the other three say."""
    agent = learner(inner.sgd(0.1))
    start = following(agent, 4).init(jax.random.key(5))
    draws, _, others = tiny.keys_of(start, 4)
    config = outer.SupervisedConfig(max_task_gradient=most)
    meta = following(agent, 4, config, tiny.spoiled(FAMILY, draws[0], factor))
    state, metrics = jax.jit(meta.update)(start)
    finite = slice(0 if factor == 1.0 else 1, 4)
    tasks = jax.vmap(FAMILY.sample)(draws[finite])
    of_one = jax.grad(outer.query_loss(agent, ENV, 1), has_aux=True)
    each = jax.jit(jax.vmap(of_one, (None, 0, 0)))(start.params, tasks, others[finite])
    gradient, told = jax.tree.map(lambda leaf: jnp.mean(leaf, 0), each)
    assert {name: float(metrics[name]) for name in counts} == counts
    np.testing.assert_allclose(metrics["grad_norm"], optax.global_norm(gradient), rtol=1e-5)
    np.testing.assert_allclose(metrics["loss"], told["loss"], rtol=1e-5)
    chex.assert_tree_all_finite((state.params, metrics))


def test_reptile_leaves_a_task_that_diverges_out_too():
    agent = learner(inner.sgd(0.1))
    start = reptile(agent, 4).init(jax.random.key(5))
    draws, *_ = tiny.keys_of(start, 4)
    family = tiny.spoiled(FAMILY, draws[0], jnp.inf)
    meta = reptile(agent, 4, config=outer.ReptileConfig(1.0), family=family)
    state, metrics = jax.jit(meta.update)(start)
    ends = [descend(start.params.policy, FAMILY.sample(key).support, 0.1) for key in draws[1:]]
    mean = jax.tree.map(lambda *leaves: jnp.mean(jnp.stack(leaves), 0), *ends)
    chex.assert_trees_all_close(state.params.policy, mean, rtol=1e-4, atol=1e-6)
    assert metrics["nonfinite_tasks"] == 1.0


def test_nothing_changes_where_every_task_diverges():
    broken = FAMILY._replace(sample=lambda key: jax.tree.map(lambda leaf: leaf * jnp.inf, FAMILY.sample(key)))
    meta = following(BOUNDED, 4, family=broken)
    start = jm.init_state(meta, jax.random.key(0))
    state, metrics = jax.jit(guard.guarded(meta.update))(start)
    assert metrics["skipped"] == 1.0 and metrics["nonfinite_tasks"] == 4.0
    chex.assert_trees_all_equal(state.params, start.params)


@pytest.mark.parametrize("name", ["maml", "reptile", "imaml"])
def test_log_has_the_share_of_clipped_steps(name):
    meta = tiny.supervised(name, max_inner_step=1e-3)
    _, metrics = jax.jit(meta.update)(jm.init_state(meta, jax.random.key(0)))
    np.testing.assert_allclose(metrics["bounded_steps"], 1.0)


def test_implicit_adaptation_reports_its_gradient_norm_ratio():
    left = []
    for steps in (1, 30):
        meta = tiny.supervised("imaml", inner_steps=steps, inner_lr=0.05, strength=5.0, activation="tanh")
        left.append(jax.jit(meta.update)(jm.init_state(meta, jax.random.key(0)))[1]["gradient_norm_ratio"])
    assert left[0] == 1.0 and left[1] < 0.1


def test_observations_hide_query_targets():
    question = ENV.question(TASK)
    shuffled = TASK.replace(query=TASK.query.replace(targets=TASK.query.targets + 1.0))
    np.testing.assert_array_equal(question, ENV.question(shuffled))
    support, query = ENV.split(question)
    chex.assert_trees_all_equal(support, TASK.support)
    np.testing.assert_array_equal(query, TASK.query.inputs)
    assert not set(support.inputs.ravel().tolist()) & set(query.ravel().tolist())


def test_waves_are_sines_within_their_distribution():
    many = jax.vmap(FAMILY.sample)(jax.random.split(jax.random.key(0), 500))
    wave = many.generator
    for examples in (many.support, many.query):
        np.testing.assert_allclose(
            examples.targets,
            wave.amplitude[:, None, None] * np.sin(examples.inputs - wave.phase[:, None, None]),
            atol=1e-5,
        )
    for values, low, high in (
        (wave.amplitude, 0.1, 5.0),
        (wave.phase, 0.0, np.pi),
        (many.query.inputs, -5.0, 5.0),
    ):
        assert low <= values.min() < low + 0.05 * (high - low) and high - 0.05 * (high - low) < values.max() <= high


def test_classification_reward_is_accuracy_and_loss_is_cross_entropy():
    env = FewShot(shots=2, queries=2, size=1, outputs=2, kind="classification")
    logits, targets = jnp.log(jnp.array([[0.8, 0.2], [0.6, 0.4]])), jnp.eye(2)
    np.testing.assert_allclose(env.loss(logits, targets), -(np.log(0.8) + np.log(0.4)) / 2, rtol=1e-6)
    assert env.score(logits, targets) == 0.5


def test_maml_takes_both_kinds_of_tasks():
    config = tiny.SUPERVISED["maml"]
    assert jm.maml(FAMILY, config).plan.rounds == config.rounds
    assert jm.maml(FAMILY, config=config).plan.streams == 1
    assert jm.maml(tiny.family(), tiny.ALGOS["maml"]).plan.streams == 3
    with pytest.raises(ValueError, match="the environment is Navigation; a supervised algorithm needs a tasks.FewShot"):
        few_shot.few_shot_env(tiny.family())


def test_meta_training_learns_to_adapt_to_waves():
    family = tasks.sinusoid()
    meta = jm.maml(family, jm.FewShotMAMLConfig(inner_lr=0.02))
    state = jm.train(meta, jm.init_state(meta, jax.random.key(0)), 1000, chunk=1000)
    test = jax.vmap(family.sample_test)(jax.random.split(jax.random.key(1), 256))
    report = jm.evaluate(meta.learner, state.params, family.env, test, jax.random.key(2), jm.Plan(rounds=2))
    before, after, later = (-episodes[0]["mean"] for episodes in report.by_round_and_episode())
    # what does not adapt cannot do better than the mean wave, which is off by 2.9
    assert before > 2.5
    assert after < 2.0
    assert later < after


def test_a_run_on_waves_from_the_command_line(tmp_path, capsys):
    run = tmp_path / "run"
    flags = "--algo.num-tasks 4 --algo.hidden 8 --tasks.shots 3 --tasks.queries 2 --updates 2 --eval-tasks 4"
    assert cli.main(["train", "cavia", "sinusoid", "--out", str(run), *flags.split()]) == 0
    assert (run / "adaptation.png").is_file() and (run / "learning.png").is_file()
    capsys.readouterr()
    assert cli.main(["evaluate", str(run), "--num-tasks", "6", "--rounds", "3", "--json"]) == 0
    assert [len(episodes) for episodes in json.loads(capsys.readouterr().out)["returns"]] == [1] * 4
    assert cli.main(["render", str(run)]) == 0
    assert (run / "trial-0.png").read_bytes().startswith(b"\x89PNG")
    assert cli.main(["train", "rl2", "sinusoid", "--out", str(tmp_path / "other")]) == 2
    assert "no algorithm for supervised tasks 'rl2'" in capsys.readouterr().err
