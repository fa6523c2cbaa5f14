from __future__ import annotations

import random
import shutil

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmeta import devices
from jaxmeta.core import manifest
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
    with pytest.raises(CheckpointError, match="no checkpoint of update 1 in .*; there are 2, 3$"):
        checkpointer.restore(make_state(), 1)


def test_another_shape_names_the_leaf_and_both_shapes(tmp_path):
    checkpointer = Checkpointer(tmp_path)
    checkpointer.save(1, make_state(width=3))
    with pytest.raises(CheckpointError, match=r"params.w is float32\[3\]; this configuration needs float32\[4\]"):
        checkpointer.restore(make_state(width=4))


def test_another_structure_names_the_leaf(tmp_path):
    checkpointer = Checkpointer(tmp_path)
    checkpointer.save(1, make_state())
    with pytest.raises(CheckpointError, match=r"params.v is missing; this configuration needs float32\[2\]"):
        checkpointer.restore(make_state().replace(params={"v": jnp.zeros(2), "w": jnp.zeros(3)}))


def test_an_empty_folder_says_so(tmp_path):
    with pytest.raises(CheckpointError, match="no checkpoint in"):
        Checkpointer(tmp_path).restore(make_state())


def files_of(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


@pytest.fixture(scope="module")
def two_saved(tmp_path_factory):
    """A folder with checkpoints 1 and 2, of which 2 is to be damaged in copies."""
    folder = tmp_path_factory.mktemp("two")
    checkpointer = Checkpointer(folder)
    for update in (1, 2):
        checkpointer.save(update, make_state(value=float(update)), about={"algo": "maml"})
    return folder


def damaged_copy(two_saved, tmp_path, damage):
    """Copies the folder, damages checkpoint 2 and reads the last good one."""
    copy = tmp_path / "copy"
    shutil.copytree(two_saved, copy)
    damage(copy / "2")
    restored = Checkpointer(copy).restore_last(make_state())
    shutil.rmtree(copy)
    return restored


def flip_bit(file, bit):
    content = bytearray(file.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    file.write_bytes(content)


def test_one_flipped_bit_in_any_file_is_found_and_named(two_saved, tmp_path):
    files = files_of(two_saved / "2")
    assert len(files) > 5
    for seed, name in enumerate(files):
        size = (two_saved / "2" / name).stat().st_size
        bit = random.Random(seed).randrange(8 * size)
        restored = damaged_copy(two_saved, tmp_path, lambda place, name=name, bit=bit: flip_bit(place / name, bit))
        assert restored.update == 1 and restored.state.params["w"][0] == 1.0
        assert name in restored.skipped[2]


def test_every_bit_of_a_manifest_counts(two_saved, tmp_path):
    shutil.copytree(two_saved / "2", tmp_path / "2")
    file = tmp_path / "2" / "manifest.json"
    whole = file.read_bytes()
    for bit in range(0, 8 * len(whole), 61):  # every place in a byte, all over the file
        flip_bit(file, bit)
        with pytest.raises(manifest.Damaged, match="manifest.json"):
            manifest.read(tmp_path / "2")
        file.write_bytes(whole)
    assert manifest.check(tmp_path / "2")["algo"] == "maml"


@pytest.mark.parametrize("how", ["cut", "empty", "gone"])
def test_a_file_that_is_cut_or_gone_is_found_and_named(how, two_saved, tmp_path):
    def damage(file):
        if how == "gone":
            file.unlink()
        else:
            file.write_bytes(file.read_bytes()[: -1 if how == "cut" else 0])

    for name in files_of(two_saved / "2"):
        restored = damaged_copy(two_saved, tmp_path, lambda place, name=name: damage(place / name))
        assert restored.update == 1 and name in restored.skipped[2]


def test_what_does_not_belong_there_is_refused(two_saved, tmp_path):
    def link(place):
        (place / "state" / "more").symlink_to("/etc/hostname")

    assert "new.txt is not listed" in damaged_copy(two_saved, tmp_path, lambda p: (p / "new.txt").touch()).skipped[2]
    assert "state/more is not a regular file" in damaged_copy(two_saved, tmp_path, link).skipped[2]


@pytest.mark.parametrize("name", ["../1/manifest.json", "/etc/hostname"])
def test_a_manifest_cannot_lead_out_of_its_folder(name, two_saved, tmp_path, monkeypatch):
    def damage(place):
        contents = manifest.read(place)
        contents["files"][name] = {"size": 1, "sha256": ""}
        (place / "manifest.json").write_text(manifest._render(contents))

    assert "is outside the checkpoint" in damaged_copy(two_saved, tmp_path, damage).skipped[2]


def test_sizes_are_checked_before_anything_is_read(two_saved, tmp_path, monkeypatch):
    monkeypatch.setattr(manifest, "LARGEST", 100)
    with pytest.raises(CheckpointError, match="the limit is"):
        Checkpointer(two_saved).restore(make_state(), 2)
    monkeypatch.undo()

    def allocate(*arguments, **named):
        raise AssertionError("an array was read")

    checkpointer = Checkpointer(two_saved)
    monkeypatch.setattr(checkpointer._orbax, "restore", allocate)
    with pytest.raises(CheckpointError, match="params.w is"):
        checkpointer.restore(make_state(width=10**6), 2)


def test_restoring_the_last_state_reports_damaged_ones(two_saved, tmp_path):
    shutil.copytree(two_saved, tmp_path / "copy")
    (tmp_path / "copy" / "2" / "manifest.json").unlink()
    with pytest.warns(UserWarning, match="copy/2 is damaged: manifest.json.*; restored the checkpoint of update 1"):
        state = Checkpointer(tmp_path / "copy").restore(make_state())
    assert state.params["w"][0] == 1.0


def test_if_all_checkpoints_are_damaged_each_is_named(two_saved, tmp_path):
    shutil.copytree(two_saved, tmp_path / "copy")
    for update in (1, 2):
        (tmp_path / "copy" / str(update) / "manifest.json").unlink()
    with pytest.raises(CheckpointError, match="copy/2 is damaged: manifest.json.*copy/1 is damaged: manifest.json"):
        Checkpointer(tmp_path / "copy").restore_last(make_state())


def test_the_best_checkpoint_is_kept_in_addition_to_the_last(tmp_path):
    checkpointer = Checkpointer(tmp_path, keep=2)
    for update, score in enumerate((1.0, 9.0, 3.0, None, 5.0), 1):
        checkpointer.save(update, make_state(value=float(update)), score=score)
    assert checkpointer.updates() == [2, 4, 5]
    assert checkpointer.best() == 2
    checkpointer.save(6, make_state(), score=9.0)
    assert checkpointer.best() == 6
    assert checkpointer.updates() == [5, 6]


def test_an_asynchronous_save_keeps_its_state(tmp_path):
    checkpointer = Checkpointer(tmp_path)
    step = jax.jit(lambda state: jax.tree.map(lambda leaf: leaf + 1, state), donate_argnums=0)
    state = {"w": jnp.zeros(1_000_000)}
    state = step(state)
    checkpointer.save(1, state, wait=False)
    for _ in range(20):
        state = step(state)  # consumes the memory of what is being saved
    checkpointer.wait()
    np.testing.assert_array_equal(checkpointer.restore({"w": jnp.ones(1_000_000)}, 1)["w"], 1.0)


def test_errors_of_asynchronous_saves_are_raised_later_and_once(tmp_path, monkeypatch):
    def full(folder, about):
        raise OSError(28, "No space left on device")

    checkpointer = Checkpointer(tmp_path)
    checkpointer.save(1, make_state())
    with monkeypatch.context() as patch:
        patch.setattr(manifest, "write", full)
        checkpointer.save(2, make_state(), wait=False)
        with pytest.raises(OSError, match="No space left"):
            checkpointer.wait()
    checkpointer.wait()
    assert [entry.name for entry in tmp_path.iterdir()] == ["1"]
    checkpointer.save(2, make_state())
    assert checkpointer.updates() == [1, 2]


def test_a_failed_save_in_one_process_fails_in_all(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    met, checkpointer = [], Checkpointer(tmp_path)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(devices, "largest_of_processes", lambda value: met.append(value) or value)
    monkeypatch.setattr(checkpointer._orbax, "save", full)
    checkpointer.save(1, make_state(), wait=False)
    with pytest.raises(OSError, match="No space left"):
        checkpointer.wait()
    assert met == [False, True]  # for the folder, and for what was written to it
    assert not list(tmp_path.iterdir())


def test_a_number_to_keep_is_checked(tmp_path):
    with pytest.raises(ValueError, match="keep is 0; it must be at least 1"):
        Checkpointer(tmp_path, keep=0)


def test_leftovers_of_a_killed_process_are_removed(tmp_path):
    (tmp_path / "7.partial" / "state").mkdir(parents=True)
    checkpointer = Checkpointer(tmp_path)
    assert checkpointer.latest() is None
    checkpointer.save(7, make_state())
    assert [entry.name for entry in tmp_path.iterdir()] == ["7"]
