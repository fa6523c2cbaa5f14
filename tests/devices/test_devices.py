"""Tasks on two devices: no task sees another, and the mean is that of one device."""

from __future__ import annotations

import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxmeta as jm
from jaxmeta import devices, rl
from jaxmeta.core import train
from jaxmeta.core.rollout import collect, replay
from jaxmeta.experiment import registry
from tests import tiny
from tests.rl.test_returns import experience


def adapt_and_score(theta, target):
    """One inner gradient step towards a task's target, and the loss after it."""
    adapted = theta - 0.1 * jax.grad(lambda value: jnp.sum((value - target) ** 2))(theta)
    return jnp.sum((adapted - target) ** 2), adapted


TARGETS = jnp.arange(4.0)[:, None] + jnp.array([0.0, 10.0])
THETA = jnp.array([1.0, 2.0])
MESH = devices.Execution().mesh(4)


def test_there_are_two_devices():
    assert len(jax.devices()) == 2


def test_inner_gradients_do_not_mix_over_devices():
    """The default of shard_map would sum them: adapted params of all tasks would be equal."""
    run = devices.map_over_tasks(lambda theta, target: adapt_and_score(theta, target)[1], MESH)
    expected = jax.vmap(lambda target: adapt_and_score(THETA, target)[1])(TARGETS)
    np.testing.assert_allclose(jax.jit(run)(THETA, TARGETS), expected, rtol=1e-6)


def test_without_over_tasks_inner_gradients_would_mix():
    """The check above can fail: with shard_map's default, it does."""
    mesh = jax.sharding.Mesh(jax.devices(), ("task",))
    spec = jax.sharding.PartitionSpec
    run = jax.shard_map(
        lambda theta, targets: jax.vmap(lambda target: adapt_and_score(theta, target)[1])(targets),
        mesh=mesh,
        in_specs=(spec(), spec("task")),
        out_specs=spec("task"),
    )
    expected = jax.vmap(lambda target: adapt_and_score(THETA, target)[1])(TARGETS)
    assert not np.allclose(jax.jit(run)(THETA, TARGETS), expected, rtol=1e-2)


def test_meta_gradient_equals_that_of_one_device():
    def mean_score(theta, targets):
        return jnp.mean(jax.vmap(lambda target: adapt_and_score(theta, target)[0])(targets))

    def local(theta, targets):
        assert devices.num_devices() == 2 and len(targets) == 2
        return devices.task_mean(jax.grad(mean_score)(theta, targets)), ()

    with jax.set_mesh(MESH):
        gradient, _ = jax.jit(lambda *both: devices.over_tasks(local, *both))(THETA, TARGETS)
    np.testing.assert_allclose(gradient, jax.grad(mean_score)(THETA, TARGETS), rtol=1e-6)


@pytest.mark.parametrize(("tasks", "count"), [(1, 1), (2, 2), (3, 1), (4, 2)])
def test_a_batch_uses_as_many_devices_as_divide_it(tasks, count):
    assert devices.Execution().mesh(tasks).size == count
    assert devices.Execution(devices=1).mesh(tasks).size == 1


def test_a_program_outside_of_a_mesh_runs_on_one_device():
    assert devices.num_devices() == 1
    shared, each = devices.over_tasks(lambda theta, some: (devices.task_sum(some.sum()), some), (), jnp.arange(4.0))
    assert float(shared) == 6.0 and each.shape == (4,)


def test_an_execution_needs_a_device():
    with pytest.raises(ValueError, match="devices is 0; it must be at least 1"):
        devices.Execution(devices=0)


@pytest.mark.parametrize("chunk", [None, 1, 2, 4, 5, 100])
def test_pieces_do_not_change_a_map_or_a_mean(chunk):
    values = jnp.arange(6.0)
    double, nothing = devices.chunked_vmap(lambda x: (x * 2, jnp.zeros(0)), values, chunk)
    np.testing.assert_array_equal(double, values * 2)
    assert nothing.shape == (6, 0)  # such as what a bandit shows
    np.testing.assert_allclose(devices.mean_over_chunks(lambda some: jnp.mean(some**2), values, chunk), 55 / 6)


