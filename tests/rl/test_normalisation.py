"""Running statistics against NumPy's over the same steps."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmeta import rl
from jaxmeta.types import Continuous, Discrete, Spec
from tests.rl.test_returns import experience

SPEC = Spec(
    observation={
        "image": jax.ShapeDtypeStruct((2, 2), jnp.uint8),
        "mask": jax.ShapeDtypeStruct((3,), jnp.bool_),
        "place": (2,),
        "speed": (),
        "task_id": (2,),
    },
    action=Discrete(3),
    horizon=5,
    action_mask="mask",
)
PLAIN = Spec(observation=(5,), action=Continuous(1), horizon=5)


def batches(spec):
    """Three batches of different sizes, whose numbers are far from zero, and which of their steps are valid."""
    rng = np.random.default_rng(0)

    def draw(form, size):
        if not np.issubdtype(form.dtype, np.floating):
            return rng.integers(0, 2, (size, 3, *form.shape)).astype(form.dtype)
        return 50.0 + rng.normal(size=(size, 3, *form.shape)) * np.linspace(0.1, 3.0, form.size).reshape(form.shape)

    def batch(size):
        return jax.tree.map(lambda form: jnp.asarray(draw(form, size), form.dtype), spec.observation_form())

    return [(batch(size), jnp.asarray(rng.random((size, 3)) < 0.7, jnp.float32)) for size in (4, 1, 20)]


def running(statistics, some):
    for obs, valid in some:
        statistics = rl.merged(statistics, rl.statistics_of(obs, valid, statistics))
    return statistics


def numpy_moments(leaves, valid):
    pairs = zip(leaves, valid, strict=True)
    seen = np.concatenate([np.asarray(leaf, np.float64)[np.asarray(mask) > 0] for leaf, mask in pairs])
    return len(seen), seen.mean(0), seen.var(0)


def test_statistics_equal_numpys_over_the_valid_steps():
    some = batches(SPEC)
    found = running(rl.initial_statistics(SPEC, keys=("task_id",)), some)
    order = sorted(SPEC.observation)
    assert [name for name, mean in zip(order, found.mean, strict=True) if mean is not None] == ["place", "speed"]
    for name in ("place", "speed"):
        count, mean, variance = numpy_moments([obs[name] for obs, _ in some], [valid for _, valid in some])
        assert float(found.count) == count
        np.testing.assert_allclose(found.mean[order.index(name)], mean, rtol=1e-5)
        np.testing.assert_allclose(found.variance[order.index(name)], variance, rtol=1e-5)


def test_the_last_numbers_of_a_plain_observation_can_be_left_out():
    some = batches(PLAIN)
    found = running(rl.initial_statistics(PLAIN, last=2), some)
    _, mean, variance = numpy_moments([obs[..., :3] for obs, _ in some], [valid for _, valid in some])
    np.testing.assert_allclose(found.mean[0], mean, rtol=1e-5)
    np.testing.assert_allclose(found.variance[0], variance, rtol=1e-5)
    obs = some[0][0]
    normal = rl.standardised(found, obs)
    np.testing.assert_allclose(normal[..., :3], (obs[..., :3] - mean) / np.sqrt(variance), atol=1e-3)
    np.testing.assert_array_equal(normal[..., 3:], obs[..., 3:])
    with pytest.raises(ValueError, match=r"^last is 6; the observation has shape \(5,\)$"):
        rl.initial_statistics(PLAIN, last=6)
    pixels = dataclasses.replace(PLAIN, observation=jax.ShapeDtypeStruct((2, 2), jnp.uint8))
    with pytest.raises(ValueError, match="^spec.observation is .*; no part is a float array"):
        rl.initial_statistics(pixels)


def test_an_update_keeps_the_types():
    """With weak types at the start, the second update would be compiled again."""
    start = rl.initial_statistics(SPEC)
    for leaf in jax.tree.leaves((start, running(start, batches(SPEC)))):
        assert leaf.dtype == jnp.float32 and not leaf.weak_type


def test_no_steps_change_nothing():
    some = batches(PLAIN)
    for statistics in (rl.initial_statistics(PLAIN), running(rl.initial_statistics(PLAIN), some)):
        obs, valid = some[0]
        after = rl.merged(statistics, rl.statistics_of(obs, 0.0 * valid, statistics))
        jax.tree.map(np.testing.assert_array_equal, after, statistics)


def test_what_is_normalised():
    """Numbers without bound are clipped; integers, masks and chosen keys stay, and so does everything at the start."""
    obs, _ = batches(SPEC)[0]
    near = jax.tree.map(lambda leaf: leaf / 10 if leaf.dtype == jnp.float32 else leaf, obs)
    start = rl.initial_statistics(SPEC, keys=("task_id",))
    jax.tree.map(np.testing.assert_array_equal, rl.standardised(start, near), near)
    normal = rl.standardised(start, obs)
    assert (normal["place"] == rl.CLIP).all() and (normal["speed"] == rl.CLIP).all()
    for name in ("image", "mask", "task_id"):
        np.testing.assert_array_equal(normal[name], obs[name])
        assert normal[name].dtype == obs[name].dtype
    clipped, numbers = rl.clipped_share(start, normal, jnp.ones((4, 3)))
    assert clipped == numbers == 4 * 3 * 3


def test_no_gradient_reaches_the_statistics():
    obs, _ = batches(PLAIN)[0]
    gradient = jax.grad(lambda statistics: jnp.sum(rl.standardised(statistics, obs)))(rl.initial_statistics(PLAIN))
    assert all((leaf == 0.0).all() for leaf in jax.tree.leaves(gradient))


@pytest.mark.parametrize("across", [False, True])
def test_returns_so_far(across):
    """Two episodes of three steps in two streams; the first episode of the second stream ends after one step."""
    reward = np.array([[1.0, 2.0], [3.0, 0.0], [5.0, 0.0], [7.0, 1.0], [1.0, 1.0], [2.0, 4.0]], np.float32)
    valid = np.array([[1, 1], [1, 0], [1, 0], [1, 1], [1, 1], [1, 1]], np.float32)
    done = np.array([[0, 1], [0, 0], [1, 0], [0, 0], [0, 0], [1, 1]], np.float32)
    found = rl.returns_so_far(experience(reward, valid=valid, done=done), 0.5, across)
    for stream in range(2):
        total = 0.0
        for time in range(6):
            if valid[time, stream]:
                total = reward[time, stream] + 0.5 * total
                np.testing.assert_allclose(found[time, stream], total, rtol=1e-6)
                total *= across or not done[time, stream]


def test_scale_of_returns():
    same = rl.Statistics(jnp.float32(3), (jnp.float32(2),), (jnp.float32(0),))
    assert rl.return_scale(same) == 1.0
    np.testing.assert_allclose(rl.return_scale(same.replace(variance=(jnp.float32(1e-4),))), 1e-2, rtol=1e-6)
