"""Multi-task SAC: what the temperatures, the heads and the replay buffers of the tasks share, which is nothing."""

from __future__ import annotations

import dataclasses
import functools
import json

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxmeta as jm
from jaxmeta import cli, inner, nets, outer, tasks
from jaxmeta.outer.soft_actor_critic import Drawn, drawn, soft_loss
from jaxmeta.rl.replay import TaskRings, Transition, transition_rows
from jaxmeta.types import Continuous, Spec
from tests import tiny

KEY = jax.random.key(0)
CONFIG = tiny.VARIANTS["multi-task-sac"][1]
SAC = dataclasses.replace(CONFIG.sac, discount=0.9)
SIZE, OBS, ROWS = 3, 2, 4
NONE = nets.no_evidence()


def moved(tree, seed=1):
    """Params away from their initial values, where the output layers are almost alike."""
    leaves, structure = jax.tree.flatten(tree)
    keys = jax.random.split(jax.random.key(seed), len(leaves))
    return structure.unflatten(
        [leaf + 0.5 * jax.random.normal(key, leaf.shape) for key, leaf in zip(keys, leaves, strict=True)]
    )


def networks_of(num_tasks, num_heads=None):
    """Networks on observations that end with the ID of one of some tasks, or without an ID."""
    return nets.soft_actor_critic(Spec((OBS + num_tasks,), Continuous(2), 4), 0, (5, 4), num_heads=num_heads)


def params_of(networks, size=SIZE):
    params = moved(inner.posterior_sampling(networks, NONE).init(KEY))
    return params.replace(log_temperature=jnp.linspace(-1.0, 1.0, size))


def rows_of_tasks(size=SIZE):
    """A batch of every task, whose observations end with the task ID; leaves [K, b, ...]."""
    keys = jax.random.split(jax.random.key(2), 4)
    code = jnp.broadcast_to(jnp.eye(size)[:, None], (size, ROWS, size))
    obs, next_obs = (
        jnp.concatenate([jax.random.normal(key, (size, ROWS, OBS)), code], axis=-1) for key in (keys[0], keys[1])
    )
    batch = Transition(
        obs=obs,
        action=jax.random.uniform(keys[2], (size, ROWS, 2), minval=-1.0, maxval=1.0),
        reward=jax.random.normal(keys[3], (size, ROWS)),
        next_obs=next_obs,
        terminated=jnp.zeros((size, ROWS)),
    )
    return Drawn(batch, jnp.zeros((size, 1, 0)), jnp.zeros((size, 1)), jnp.arange(size))


@functools.cache
def gradient_of_each():
    """Returns a compiled function (params, data of K tasks) -> loss and gradient of every task, leaves [K, ...]."""
    loss = soft_loss(networks_of(SIZE), NONE, 0.0, SAC)

    def each(params, data):
        one = functools.partial(loss, targets=moved(params.critics, 3))
        return jax.vmap(jax.value_and_grad(one, has_aux=True), (None, 0, 0))(params, data, jax.random.split(KEY, SIZE))

    return jax.jit(each)


def test_each_temperature_learns_from_the_entropy_on_its_own_task_alone():
    params = params_of(networks_of(SIZE))
    (_, metrics), gradient = gradient_of_each()(params, rows_of_tasks())
    expected = np.diag(metrics["entropy"] + 2.0)  # the target entropy is minus the size of an action, 2
    np.testing.assert_allclose(gradient.log_temperature, expected, rtol=1e-5)
    assert len(np.unique(np.round(metrics["entropy"], 3))) == SIZE


def test_what_other_tasks_experience_does_not_change_a_temperature():
    params, data = params_of(networks_of(SIZE)), rows_of_tasks()
    wild = jax.tree.map(lambda leaf: leaf.at[1:].multiply(7.0), data.transitions)
    before, after = (gradient_of_each()(params, some)[1] for some in (data, data.replace(transitions=wild)))
    mean_before, mean_after = (jax.tree.map(lambda leaf: leaf.mean(0), tree) for tree in (before, after))
    assert mean_before.log_temperature[0] == mean_after.log_temperature[0]
    assert (mean_before.log_temperature[1:] != mean_after.log_temperature[1:]).all()
    kernel = lambda tree: tree.actor["params"]["Dense_0"]["kernel"]  # noqa: E731
    assert not np.allclose(kernel(mean_before), kernel(mean_after))


