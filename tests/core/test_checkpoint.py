from __future__ import annotations

import chex
import jax
import jax.numpy as jnp
import pytest

from jaxmeta.core.checkpoint import Checkpointer, CheckpointError
from jaxmeta.types import TrainState


def make_state(width=3, value=1.0):
    return TrainState(
        params={"w": jnp.full((width,), value)}, opt_state=(), key=jax.random.key(7), step=jnp.array(5, jnp.int32)
    )


@pytest.mark.smoke
def test_a_state_comes_back_as_it_was(tmp_path):
    checkpointer = Checkpointer(tmp_path)
    checkpointer.save(5, make_state())
    restored = Checkpointer(tmp_path).restore(make_state(value=0.0))
    chex.assert_trees_all_equal(restored.params, make_state().params)
    assert jax.random.uniform(restored.key) == jax.random.uniform(make_state().key)
    assert restored.step == 5 and restored.step.dtype == jnp.int32


def test_the_last_states_are_kept(tmp_path):
    checkpointer = Checkpointer(tmp_path, keep=2)
    for update in (1, 2, 3):
        checkpointer.save(update, make_state(value=float(update)))
    assert checkpointer.latest() == 3
    assert checkpointer.restore(make_state(), 2).params["w"][0] == 2.0
    with pytest.raises(CheckpointError):
        checkpointer.restore(make_state(), 1)


def test_another_shape_names_the_leaf_and_both_shapes(tmp_path):
    checkpointer = Checkpointer(tmp_path)
    checkpointer.save(1, make_state(width=3))
    with pytest.raises(CheckpointError, match=r"params.w is float32\[3\]; this configuration needs float32\[4\]"):
        checkpointer.restore(make_state(width=4))


def test_another_structure_names_the_leaf(tmp_path):
    checkpointer = Checkpointer(tmp_path)
    checkpointer.save(1, make_state())
    with pytest.raises(CheckpointError, match=r"params.v is not there; this configuration needs float32\[2\]"):
        checkpointer.restore(make_state().replace(params={"v": jnp.zeros(2), "w": jnp.zeros(3)}))


def test_an_empty_folder_says_so(tmp_path):
    with pytest.raises(CheckpointError, match="no checkpoint in"):
        Checkpointer(tmp_path).restore(make_state())
