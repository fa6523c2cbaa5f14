"""Strict settings of JAX: what jaxmeta traces does not depend on them, and 64 bits are refused."""

from __future__ import annotations

import jax
import pytest

import jaxmeta as jm
from jaxmeta import tasks
from jaxmeta.experiment import registry
from tests import tiny


@pytest.fixture
def strict():
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        yield


@pytest.mark.parametrize("name", [name for name, entry in registry.TASKS.items() if "brax" not in entry.module])
def test_tasks_are_drawn_under_strict_promotion(name, strict):
    family = tiny.by_default(name)
    for sample in (family.sample, family.sample_test):
        jax.eval_shape(lambda key, sample=sample: family.encode(sample(key)), jax.random.key(0))


@pytest.mark.parametrize("name", ["rl2", *map(tiny.slow, ("maml-vpg", "pearl"))])
def test_a_run_under_strict_promotion(name, strict):
    family, meta = tiny.family(), tiny.algo(name)
    state = jm.train(meta, jm.init_state(meta, jax.random.key(0)), 1)
    goals = jax.vmap(family.sample_test)(jax.random.split(jax.random.key(1), 2))
    jm.evaluate(meta.learner, state.params, family.env, goals, jax.random.key(2), meta.plan)
    assert int(state.step) == 1


def test_64_bits_are_refused_in_one_line():
    family, meta = tiny.family(), tiny.algo("ppo")
    state = jm.init_state(meta, jax.random.key(0))
    goals = jax.vmap(family.sample_test)(jax.random.split(jax.random.key(1), 2))
    calls = (
        lambda: jm.rl2(family),
        lambda: jm.init_state(meta, jax.random.key(0)),
        lambda: jm.train(meta, state, 1),
        lambda: jm.evaluate(meta.learner, state.params, family.env, goals, jax.random.key(2), meta.plan),
    )
    for call in calls:
        with jax.enable_x64(True), pytest.raises(ValueError, match="jax_enable_x64 is on; .* float32 ") as found:
            call()
        assert "\n" not in str(found.value)
    with jax.enable_x64(True):
        jax.eval_shape(tasks.navigation().sample, jax.random.key(0))
