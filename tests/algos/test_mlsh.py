"""MLSH: what it refuses, and on two cores what it learns."""

from __future__ import annotations

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxmeta as jm
from jaxmeta import outer, rl, types
from jaxmeta.algos.hierarchy import mlsh
from jaxmeta.algos.hierarchy.mlsh import MasterConfig
from jaxmeta.algos.hierarchy.use import option_use
from jaxmeta.tasks.base import among

FAMILY = jm.tasks.moving_bandits()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_policies": 1}, "num_policies is 1; a master needs at least 2 to choose from"),
        ({"duration": 7}, "duration is 7; it must be at least 1 and divide the horizon, which is 50"),
        ({"duration": 0}, "duration is 0; it must be at least 1"),
        ({"trials": "whole", "warmup": 0}, "warmup is 0; it must be at least 1"),
        ({"warmup": 0}, "warmup is 0; it must be at least 1"),
        ({"ppo": outer.ActorCriticConfig(minibatches=2)}, "minibatches is 2; with tasks in progress it must be 1"),
        ({"joint": 0}, "joint is 0; it must be at least 1"),
        ({"trials": "some"}, "trials is 'some'; it must be one of in-progress, whole"),
    ],
)
def test_wrong_settings_are_refused_in_one_line(changes, message):
    with pytest.raises(ValueError) as refused:
        jm.mlsh(FAMILY, jm.MLSHConfig(**changes))
    assert message in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize("changes", [{"random": 1.5}, {"state": 0}, {"hidden": (0,)}])
def test_a_master_is_checked_too(changes):
    with pytest.raises(ValueError, match=next(iter(changes))):
        MasterConfig(**changes)


def test_another_sampler_is_refused_for_tasks_in_progress():
    with pytest.raises(ValueError, match="a task stays for several updates"):
        jm.outer.with_sampler(jm.mlsh(FAMILY), jm.outer.every(FAMILY))


@pytest.mark.slow
def test_sub_policies_learn_different_goals_and_a_new_master_finds_the_right_one():
    """The matrix of policies and goals, not its mean: sub-policies that have collapsed have an empty column."""
    from jaxmeta.viz import options

    config = jm.MLSHConfig()
    meta = jm.mlsh(FAMILY, config)
    state = jm.train(meta, jm.init_state(meta, jax.random.key(0)), 240, chunk=40)
    policy, params = mlsh.sub_policies(FAMILY.env.spec, config, state.params)
    returns = options.policy_returns(policy, params, FAMILY.env, FAMILY.train_tasks, jax.random.key(1))
    returns = np.asarray(returns)
    assert set(returns.argmax(0)) == {0, 1}
    assert returns.max(0).min() > 36 and returns.min(0).max() < 4
    tasks = jax.vmap(FAMILY.sample_test)(jax.random.split(jax.random.key(2), 100))
    report = jm.evaluate(meta.learner, state.params, FAMILY, tasks, jax.random.key(3), meta.plan)
    assert np.asarray(report.returns)[:, -1].mean() > 36


@pytest.mark.slow
def test_continuous_sub_policies_on_ant_take_an_update():
    """Goals in four directions would be learned on a GPU; here the recipe is built and takes one update."""
    ants = jm.tasks.ant_dir(jm.tasks.AntDirConfig(horizon=20, forward_backward=False))
    four = among(ants.sample(jax.random.key(0)).replace(angle=jnp.pi / 2 * jnp.arange(4.0)))
    family = ants._replace(sample=four, sample_test=four)
    meta = jm.mlsh(family, jm.MLSHConfig(num_policies=4, duration=5, num_tasks=2, streams=2, warmup=1, joint=1))
    before = jm.init_state(meta, jax.random.key(0))
    start = jax.device_get(before.params)
    after = jm.train(meta, before, 2, chunk=2)
    change = jax.tree.map(lambda a, b: np.abs(np.asarray(a) - b).max(), after.params, start)
    assert all(np.isfinite(leaf).all() and leaf > 0 for leaf in jax.tree.leaves(change))


def test_shares_of_options_are_counted_over_valid_steps():
    option = jnp.array([[0, 1, 1, 2], [2, 2, 0, 0]]).T[None, None]
    valid = jnp.array([[1.0, 1.0, 1.0, 1.0], [1.0, 0.0, 0.0, 0.0]]).T[None, None]
    decision = rl.Decision.of(option, jnp.ones_like(valid), types.Output((), valid))
    trials = SimpleNamespace(rounds=SimpleNamespace(valid=valid, output=types.Output((), valid, decision)))
    found = option_use(trials, 3)  # pyright: ignore[reportArgumentType]
    assert {name: round(float(share), 6) for name, share in found.items()} == {
        "use/length": 1.0,
        "use/option_0": 0.2,
        "use/option_1": 0.4,
        "use/option_2": 0.4,
    }
