from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmeta.rl import replay as rings
from jaxmeta.types import Continuous, Spec

HALF_CHEETAH = Spec((17,), Continuous(6), horizon=200)
write, draw, draw_beginning = (
    jax.jit(rings.write),
    jax.jit(rings.draw, static_argnums=3),
    jax.jit(rings.draw_beginning, static_argnums=3),
)


def numbered(start, count):
    """Rows of one number each, start, start + 1, ... [1, count, 1]."""
    return start + jnp.arange(float(count))[None, :, None]


def filled(portions, tasks=1, capacity=4, task=0):
    """The rings after some portions of numbered rows went to one task."""
    state, start = rings.empty_rings(tasks, capacity, 1), 1
    for count in portions:
        state = write(state, jnp.array([task]), numbered(start, count), jnp.ones((1, count)))
        start += count
    return state


def seen(state, task=0, count=64):
    """All that can be drawn of a task."""
    return sorted(set(np.ravel(draw(state, jnp.array([task]), jax.random.key(0), count)).tolist()))


def test_a_transition_comes_back_from_its_row():
    layout = rings.transition_rows(Spec((2, 3), Continuous(2), horizon=4))
    shapes = {
        "obs": (5, 4, 2, 3),
        "action": (5, 4, 2),
        "reward": (5, 4),
        "next_obs": (5, 4, 2, 3),
        "terminated": (5, 4),
    }
    keys = dict(zip(shapes, jax.random.split(jax.random.key(0), 5), strict=True))
    kept = rings.Transition(**{name: jax.random.normal(keys[name], shape) for name, shape in shapes.items()})
    rows = layout.pack(kept)
    assert rows.shape == (5, 4, layout.width) == (5, 4, 2 * 6 + 2 + 2)
    back = layout.unpack(rows)
    for name in shapes:
        np.testing.assert_array_equal(getattr(back, name), getattr(kept, name))


def test_a_million_transitions_of_half_cheetah_take_168_megabytes():
    layout = rings.transition_rows(HALF_CHEETAH)
    assert rings.bytes_per_transition(layout) == 4 * (2 * 17 + 6 + 2) == 168
    state = jax.eval_shape(lambda: rings.empty_rings(100, 10_000, layout.width))
    assert state.rows.size * state.rows.dtype.itemsize == 168_000_000


@pytest.mark.parametrize(
    ("portions", "kept"), [([2], [1, 2]), ([4], [1, 2, 3, 4]), ([3, 3], [3, 4, 5, 6]), ([4, 4, 1], [6, 7, 8, 9])]
)
def test_a_full_ring_overwrites_its_oldest_rows(portions, kept):
    state = filled(portions)
    assert seen(state) == kept
    np.testing.assert_array_equal(state.size, [len(kept)])


def test_rings_of_tasks_are_separate():
    state = rings.empty_rings(3, 4, 1)
    rows = jnp.concatenate([numbered(10, 3), numbered(20, 3)])
    state = write(state, jnp.array([2, 0]), rows, jnp.ones((2, 3)))
    assert (seen(state, 0), seen(state, 2)) == ([20, 21, 22], [10, 11, 12])
    np.testing.assert_array_equal(state.rows[1], np.zeros((4, 1)))
    np.testing.assert_array_equal(state.written, [3, 0, 3])


def test_invalid_steps_are_not_stored():
    state = rings.empty_rings(1, 3, 1)
    for start in (1, 5):
        state = write(state, jnp.array([0]), numbered(start, 3), jnp.array([[1.0, 0.0, 1.0]]))
    # 1, 3, then 5, 7: the ring of three has lost the 1 and no more
    assert seen(state) == [3, 5, 7]
    np.testing.assert_array_equal(state.written, [4])


def test_more_rows_than_a_ring_holds_are_refused():
    with pytest.raises(ValueError, match="rows has 5 rows per task; a ring holds at most 4"):
        rings.write(rings.empty_rings(1, 4, 1), jnp.array([0]), numbered(1, 5), jnp.ones((1, 5)))


def test_a_forgotten_ring_holds_only_what_comes_after():
    state = filled([3], tasks=2, task=1)
    state = write(state, jnp.array([0]), numbered(7, 1), jnp.ones((1, 1)))
    state = rings.forget(state, jnp.array([1]))
    np.testing.assert_array_equal(state.size, [1, 0])
    state = write(state, jnp.array([1]), numbered(30, 2), jnp.ones((1, 2)))
    assert (seen(state, 0), seen(state, 1)) == ([7], [30, 31])


def test_a_ring_with_fewer_rows_than_a_batch_gives_each_equally_often():
    rows = np.ravel(draw(filled([3]), jnp.array([0]), jax.random.key(1), 3000))
    values, counts = np.unique(rows, return_counts=True)
    np.testing.assert_array_equal(values, [1, 2, 3])
    np.testing.assert_allclose(counts, 1000, atol=110)  # four standard deviations


@pytest.mark.parametrize("portions", [[4], [3, 3], [4, 4, 1]])
def test_a_beginning_starts_with_the_oldest_row_wherever_the_ring_was_cut(portions):
    state, last = filled(portions), sum(portions)
    lengths = set()
    for key in jax.random.split(jax.random.key(0), 24):
        rows, valid = draw_beginning(state, jnp.array([0]), key, 3)
        np.testing.assert_array_equal(rows[0, :, 0], last - 3 + np.arange(3))
        np.testing.assert_array_equal(np.diff(valid[0]) <= 0, True)
        lengths.add(int(valid.sum()))
    assert lengths == {1, 2, 3}


def test_a_beginning_longer_than_a_ring_says_which_rows_are_there():
    state = filled([2], tasks=2)
    lengths = set()
    for key in jax.random.split(jax.random.key(0), 24):
        rows, valid = draw_beginning(state, jnp.array([0, 1]), key, 6)
        np.testing.assert_array_equal(valid[1], np.zeros(6))
        np.testing.assert_array_equal(rows[0, :2, 0], [1, 2])
        lengths.add(int(valid[0].sum()))
    assert lengths == {1, 2}