def test_the_loss_on_a_task_has_its_own_temperature():
    params, data = params_of(networks_of(SIZE)), rows_of_tasks()
    (losses, metrics), gradient = gradient_of_each()(params, data)
    loss = functools.partial(soft_loss(networks_of(SIZE), NONE, 0.0, SAC), targets=moved(params.critics, 3))
    run = jax.jit(jax.value_and_grad(loss, has_aux=True))
    for index, key in enumerate(jax.random.split(KEY, SIZE)):
        alone = params.replace(log_temperature=params.log_temperature[index])
        (value, told), found = run(alone, jax.tree.map(lambda leaf, index=index: leaf[index], data), key)
        of_task = jax.tree.map(lambda leaf, index=index: leaf[index], (losses, metrics, gradient))
        chex.assert_trees_all_close(of_task[:2], (value, told), rtol=1e-5)
        chex.assert_trees_all_close(of_task[2].actor, found.actor, rtol=1e-4, atol=1e-6)
        chex.assert_trees_all_close(of_task[2].critics, found.critics, rtol=1e-4, atol=1e-6)


def with_head(params, index):
    """The params of networks without heads: the hidden layers, and the output layer of one task."""

    def plain(tree):
        layers = dict(tree["params"])
        layers["Dense_2"] = jax.tree.map(lambda leaf: leaf[index], layers.pop(f"{nets.HEADS}_output"))
        return {"params": layers}

    return params.replace(
        actor=plain(params.actor),
        critics=tuple(plain(critic) for critic in params.critics),
        log_temperature=params.log_temperature[index],
    )


@pytest.mark.parametrize("size", [1, SIZE])
def test_each_head_on_the_hidden_layers_is_the_agent_of_one_task(size):
    """Loss and gradient, of a task ID that the agent of one task does not observe."""
    networks, alone = networks_of(size, size), networks_of(0)
    params, data = params_of(networks, size), rows_of_tasks(size)
    targets = moved(params, 3)

    def gradient(networks, params, targets, data):
        loss = functools.partial(soft_loss(networks, NONE, 0.0, SAC), targets=targets)
        return jax.value_and_grad(loss, has_aux=True)(params, data, KEY)

    run, run_alone = (jax.jit(functools.partial(gradient, one)) for one in (networks, alone))
    for index in range(size):
        task = jax.tree.map(lambda leaf, index=index: leaf[index], data)
        (value, _), found = run(params, targets.critics, task)
        batch = task.transitions
        hidden = batch.replace(obs=batch.obs[:, :OBS], next_obs=batch.next_obs[:, :OBS])
        (expected, _), own = run_alone(
            with_head(params, index), with_head(targets, index).critics, task.replace(transitions=hidden)
        )
        np.testing.assert_allclose(value, expected, rtol=1e-5)
        chex.assert_trees_all_close(with_head(found, index), own, rtol=1e-4, atol=1e-6)
        others = [with_head(found, other) for other in range(size) if other != index]
        assert not any(tree.actor["params"]["Dense_2"]["kernel"].any() for tree in others)
        assert not any(critic["params"]["Dense_2"]["kernel"].any() for tree in others for critic in tree.critics)


@pytest.mark.parametrize("strata", [1, 2])
def test_a_gradient_step_has_equally_many_transitions_of_every_task_and_knows_which(strata):
    """Four replay buffers, each with another reward."""
    spec = Spec((1,), Continuous(1), 4)
    rewards = jnp.broadcast_to(10.0 * jnp.arange(4.0)[:, None], (4, 5))
    rows = transition_rows(spec).pack(
        Transition(jnp.zeros((4, 5, 1)), jnp.zeros((4, 5, 1)), rewards, jnp.zeros((4, 5, 1)), jnp.zeros((4, 5)))
    )
    minibatches = drawn(spec, SAC, meta_batch=4, strata=strata)
    source = {"transitions": TaskRings(rows, jnp.full(4, 5))}
    batch = outer.Batch(((), source), jax.random.split(KEY, 4), jnp.ones(4))
    for taken in minibatches.deal(batch):
        data = minibatches.take(batch, taken).data
        assert sorted(data.task.tolist()) == [0, 1, 2, 3]
        assert data.transitions.reward.shape == (4, SAC.batch_size)
        np.testing.assert_array_equal(data.transitions.reward, 10.0 * data.task[:, None] * jnp.ones(SAC.batch_size))


