"""Recorded episodes before and after adaptation, and the pages and pictures of them."""

from __future__ import annotations

import html
import re
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxmeta as jm
from jaxmeta import cli, references, tasks
from jaxmeta.experiment import registry, runs
from jaxmeta.types import Output
from jaxmeta.viz import recording, replays
from tests import tiny

KEY = jax.random.key(0)


def run_of(algo, family):
    meta = tiny.algo(algo, family)
    config = types.SimpleNamespace(algo="maml", tasks="navigation")
    return types.SimpleNamespace(config=config, meta=meta, family=family, first_params=meta.learner.init(KEY))


def position(state):
    return {"position": state.position}


def test_records_the_states_before_and_after_adaptation():
    run = run_of("maml", tasks.reveal(tasks.navigation(tasks.NavigationConfig(horizon=4))))
    task, episodes = recording.before_and_after(run, 1, position)
    assert [one.label for one in episodes] == ["before adaptation", "after 1 round of adaptation"]
    ways = [one.views["position"] for one in episodes]
    for way, episode in zip(ways, episodes, strict=True):
        assert way.shape == (len(episode.rewards) + 1, 2)
        np.testing.assert_allclose(episode.rewards, -np.linalg.norm(way[1:] - task.goal, axis=-1), rtol=1e-5)
    assert not np.allclose(*ways) and np.allclose(*(way[0] for way in ways))  # the agent has adapted
    again = recording.before_and_after(run, 1, position)[1]
    np.testing.assert_array_equal(again[1].rewards, episodes[1].rewards)
    assert not np.allclose(recording.before_and_after(run, 2, position)[0].goal, task.goal)


class Brief(tasks.Navigation):
    """Ends after one step."""

    def step(self, key, state, action, task):
        state, step = super().step(key, state, action, task)
        return state, step.replace(terminated=jnp.array(True))


def test_records_the_first_and_the_last_episode_of_an_agent_with_memory_up_to_its_end():
    run = run_of("rl2", tasks.navigation()._replace(env=Brief(horizon=4)))
    _, episodes = recording.before_and_after(run, 0, position)
    labels = ["before adaptation: episode 1 of 3", "after adaptation: episode 3 of 3"]
    assert [one.label for one in episodes] == labels
    assert all(one.rewards.shape == (1,) and one.views["position"].shape == (2, 2) for one in episodes)
    assert not np.array_equal(episodes[0].rewards, episodes[1].rewards)


def test_an_agent_with_a_single_episode_has_no_before():
    run = run_of("ppo", tasks.navigation(tasks.NavigationConfig(horizon=3)))
    (episode,) = recording.before_and_after(run, 0, position)[1]
    assert episode.label == "the only episode of a trial"


def test_an_agent_that_imitates_is_recorded_after_the_demonstration():
    """An agent that goes where the demonstration ended: the origin, where it starts, without one."""
    family = tasks.navigation(tasks.NavigationConfig(horizon=10))
    certain = references.base.certain(lambda inputs: inputs.obs)
    learner = certain._replace(
        start=lambda params, key: jnp.zeros(2),
        act=lambda params, fast, carry, inputs: (carry, Output(dist=fast - inputs.obs, value=jnp.zeros(()))),
        adapt=lambda params, fast, experience, key: experience.next_obs[-1, 0],
    )
    meta = types.SimpleNamespace(learner=learner, plan=jm.Plan(rounds=1))
    config = types.SimpleNamespace(algo="mil", tasks="navigation", expert=None, sources=None)
    run = types.SimpleNamespace(config=config, meta=meta, family=family, first_params=())
    task, (before, after) = recording.before_and_after(run, 0, position)
    np.testing.assert_array_equal(before.views["position"], 0.0)
    np.testing.assert_allclose(after.views["position"][-1], task.goal, atol=0.02)


def test_tasks_are_written_in_a_line():
    task = {"goal": jnp.array([1.0, -0.25]), "mass": jnp.arange(6.0)}
    assert replays.describe(task) == "goal = 1, -0.25; mass = 6 values from 0 to 5"
    assert replays.describe(jnp.float32(0.5)) == "0.5"