@pytest.mark.smoke
def test_an_odd_number_of_tasks_trains_and_evaluates():
    """One device of two is left out: the state must not be on it."""
    family = tiny.family()
    meta = jm.maml(family, jm.MAMLConfig(num_tasks=3, streams=2, hidden=(4,), outer_loop="ppo"))
    state = jm.train(meta, jm.init_state(meta, jax.random.key(0)), 2)
    tasks = jax.vmap(family.sample)(jax.random.split(jax.random.key(1), 5))
    report = jm.evaluate(meta.learner, state.params, family.env, tasks, jax.random.key(2), meta.plan)
    assert report.returns.shape == (5, 2, 2, 1)


def test_a_fitted_baseline_hardly_enlarges_rounding():
    """Or what differs from one number of devices to another by rounding would soon differ by much more."""
    walk = 0.1 * jnp.cumsum(jax.random.normal(jax.random.key(0), (20, 5, 2)), 0)
    stored, returns = experience(jnp.zeros((20, 5)), jnp.zeros((20, 5)), obs=walk), 10.0 * jnp.cos(walk[..., 0])
    with jax.enable_x64(True):
        exact = rl.fit_linear_baseline(
            jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), stored), np.asarray(returns, np.float64)
        )
    np.testing.assert_allclose(rl.fit_linear_baseline(stored, returns), exact, atol=5e-6)


def precisions(program, *arguments):
    """What a compiled program asks for in its matrix products."""
    return set(re.findall(r"dot_general.*precision = \[(\w+)", program.lower(*arguments).as_text()))


def test_products_are_in_float32_on_accelerators(monkeypatch):
    """There JAX's own default rounds factors: on an H100, MAML's ratios at the first step were off by up to 4e-4."""
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    family = tiny.family()
    meta = tiny.algo("maml", family)
    params = meta.learner.init(jax.random.key(0))
    task, key = family.sample(jax.random.key(1)), jax.random.key(2)

    def again(params):
        trial = collect(meta.learner, params, family.env, task, key, meta.plan)
        return replay(meta.learner, params, trial).dist.loc.sum()

    assert precisions(jax.jit(jax.grad(again)), params) == {"HIGHEST"}
    state = jax.eval_shape(meta.init, key)
    assert precisions(train.make_chunk(meta, 1), state) == {"HIGHEST"}
    with jax.default_matmul_precision("bfloat16"):  # who asks for something gets it
        assert precisions(jax.jit(lambda params: again(params)), params) == {"DEFAULT"}


def test_programs_for_a_gpu_are_compiled_with_its_options(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    double = devices.compiled(lambda x: 2.0 * x)
    assert double(3.0) == 6.0  # this version of XLA knows them
    monkeypatch.setitem(devices.GPU_OPTIONS, "xla_gpu_no_such_option", True)
    with pytest.raises(jax.errors.JaxRuntimeError, match="xla_gpu_no_such_option"):
        devices.compiled(lambda x: 2.0 * x)(3.0)


def test_an_evaluation_can_be_part_of_a_program_for_a_gpu(monkeypatch):
    """JAX takes such options only for whole programs."""
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    family = tiny.family()
    learner = tiny.algo("maml", family).learner
    params, keys = learner.init(jax.random.key(0)), jax.random.split(jax.random.key(1), 2)

    def mean_return(params):
        tasks = jax.vmap(family.sample_test)(keys)
        return jm.evaluate(learner, params, family.env, tasks, keys[0], jm.Plan()).returns.mean()

    assert jnp.isfinite(jax.jit(mean_return)(params))
    # several seeds side by side are a program of their own
    monkeypatch.setitem(devices.GPU_OPTIONS, "xla_gpu_no_such_option", True)
    with pytest.raises(jax.errors.JaxRuntimeError, match="xla_gpu_no_such_option"):
        jax.vmap(mean_return)(jax.tree.map(lambda leaf: leaf[None], params))


@pytest.mark.parametrize(("size", "strata"), [(1, 1), (6, 2), (8, 8), (20, 4), (48, 8)])
def test_strata_do_not_depend_on_the_devices(size, strata):
    assert devices.num_strata(size) == strata


COUNTS = """
import sys
from benchmarks import faults
faults.compare_counts(sys.argv[1], [1, 2, 4, 8])
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", registry.ALGOS)
def test_an_update_on_1_2_4_and_8_devices_is_the_same_up_to_rounding(name):
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", COUNTS, name], stdout=subprocess.PIPE, text=True, check=True
    )
    assert float(run.stdout) <= 1e-5
