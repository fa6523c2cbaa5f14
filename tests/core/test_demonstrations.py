"""Demonstrations: a round trip bit for bit, and every kind of damage refused before anything is read."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxmeta as jm
from jaxmeta.core.demonstrations import DemonstrationsError, checksum
from jaxmeta.types import Discrete, Fault, Input, Rollout, Spec

SPEC = Spec({"image": jax.ShapeDtypeStruct((2, 2), jnp.uint8), "place": (1,)}, Discrete(3), horizon=2, terminates=True)


def made(tasks=3, steps=4, streams=2) -> jm.Demonstrations:
    """Demonstrations of arbitrary numbers, NaN included, that no environment has to be compiled for."""
    random = np.random.default_rng(0)
    shape = (tasks, steps, streams)
    number = lambda: random.standard_normal(shape).astype(np.float32)  # noqa: E731
    obs = lambda: {  # noqa: E731
        "image": random.integers(0, 256, (*shape, 2, 2)).astype(np.uint8),
        "place": random.standard_normal((*shape, 1)).astype(np.float32),
    }
    action = random.integers(0, 3, shape).astype(np.int32)
    inputs = Input(obs(), action, number(), number(), obs(), number())
    reward = number()
    reward.flat[:1] = np.nan
    rollouts = Rollout(
        inputs=inputs,
        action=action,
        next_obs=obs(),
        reward=reward,
        valid=np.ones(shape, np.float32),
        done=number(),
        terminated=number(),
        output=(),
        reset_key=jax.random.split(jax.random.key(1), (tasks, streams)),
        success=np.zeros(shape, bool),
        fault=np.full(shape, Fault.NONE, np.int8),
    )
    return jm.Demonstrations.of(rollouts, SPEC, "rooms", "somebody")


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "some.npz"
    made().save(path)
    return path


def test_the_round_trip_is_exact_to_the_bit(file):
    before, after = made(), jm.Demonstrations.load(file, SPEC)
    assert jax.tree.structure(before) == jax.tree.structure(after)
    for one, other in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
        assert one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()
    assert (after.num_tasks, after.episodes, after.streams) == (3, 2, 2)
    key = jax.random.split(jax.random.key(1), (3, 2))[1]
    assert (after.rollout(1).reset_key == key).all()


def test_the_file_is_a_plain_npz(file):
    with np.lib.npyio.NpzFile(file) as archive:
        np.testing.assert_array_equal(archive["inputs.obs.image"], made().rollouts.inputs.obs["image"])


def test_any_flipped_bit_is_refused(file):
    content = file.read_bytes()
    for place in {*range(0, len(content), 97), len(content) - 1}:
        changed = bytearray(content)
        changed[place] ^= 1 << (place % 8)
        file.write_bytes(changed)
        with pytest.raises(DemonstrationsError, match="has changed since it was written"):
            jm.Demonstrations.load(file, SPEC)


@pytest.mark.parametrize("size", [1, 63, 64, 65, 1000, -1])
def test_a_truncated_file_is_refused(file, size):
    file.write_bytes(file.read_bytes()[:size])
    with pytest.raises(DemonstrationsError, match="is truncated"):
        jm.Demonstrations.load(file, SPEC)


def test_an_empty_and_a_missing_file_are_refused(file):
    file.write_bytes(b"")
    with pytest.raises(DemonstrationsError, match="some.npz is empty"):
        jm.Demonstrations.load(file, SPEC)
    with pytest.raises(DemonstrationsError, match="other.npz cannot be read: No such file"):
        jm.Demonstrations.load(file.with_name("other.npz"), SPEC)


def test_another_spec_is_refused(file):
    with pytest.raises(DemonstrationsError, match=r"spec.horizon is 2, but the tasks have 4"):
        jm.Demonstrations.load(file, dataclasses.replace(SPEC, horizon=4))
    with pytest.raises(DemonstrationsError, match=r"spec.observation is .*, but the tasks have float32\[2\]"):
        jm.Demonstrations.load(file, dataclasses.replace(SPEC, observation=(2,)))
    with pytest.raises(ValueError, match="demonstrations have spec.horizon 2; the tasks have 4"):
        made().check(dataclasses.replace(SPEC, horizon=4))


def test_what_does_not_fit_into_memory_is_refused_with_its_size(file):
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(made()))
    with pytest.raises(DemonstrationsError, match=f"it takes {size:,} bytes of memory, but {size - 1:,} are free"):
        jm.Demonstrations.load(file, SPEC, limit_bytes=size - 1)
    jm.Demonstrations.load(file, SPEC, limit_bytes=size)


def test_a_file_is_never_replaced(file):
    content = file.read_bytes()
    with pytest.raises(DemonstrationsError, match="some.npz exists"):
        made(tasks=1).save(file)
    assert file.read_bytes() == content and list(file.parent.iterdir()) == [file]


def test_a_failed_write_leaves_nothing(tmp_path):
    odd = made()
    odd = odd.replace(rollouts=odd.rollouts.replace(reward=np.zeros((3, 4, 2), complex)))
    with pytest.raises(DemonstrationsError, match="cannot hold reward: its dtype is complex128"):
        odd.save(tmp_path / "odd.npz")
    assert not list(tmp_path.iterdir())


def test_the_checksum_is_that_of_saving(tmp_path):
    assert made().save(tmp_path / "one.npz") == checksum(tmp_path / "one.npz")


def test_no_demonstrations_and_parts_of_episodes_are_refused():
    with pytest.raises(ValueError, match=r"rollouts.reward has shape \[0, 4, 2\]"):
        made(tasks=0)
    with pytest.raises(ValueError, match="rollouts has 3 steps; it must be a multiple of the horizon, 2"):
        made(steps=3)
