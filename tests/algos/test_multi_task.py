"""Multi-task PPO: what an update visits, logs and shares, and that it learns tasks that oppose each other."""

from __future__ import annotations

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxmeta as jm
from jaxmeta import cli, outer, tasks
from jaxmeta.algos.multitask.multi_task import _is_shared
from jaxmeta.types import Continuous, Spec, Step
from tests import tiny

KEY = jax.random.key(0)
CONFIG = tiny.ALGOS["multi-task"]


@dataclasses.dataclass(frozen=True)
class Salary:
    """Two steps that pay what the task says, whatever the agent does."""

    spec = Spec(observation=(1,), action=Continuous(1), horizon=2)

    def reset(self, key, task):
        return jnp.zeros(()), jnp.zeros(1)

    def step(self, key, state, action, task):
        return state, Step(obs=jnp.zeros(1), reward=task, terminated=jnp.array(False))


def salaries(*amounts: float) -> tasks.TaskFamily:
    known = jnp.array(amounts)
    sample = lambda key: known[0]  # noqa: E731
    return tasks.TaskFamily(Salary(), sample, sample, tasks.flatten_task, train_tasks=known)


def test_the_log_has_the_return_of_every_task():
    meta = jm.multi_task(salaries(3.0, -1.0, 2.0), CONFIG)
    _, metrics = jax.jit(meta.update)(jm.init_state(meta, KEY))
    returns = {
        name: float(value) for name, value in metrics.items() if name.startswith(("return/task", "return/worst"))
    }
    assert returns == {"return/task_0": 6.0, "return/task_1": -2.0, "return/task_2": 4.0, "return/worst": -2.0}


def test_a_minibatch_has_equally_many_trials_on_every_task():
    slot = jnp.repeat(jnp.arange(3), 4)
    batch = outer.Batch(slot, jax.random.split(KEY, 12), jnp.ones(12))
    minibatches = outer.shuffled(epochs=2, parts=2)
    for members in minibatches.deal(batch):
        # the order of the tasks is kept, as the aggregate takes neighbours for visits of one task
        np.testing.assert_array_equal(minibatches.take(batch, members).data, [0, 0, 1, 1, 2, 2])


def test_all_but_the_heads_is_shared():
    family = tasks.classic_control()
    for network, own in (("conditioned", False), ("heads", True)):
        params = jax.eval_shape(jm.multi_task(family, dataclasses.replace(CONFIG, network=network)).init, KEY).params
        paths = [
            jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in jax.tree.leaves_with_path(params)
        ]
        assert any("trunk" in path for path in paths) is own
        assert [_is_shared(path) for path in paths] == ["heads" not in path for path in paths]
        assert all(map(_is_shared, paths)) is not own


@pytest.mark.parametrize(
    ("amounts", "changes", "message"),
    [
        ((1.0,), {"surgery": "pcgrad"}, "surgery is 'pcgrad', but the family has 1 task; it needs at least 2"),
        ((1.0, 2.0), {"visits": 3}, "minibatches is 2; it must divide visits, which is 3"),
    ],
)
def test_what_a_finite_set_does_not_allow_is_refused_in_one_line(amounts, changes, message):
    with pytest.raises(ValueError, match=message) as found:
        jm.multi_task(salaries(*amounts), dataclasses.replace(CONFIG, **changes))
    assert "\n" not in str(found.value)


@pytest.mark.slow
@pytest.mark.slow
def test_classic_control_from_the_command_line(tmp_path):
    line = "train multi-task classic-control --tasks.horizon 3 --algo.visits 1 --algo.streams 2 --algo.hidden 4"
    line += " --algo.network heads --algo.surgery pcgrad --algo.ppo.epochs 1 --algo.ppo.minibatches 1"
    assert cli.main([*line.split(), "--out", str(tmp_path / "run"), "--updates", "2", "--eval-tasks", "4"]) == 0
    records = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    # cart-pole pays 1 at every step, acrobot -1
    assert [(one["return/task_0"], one["return/task_1"], one["return/worst"]) for one in records] == [(3, -3, -3)] * 2
    assert "conflicts" in records[0]
    run = jm.load(tmp_path / "run")
    assert run.family.env.spec.observation["task_id"].shape == (2,)


def opposed_goals() -> tasks.TaskFamily:
    """Six goals on a circle of 0.5 m around the start."""
    angle = 2 * jnp.pi * jnp.arange(6) / 6
    goals = tasks.PointTask(goal=0.5 * jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=1))
    return tasks.with_task_id(tasks.numbered(tasks.navigation(tasks.NavigationConfig(horizon=20)), goals))


def returns_by_task(family, config, updates, deterministic=False, num_seeds=3):
    """Trains three seeds, and returns the mean return of each in each task, [seeds, K]."""
    meta = jm.multi_task(family, config)
    state = jm.train(meta, jm.init_state(meta, KEY, num_seeds), updates, chunk=20, num_seeds=num_seeds)

    def evaluate(params):
        plan, key = jm.Plan(streams=32), jax.random.key(99)
        return jm.evaluate(meta.learner, params, family.env, family.train_tasks, key, plan, deterministic).returns

    return np.asarray(jax.vmap(evaluate)(state.params)).mean((2, 3, 4))


NAVIGATION_PPO = outer.ActorCriticConfig(learning_rate=3e-3, epochs=4, value_weight=0.5)
NAVIGATION = jm.MultiTaskConfig(
    visits=1, streams=8, hidden=(32, 32), init_log_std=-0.5, action_scale=0.1, ppo=NAVIGATION_PPO
)


@pytest.mark.slow
def test_conditioned_agents_reach_six_opposed_goals_with_and_without_surgery():
    family = opposed_goals()
    plain = returns_by_task(family, NAVIGATION, 300)
    surgery = returns_by_task(family, dataclasses.replace(NAVIGATION, surgery="pcgrad"), 300)
    # of every task, not their mean: an agent that ignores the task ID may be excellent on a few of them
    assert (plain.min(1) >= -1.2).all() and plain.mean() >= -0.95
    assert abs(surgery.mean() - plain.mean()) <= 0.05


@pytest.mark.slow
@pytest.mark.parametrize("network", ["conditioned", "heads"])
def test_one_agent_balances_cart_poles_and_swings_acrobots_up(network):
    ppo = outer.ActorCriticConfig(learning_rate=2e-3, epochs=4, minibatches=4, value_weight=0.5, entropy_weight=0.02)
    config = jm.MultiTaskConfig(network=network, visits=8, streams=8, ppo=ppo)
    returns = returns_by_task(tasks.with_task_id(tasks.classic_control()), config, 40, deterministic=True)
    assert (returns >= [190.0, -100.0]).all()


@pytest.mark.slow
@pytest.mark.parametrize("network", ["conditioned", "heads"])
def test_soft_actor_critic_reaches_six_opposed_goals(network):
    sac = outer.SoftActorCriticConfig(
        learning_rate=3e-3, gradient_steps=100, batch_size=32, reward_scale=1.0, temperature=None, replay_capacity=4000
    )
    config = jm.MultiTaskConfig(
        network=network, visits=1, streams=4, hidden=(32, 32), action_scale=0.1, outer_loop="sac", sac=sac
    )
    returns = returns_by_task(opposed_goals(), config, 60, deterministic=True, num_seeds=2)
    # standing still has a return of -10, and an agent that ignores the task ID at most that on some goal; the worst
    # return measured here was -1.28, not yet the -1.2 of PPO's agents
    assert (returns >= -1.5).all()