@pytest.fixture
def still(monkeypatch):
    """Two episodes of an arm that does not move: no physics to compile."""
    from jaxmeta.tasks.brax import viewer

    family = tasks.reveal(tasks.reacher_goal())
    arm = viewer.unwrap(family.env)
    links = arm.body.sys.num_links()
    poses = {"pos": np.ones((3, links, 3), np.float32), "rot": np.tile(np.array([1.0, 0, 0, 0]), (3, links, 1))}
    episodes = [recording.Episode(label, poses, np.array([-1.0, 0.25])) for label in ("before <", "after")]
    monkeypatch.setattr(replays, "before_and_after", lambda run, seed, view: (family.sample(KEY), episodes))
    config = types.SimpleNamespace(algo="maml", tasks="reacher-goal")
    return types.SimpleNamespace(config=config, family=family, step=2000)


def test_a_page_holds_two_labelled_viewers(still):
    page = replays.draw_trial(still, 3)
    assert "made by jaxmeta" in page[:1000]
    assert "maml on reacher-goal after 2,000 updates" in page and "Held-out task 3: goal = " in page
    captions = re.findall("<figcaption>(.*?)</figcaption>", page)
    assert captions == ["before &lt;: return -0.8 in 2 steps", "after: return -0.8 in 2 steps"]
    inner = [html.unescape(text) for text in re.findall('srcdoc="(.*?)"', page, re.DOTALL)]
    assert len(inner) == 2
    for viewer in inner:
        assert "new Viewer(domElement, system); viewer.camera.followDistance" in viewer  # Brax's page has not changed
        assert system_of(viewer)["opt"]["timestep"] == pytest.approx(0.02)
        assert np.shape(system_of(viewer)["states"]["x"][0]["pos"])[1:] == (3,)


def system_of(page):
    import base64
    import json
    import zlib

    (packed,) = re.findall('var system = "(.*?)"', page)
    return json.loads(zlib.decompress(base64.b64decode(packed)))


def test_a_page_needs_a_body():
    run = types.SimpleNamespace(config=types.SimpleNamespace(tasks="navigation"), family=tasks.navigation())
    with pytest.raises(ValueError, match="navigation is no family on Brax"):
        replays.draw_trial(run, 0)


def test_every_family_on_brax_is_rendered_into_a_page(tmp_path, capsys):
    """The kind of the file is checked before JAX starts: the run has no checkpoint."""
    from jaxmeta.cli import render

    on_brax = [name for name, entry in registry.TASKS.items() if entry.module == "jaxmeta.tasks.brax"]
    assert len(on_brax) >= 10 and {render.RENDERED[name] for name in on_brax} == {"jaxmeta.viz.replays"}
    for name, wrong, kind in (("ant-crippled", "a.png", ".html"), ("maze", "a.html", ".png")):
        folder = tmp_path / name
        folder.mkdir()
        config = registry.TASKS[name].load()[1]()
        runs.write_config(folder, runs.RunConfig("maml", name, tiny.ALGOS["maml"], config))
        assert cli.main(["render", str(folder), "--out", str(tmp_path / wrong)]) == 2
        line = f"jaxmeta: --out is {tmp_path / wrong}; a run on {name} is drawn into a {kind} file\n"
        assert capsys.readouterr().err == line


def test_families_of_the_user_are_drawn_if_they_are_on_brax():
    from jaxmeta.cli import render

    assert render._own(tasks.reacher_goal()) == "jaxmeta.viz.replays" and render._own(tasks.navigation()) is None


# what is recorded is looked at above, and drawing in tests/tasks/test_maze.py
@pytest.mark.slow
def test_a_maze_is_drawn(tmp_path, capsys):
    run = tmp_path / "maze"
    flags = "--tasks.size 2 --tasks.view 1 --tasks.horizon 4 --tasks.num-train 0 --algo.num-tasks 4 --algo.hidden 4"
    command = ["train", "rl2", "maze", "--out", str(run), "--eval-tasks", "0", "--updates", "1", *flags.split()]
    assert cli.main([*command, "--algo.ppo.minibatches", "1"]) == 0
    capsys.readouterr()
    assert cli.main(["render", str(run)]) == 0
    assert capsys.readouterr().out.split() == [str(run / "trial-0.png")]
    assert (run / "trial-0.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow  # compiles the physics three times
def test_a_run_on_brax_is_drawn(tmp_path, capsys):
    run = tmp_path / "arm"
    flags = "--tasks.horizon 5 --algo.num-tasks 2 --algo.streams 2 --algo.hidden 4 --updates 1 --eval-tasks 0"
    assert cli.main(["train", "maml", "reacher-goal", "--out", str(run), *flags.split()]) == 0
    assert cli.main(["render", str(run), "--task", "3"]) == 0
    page = (run / "trial-3.html").read_text()
    assert page.count("<iframe") == 2 and "after 1 round of adaptation: return -" in page
