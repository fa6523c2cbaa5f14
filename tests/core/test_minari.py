"""Demonstrations as Minari datasets and back."""

from __future__ import annotations

import jax
import numpy as np
import pytest

import jaxmeta as jm
from jaxmeta.core import minari as exchange
from jaxmeta.core.demonstrations import DemonstrationsError
from jaxmeta.references import experts

minari = pytest.importorskip("minari", reason='minari is not installed (pip install "jaxmeta[minari]")')


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))


def demonstrated(family, streams=2, episodes=2):
    behaviour = experts.blind_behaviour(family)

    @jax.jit
    @jax.vmap
    def walk(task, key):
        return jm.rollout(behaviour.learner, (), (), family.env, task, key, streams, episodes)

    tasks = jax.vmap(family.sample)(jax.random.split(jax.random.key(0), 3))
    return jm.Demonstrations.of(walk(tasks, jax.random.split(jax.random.key(1), 3)), family.env.spec, "some", "random")


@pytest.mark.parametrize("name", ["navigation", "cart-pole"])
def test_a_round_trip_keeps_what_was_demonstrated(name, tmp_path):
    family = {
        "navigation": lambda: jm.tasks.navigation(jm.tasks.NavigationConfig(horizon=4)),
        "cart-pole": lambda: jm.tasks.cart_pole(jm.tasks.CartPoleConfig(horizon=25)),
    }[name]()
    before = demonstrated(family)
    dataset = exchange.to_minari(before, f"{name}/random-v0")
    assert dataset.total_episodes == 12 and dataset.total_steps == before.rollouts.valid.sum()
    after = exchange.from_minari(f"{name}/random-v0", family.env.spec, "some")
    after.check(family.env.spec)
    assert (after.num_tasks, after.streams, after.episodes, after.family) == (3, 2, 2, "some")
    valid = before.rollouts.valid > 0
    assert (name == "cart-pole") == (not valid.all())  # some fall early
    for field in ("inputs", "reward", "valid", "done", "terminated", "success", "fault"):
        one, other = getattr(before.rollouts, field), getattr(after.rollouts, field)
        jax.tree.map(np.testing.assert_array_equal, one, other)
    for field in ("action", "next_obs"):
        one, other = getattr(before.rollouts, field), getattr(after.rollouts, field)
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one[valid], other[valid])
    file = tmp_path / "again.npz"
    after.save(file)
    assert jm.Demonstrations.load(file, family.env.spec).source == f"Minari: {name}/random-v0"


def test_an_episode_of_others_is_a_task_and_what_does_not_fit_is_refused():
    family = jm.tasks.cart_pole(jm.tasks.CartPoleConfig(horizon=25))
    dataset = exchange.to_minari(demonstrated(family, 1, 1), "cart-pole/theirs-v0")
    spec = family.env.spec
    second = exchange.from_minari(dataset.filter_episodes(lambda one: one.id == 1), spec)
    assert second.num_tasks == 1
    buffers = [
        minari.data_collector.EpisodeBuffer(
            observations=one.observations, actions=one.actions, rewards=one.rewards, terminations=one.terminations,
            truncations=one.truncations, infos={},
        )
        for one in dataset.iterate_episodes([1, 0])
    ]  # fmt: skip
    spaces = {"observation_space": dataset.observation_space, "action_space": dataset.action_space}
    foreign = minari.create_dataset_from_buffers("foreign-v0", buffers, data_format="hdf5", **spaces)
    theirs = exchange.from_minari(foreign, spec)
    assert (theirs.num_tasks, theirs.streams, theirs.episodes) == (2, 1, 1)
    np.testing.assert_array_equal(theirs.rollouts.inputs.obs[0], second.rollouts.inputs.obs[0])
    short = jm.tasks.cart_pole(jm.tasks.CartPoleConfig(horizon=2)).env.spec
    with pytest.raises(DemonstrationsError, match=r"episode 0 has \d+ steps; the tasks have episodes of 1 to 2"):
        exchange.from_minari(dataset, short)
    with pytest.raises(DemonstrationsError, match=r"observations have shape \[\d\]; the tasks have \[2\]"):
        exchange.from_minari(dataset, jm.tasks.navigation().env.spec)
    with pytest.raises(DemonstrationsError, match="nothing-v0 is no dataset"):
        exchange.from_minari("nothing-v0", spec)
