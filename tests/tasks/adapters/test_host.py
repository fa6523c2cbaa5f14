"""Simulators on the host: batches, order, what is used again, and what is refused."""

from __future__ import annotations

import dataclasses
import threading
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxmeta as jm
from jaxmeta import tasks, testing
from jaxmeta.tasks.adapters import host
from jaxmeta.types import Continuous, Spec, Step
from tests import tiny

SPEC = Spec((3,), Continuous(1), horizon=5, terminates=True, success=True)


class Walk:
    """A walk from a start that the seed gives; it ends beyond the task, and knows when it is misused."""

    made = 0

    def __init__(self, kind):
        type(self).made += 1
        self.kind, self.over, self.calls = kind, True, 0

    def reset(self, task, seed):
        assert (task > 0) == self.kind
        self.start, self.limit, self.position, self.over = np.float32(seed % 97), np.abs(task), np.float32(0), False
        return self.seen()

    def seen(self):
        return np.array([self.start, self.position, self.kind], np.float32)

    def step(self, action):
        assert not self.over, "stepped after its end"
        self.calls += 1
        self.position += np.clip(action, -1, 1)[0]
        self.over = self.position > self.limit
        return host.Outcome(self.seen(), -np.abs(self.position), bool(self.over), success=bool(self.over))


@dataclasses.dataclass(frozen=True)
class Twin:
    """The same in JAX."""

    spec = SPEC

    def reset(self, key, task):
        start = (jax.random.bits(key) % 97).astype(jnp.float32)
        obs = jnp.stack([start, jnp.float32(0), (task > 0).astype(jnp.float32)])
        return obs, obs

    def step(self, key, state, action, task):
        obs = state.at[1].add(jnp.clip(action, -1, 1)[0])
        over = obs[1] > jnp.abs(task)
        return obs, Step(obs, -jnp.abs(obs[1]), over, success=over)


def sample(key):
    return jax.random.uniform(key, (), minval=-1.0, maxval=1.0)


def simulators() -> host.Simulators:
    return host.Simulators(Walk, lambda task: bool(task > 0))


def family(env: Any) -> jm.TaskFamily:
    return jm.TaskFamily(env, sample, sample, tasks.flatten_task)


@pytest.fixture(scope="module")
def walks():
    return family(host.HostEnv(SPEC, simulators()))


@pytest.fixture(scope="module")
def agent(walks):
    meta = jm.rl2(walks, dataclasses.replace(tiny.ALGOS["rl2"], episodes=2))
    return meta, meta.learner.init(jax.random.key(1))


def evaluated(agent, env, **keywords):
    meta, params = agent
    some = jax.vmap(sample)(jax.random.split(jax.random.key(2), 6))
    plan = jm.Plan(streams=2, episodes=2)
    return jax.device_get(jm.evaluate(meta.learner, params, env, some, jax.random.key(3), plan, **keywords))


def test_a_simulator_holds_the_contract_of_environments(walks):
    testing.check_env(walks)


@pytest.mark.parametrize("devices", [1, 2])
def test_trials_equal_those_of_an_environment_in_jax(walks, agent, devices):
    execution = jm.Execution(devices=devices)
    ours, twins = evaluated(agent, walks.env, execution=execution), evaluated(agent, Twin(), execution=execution)
    assert 0 < np.mean(twins.lengths < SPEC.horizon) < 1
    chex.assert_trees_all_close(ours, twins, rtol=1e-5)
    chex.assert_trees_all_equal(ours, evaluated(agent, walks.env, execution=execution))


def test_a_loop_over_tasks_equals_a_batch(walks):
    def run(key, task):
        state, _ = walks.env.reset(key, task)
        step = lambda state, key: walks.env.step(key, state, jnp.full(1, 0.3), task)  # noqa: E731
        return jax.lax.scan(step, state, jax.random.split(key, 4))[1]

    keys, some = jax.random.split(jax.random.key(4), 3), jnp.array([0.5, -0.7, 2.0])
    looped = jax.jit(lambda: jax.lax.map(lambda one: run(*one), (keys, some)))()
    chex.assert_trees_all_equal(looped, jax.jit(lambda: jax.vmap(run)(keys, some))())