@pytest.fixture(scope="module")
def trained():
    """The states after two updates on one and on two devices, of four tasks with heads and surgery, and its family."""
    goals = 0.5 * jnp.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
    family = tasks.with_task_id(tasks.numbered(tiny.family(), tasks.PointTask(goal=goals)))
    meta = jm.multi_task(family, CONFIG)
    assert meta.info.spread == 4

    def run(num_devices):
        execution = jm.Execution(devices=num_devices)
        state = jm.init_state(meta, KEY, execution=execution)
        return jax.device_get(jm.train(meta, state, 2, execution=execution).replace(key=()))

    return run(1), run(2), family


def test_one_and_two_devices_give_the_same_agent(trained):
    one, two, _ = trained
    chex.assert_trees_all_close(one, two, rtol=1e-5, atol=1e-5)
    assert one.params.log_temperature.shape == (4,) and (one.params.log_temperature != 0).all()


def test_every_task_fills_its_own_replay_buffer(trained):
    state, _, family = trained
    kept = state.source["transitions"]
    obs = transition_rows(family.env.spec).unpack(jnp.asarray(kept.rows)).obs
    for index in range(4):
        size = int(min(kept.written[index], kept.rows.shape[1]))
        assert size > 0
        np.testing.assert_array_equal(obs[index, :size, 2:], np.tile(np.eye(4)[index], (size, 1)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"trace": 0.9}, "trace is 0.9; it needs outer_loop ppo$"),
        ({"discount": 0.9}, r"discount is 0.9; it needs outer_loop ppo \(with sac it is sac.discount\)$"),
        ({"activation": "relu"}, "activation is 'relu'; it needs outer_loop ppo"),
        ({"streams": 20}, "replay_capacity is 40; one update on a task has 160 transitions"),
        ({"action_scale": -1.0}, "action_scale is -1.0; it must be positive"),
    ],
)
def test_a_config_that_sac_would_ignore_or_cannot_use_is_refused_in_one_line(changes, message):
    with pytest.raises(ValueError, match=message) as found:
        jm.multi_task(tiny.observed_by("multi-task", tiny.family()), dataclasses.replace(CONFIG, **changes))
    assert "\n" not in str(found.value)


def test_a_family_that_sac_cannot_learn_is_refused_in_one_line():
    alone = tasks.numbered(tiny.family(), tasks.PointTask(goal=jnp.zeros((1, 2))))
    with pytest.raises(ValueError, match="surgery is 'pcgrad', but the family has 1 task; it needs at least 2"):
        jm.multi_task(alone, CONFIG)
    with pytest.raises(ValueError, match="tasks.train_tasks is None"):
        jm.multi_task(tiny.family(), CONFIG)
    choices = tasks.numbered(tasks.bandit(), jax.vmap(tasks.bandit().sample)(jax.random.split(KEY, 2)))
    with pytest.raises(ValueError, match="tasks.action is one of .* choices; soft actor-critic needs continuous"):
        jm.multi_task(choices, CONFIG)
    with pytest.raises(ValueError, match="a multi-head network needs the one-hot ID of 3 tasks at its end"):
        networks_of(1, num_heads=3)


@pytest.mark.slow
def test_classic_control_from_the_command_line(tmp_path):
    """Kinds with continuous actions of `several`, a run that is resumed, and one that cannot start from it."""
    kinds = "multi-task classic-control --tasks.kinds pendulum cart-pole-swing-up --tasks.horizon 3"
    line = f"train {kinds} --algo.outer-loop sac --algo.network heads --algo.visits 1 --algo.streams 2 --algo.hidden 4"
    line += " --algo.sac.gradient-steps 2 --algo.sac.batch-size 4 --algo.sac.replay-capacity 30"
    run = [*line.split(), "--out", str(tmp_path / "run"), "--eval-tasks", "2"]
    assert cli.main([*run, "--updates", "2"]) == 0
    assert cli.main([*run, "--updates", "4", "--resume"]) == 0
    records = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [one["temperature/task_1"] == 1.0 for one in records] == [True, False, False, False]  # one warm-up update
    kept = jm.load(tmp_path / "run").state.source["transitions"]
    np.testing.assert_array_equal(kept.written, [4 * 2 * 3] * 2)
    start = [*line.split(), "--out", str(tmp_path / "new"), "--start-from", str(tmp_path / "run")]
    assert cli.main(start) == 2 and not (tmp_path / "new").exists()
