"""What an agent believes, as numbers and as a picture."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxmeta as jm
from jaxmeta import cli, outer, tasks
from jaxmeta.core.rollout import collect
from jaxmeta.viz import beliefs, plot
from tests import tiny

GRID = tasks.grid_navigation(tasks.GridConfig(size=3, horizon=4, num_episodes=3))
CONFIG = tiny.ALGOS["varibad"]
KEY = jax.random.key(0)
FLAGS = "--tasks.size 3 --tasks.horizon 2 --tasks.num-episodes 2 --algo.num-tasks 4 --algo.hidden 4 --updates 1"
VARIBAD = f"{FLAGS} --algo.encoder-hidden 4 --algo.vae.capacity 4 --algo.vae.batch-size 2 --algo.ppo.minibatches 1"


def test_probabilities_of_a_carry_are_those_along_the_trial():
    meta = jm.varibad(GRID, CONFIG)
    params = jax.jit(meta.learner.init)(KEY)
    trial = jax.jit(lambda: collect(meta.learner, params, GRID.env, GRID.sample(KEY), KEY, meta.plan))()
    experience = jax.tree.map(lambda leaf: leaf[0], trial.rounds)
    along = beliefs.along(GRID, CONFIG, params, experience)
    assert along.shape == (13, 3, 3) and ((along > 0) & (along < 1)).all()

    carry = meta.learner.reset(params, (), KEY)
    for step in range(3):
        inputs = jax.tree.map(lambda leaf, step=step: leaf[step, 0], experience.inputs)
        carry, _ = meta.learner.act(params, (), carry, inputs)
        now = beliefs.goal_probabilities(GRID, CONFIG, params, carry)
        np.testing.assert_allclose(now, along[step], atol=1e-5)


def test_cells_are_named_by_their_coordinates():
    env = tasks.GridNavigation(size=3)
    cells = [int(env.cell_of(jnp.array([x, y], jnp.float32))) for x in range(3) for y in range(3)]
    assert cells == list(range(env.num_cells))


def test_goal_probabilities_need_a_cell_decoder():
    config = dataclasses.replace(CONFIG, reward_decoder="next-obs")
    meta = jm.varibad(GRID, config)
    params = meta.learner.init(KEY)
    with pytest.raises(ValueError, match="the agent has no belief over cells"):
        beliefs.goal_probabilities(GRID, config, params, meta.learner.reset(params, (), KEY))
    assert not beliefs.has_cells(GRID, tiny.ALGOS["rl2"])


@pytest.mark.slow
def test_a_trained_belief_excludes_visited_cells_and_finds_the_goal():
    """Where a step paid nothing no more is expected, where one paid it is; nothing but trials told the agent so."""
    vae = outer.VariationalConfig(learning_rate=5e-3, steps=10, batch_size=32, capacity=1000)
    ppo = outer.ActorCriticConfig(minibatches=1, epochs=1, value_weight=0.5, entropy_weight=1.0)
    config = jm.VariBADConfig(num_tasks=32, encoder_hidden=32, vae=vae, ppo=ppo)
    meta = jm.varibad(GRID, config)
    params = jm.train(meta, jm.init_state(meta, KEY), 150, chunk=150).params
    everywhere = tasks.all_goals(tasks.GridConfig(size=3))
    for index in range(5):
        goal = jax.tree.map(lambda leaf, index=index: leaf[index], everywhere)
        trial = collect(meta.learner, params, GRID.env, goal, jax.random.fold_in(KEY, index), meta.plan)
        experience = jax.tree.map(lambda leaf: leaf[0], trial.rounds)
        last = np.asarray(beliefs.along(GRID, config, params, experience)[-1])
        for x, y in np.asarray(experience.next_obs[:, 0], int):
            if ((x, y) == np.asarray(goal.goal)).all():
                assert last[x, y] > 0.8
            else:
                assert last[x, y] < 0.2


def test_a_picture_has_a_row_per_episode():
    path, shades = np.zeros((2, 5, 2)), np.full((2, 5, 3, 3), 0.5)
    path[1, 4] = (2, 1)
    shades[1, 4, 2, 1] = 1.0
    figure = plot.walks(path, np.array([2, 1]), 3, "title", shades)
    titles = [axes.get_title() for axes in figure.axes[:6]]
    assert titles == [f"episode {episode}, step {step}" for episode in (1, 2) for step in (0, 2, 4)]
    last = figure.axes[5]
    # x to the right, y up
    np.testing.assert_array_equal(last.images[0].get_array(), shades[1, 4].T)
    assert last.images[0].origin == "lower"
    np.testing.assert_array_equal(last.get_lines()[1].get_xydata(), [[2, 1]])
    assert len(plot.walks(path, np.array([2, 1]), 3, "title").axes) == 2


RENDERED = [tiny.slow("varibad", VARIBAD), ("ppo", FLAGS + " --algo.ppo.minibatches 1")]


@pytest.mark.parametrize(("algo", "flags"), RENDERED)
def test_render_draws_a_trial_and_spares_other_files(algo, flags, tmp_path, capsys):
    run = tmp_path / algo
    assert cli.main(["train", algo, "grid-navigation", "--out", str(run), "--eval-tasks", "0", *flags.split()]) == 0
    capsys.readouterr()
    for _ in range(2):  # its own picture is drawn over
        assert cli.main(["render", str(run), "--task", "3"]) == 0
        assert capsys.readouterr().out.split() == [str(run / "trial-3.png")]
    assert (run / "trial-3.png").read_bytes().startswith(b"\x89PNG")
    (run / "trial-4.png").write_text("mine")
    assert cli.main(["render", str(run), "--task", "4"]) == 2
    assert "exists and was not drawn by jaxmeta" in capsys.readouterr().err
    assert (run / "trial-4.png").read_text() == "mine"
    assert cli.main(["render", str(run), "--out", str(tmp_path / "nowhere" / "a.png")]) == 2
    assert "cannot be written: the folder" in capsys.readouterr().err


def test_render_refuses_unsupported_tasks(tmp_path, capsys):
    run = tmp_path / "bandit"
    flags = "--tasks.num-arms 2 --tasks.num-pulls 1 --algo.num-tasks 4 --algo.hidden 4 --algo.ppo.minibatches 1"
    assert (
        cli.main(["train", "ppo", "bandit", "--out", str(run), "--eval-tasks", "0", "--updates", "1", *flags.split()])
        == 0
    )
    capsys.readouterr()
    assert cli.main(["render", str(run)]) == 2
    can = "render draws runs on grid-navigation, maze, sinusoid, playground and families on Brax"
    assert capsys.readouterr().err == f"jaxmeta: the run in {run} is on bandit; {can}\n"
    assert cli.main(["render"]) == 2
    assert "render needs the folder of a run" in capsys.readouterr().err
