"""Drawn letters: a writing is more like others of its letter than like other letters, and classes are told by rows."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxmeta as jm
from jaxmeta import tasks

CONFIG = tasks.GlyphsConfig(ways=4, shots=2, queries=3)


@pytest.fixture(scope="module")
def task():
    return jax.jit(tasks.glyphs(CONFIG).sample)(jax.random.key(0))


def test_support_and_query_hold_each_class_equally_often_and_no_picture_twice(task):
    for part, each in ((task.support, 2), (task.query, 3)):
        assert part.inputs.shape == (4 * each, 14 * 14)
        np.testing.assert_array_equal(part.targets.sum(0), [each] * 4)
        assert part.inputs.min() >= 0.0 and 0.5 < part.inputs.max() <= 1.0
    pictures = np.concatenate([task.support.inputs, task.query.inputs])
    assert len(np.unique(pictures, axis=0)) == 20


def test_writings_of_a_letter_are_alike():
    same = right = 0
    draw = jax.jit(tasks.glyphs(tasks.GlyphsConfig(queries=1)).sample)
    for seed in range(20):
        task = draw(jax.random.key(seed))
        distance = jnp.linalg.norm(task.query.inputs[:, None] - task.support.inputs, axis=-1)
        guess = task.support.targets[jnp.argmin(distance, axis=1)]
        right += int((guess * task.query.targets).sum())
        same += 5
    # the nearest picture tells more than chance, which is 0.2, and not all
    assert 0.5 < right / same < 0.99


def test_without_variation_a_letter_is_always_written_alike():
    task = tasks.glyphs(tasks.GlyphsConfig(ways=2, queries=1, variation=0.0)).sample(jax.random.key(0))
    support, query = (part.inputs[np.argmax(part.targets, axis=0)] for part in (task.support, task.query))
    np.testing.assert_allclose(support, query, atol=1e-6)


def test_classes_come_in_no_order():
    """Reptile takes batches of the support's size from the query: they must not be of one class each."""
    config = tasks.GlyphsConfig(ways=4, shots=1, queries=30)
    labels = np.argmax(jax.jit(tasks.glyphs(config).sample)(jax.random.key(0)).query.targets, axis=1)
    assert 60 < np.sum(labels[1:] != labels[:-1]) < 110  # 90 of 119 on average, 3 where they are sorted


@pytest.mark.slow
def test_maml_learns_to_tell_new_letters_from_one_example_each():
    family = tasks.glyphs()
    meta = jm.maml(family, jm.FewShotMAMLConfig(inner_lr=0.1, hidden=(64, 64), num_tasks=16))
    state = jm.train(meta, jm.init_state(meta, jax.random.key(0)), 600, chunk=100)
    test = jax.vmap(family.sample_test)(jax.random.split(jax.random.key(1), 300))
    report = jm.evaluate(meta.learner, state.params, family.env, test, jax.random.key(2), meta.plan)
    before, after = (episodes[0]["mean"] for episodes in report.by_round_and_episode())
    assert 0.15 < before < 0.25
    assert after > 0.5