def test_one_callback_per_step_for_tasks_and_streams():
    sizes = []
    env = host.HostEnv(SPEC, simulators())
    step = env._step
    object.__setattr__(env, "_step", lambda *moments: sizes.append(len(moments[0])) or step(*moments))

    def stream(key, task):
        state, _ = env.reset(key, task)
        return env.step(key, state, jnp.zeros(1), task)[1].reward

    streams = jax.vmap(stream, (0, None))
    keys = jax.random.split(jax.random.key(0), (3, 4))
    jax.block_until_ready(jax.jit(jax.vmap(streams))(keys, jnp.ones(3)))
    assert sizes == [12]


def test_equal_keys_do_not_share_a_simulator():
    env = host.HostEnv(SPEC, simulators())
    state, _ = jax.vmap(env.reset, (None, 0))(jax.random.key(0), jnp.array([0.5, 2.0]))
    state, _ = jax.vmap(env.step, (None, 0, 0, 0))(jax.random.key(0), state, jnp.array([[0.25], [1.0]]), jnp.ones(2))
    np.testing.assert_array_equal(state.obs[:, 1], [0.25, 1.0])


def test_an_ended_episode_stands_still():
    pool = simulators()
    env, task, key = host.HostEnv(SPEC, pool), jnp.float32(0.5), jax.random.key(0)
    state, _ = env.reset(key, task)
    state, last = env.step(key, state, jnp.ones(1), task)
    assert last.terminated and last.reward == -1 and state.time == -1
    simulator = pool._free[True][0]
    for _ in range(2):
        state, step = env.step(key, state, jnp.ones(1), task)
        np.testing.assert_array_equal(step.obs, last.obs)
        assert step.reward == 0 and not step.terminated and not step.success
    assert simulator.calls == 1


def test_a_stale_state_is_refused():
    env, task, key = host.HostEnv(SPEC, simulators()), jnp.float32(5), jax.random.key(0)
    first, _ = env.reset(key, task)
    second, _ = env.step(key, first, jnp.ones(1), task)
    with pytest.raises(Exception, match="step 0 was stepped, but its episode is at step 1; .* cannot go back"):
        jax.block_until_ready(env.step(key, first, jnp.ones(1), task))
    third, _ = env.step(key, second, jnp.ones(1), task)
    assert third.obs[1] == 2


def test_simulators_are_used_again_and_those_left_behind_are_dropped(monkeypatch):
    monkeypatch.setattr(host, "CAPACITY", 4)
    monkeypatch.setattr(Walk, "made", 0)
    monkeypatch.setattr(jax, "local_device_count", lambda: 1)
    pool = simulators()
    for _ in range(3):
        number, _ = pool.reset(np.float32(0.5), 0, 1)
        assert pool.step(number, 0, np.ones(1), 5)[0] == -1
    assert Walk.made == 1
    first, _ = pool.reset(np.float32(5), 0, 1)
    for _ in range(4):
        pool.reset(np.float32(-5), 0, 1)
    assert Walk.made == 5 and len(pool._episodes) == 4
    with pytest.raises(RuntimeError, match="its episode has ended or was dropped"):
        pool.step(first, 0, np.ones(1), 5)
    for _ in range(4):  # a larger batch has room
        pool.reset(np.float32(-5), 0, 4)
    assert len(pool._episodes) == 8


def test_devices_do_not_get_the_same_simulator():
    pool, taken = simulators(), []

    def run():
        for _ in range(200):
            number, _ = pool.reset(np.float32(0.5), 0, 2)
            taken.append(number)
            assert pool.step(number, 0, np.ones(1), 5)[0] == -1

    threads = [threading.Thread(target=run) for _ in range(2)]
    [one.start() for one in threads], [one.join() for one in threads]
    assert len(set(taken)) == 400 and len(pool._free[True]) <= 2
