"""Pictures of options, and what they are drawn from."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

import jaxmeta as jm
from jaxmeta import inner
from jaxmeta.references import moving_bandits as references
from jaxmeta.references.base import reference
from jaxmeta.tasks.four_rooms import CELLS, MOVES
from jaxmeta.types import Output
from jaxmeta.viz import options

FAMILY = jm.tasks.moving_bandits()
SPEC = FAMILY.env.spec


def of_logits(act):
    """A policy without memory, from (params, observation) -> logits."""
    return reference(5, lambda key: (), lambda theta, carry, inputs: (carry, act(theta, inputs.obs)))


def test_probabilities_are_those_of_master_and_policies():
    policy = of_logits(lambda theta, obs: jnp.where(jnp.arange(5) == theta, jnp.log(6.0), 0.0))
    obs = jnp.linspace(0.0, 1.0, 3)[:, None] * jnp.ones(6)
    actions = options.action_probabilities(policy, jnp.array([1, 4]), SPEC, obs)
    expected = np.full((2, 3, 5), 0.1)
    expected[0, :, 1] = expected[1, :, 4] = 0.6
    np.testing.assert_allclose(actions, expected, rtol=1e-6)

    master = of_logits(lambda params, obs: jnp.stack([jnp.zeros(()), obs[0]]))
    agent = inner.hierarchy(inner.exploring(master, 0.5), policy, 2, 10)
    params = inner.HierarchyParams((), jnp.array([1, 4]))
    use = options.choice_probabilities(agent, params, (), SPEC, obs)
    np.testing.assert_allclose(use[:, 1], 1 / (1 + np.exp(-np.asarray(obs[:, 0]))), rtol=1e-6)
    found = options.acting(use, actions, ((0, 0), (1, 0), (-1, 0), (0, 1), (0, -1)))
    # the first goes right and the second down, with probability 0.6 instead of 0.1
    assert found.moves is not None
    np.testing.assert_allclose(found.moves, np.stack([0.5 * use[:, 0], -0.5 * use[:, 1]], 1), rtol=1e-5)


def test_returns_are_those_of_each_policy_alone():
    goals = [references.towards(index) for index in (0, 1)]

    def act(theta, fast, carry, inputs):
        logits = jnp.stack([goal.act((), (), (), inputs)[1].dist for goal in goals])
        return carry, Output(dist=logits[theta], value=jnp.zeros(()))

    policy = goals[0]._replace(act=act)
    found = options.policy_returns(policy, jnp.array([1, 0]), FAMILY.env, FAMILY.train_tasks, jax.random.key(0), 400)
    own, other = references.oracle_return(), references.other_goal_return()
    np.testing.assert_allclose(found, [[other, own], [own, other]], atol=2.0)
    picture = options.draw_returns(np.asarray(found), ["a", "b"], ["0", "1"], "title", own)
    axes = picture.axes[0]
    assert [text.get_text() for text in axes.texts] == [f"{value:.1f}" for value in np.ravel(found)]
    np.testing.assert_allclose(axes.images[0].get_array(), found)


def test_rooms_show_the_option_of_every_cell_and_where_it_goes():
    use = np.zeros((104, 2))
    use[:52, 0] = use[52:, 1] = 1.0
    moves = np.array(MOVES)[np.arange(104) % 4]
    picture = options.draw_rooms({"after": options.Acting(use, moves, [62])}, ["left", "right"], "title")
    (axes,) = picture.axes
    image = np.asarray(axes.images[0].get_array())
    colors = {tuple(image[row, column].round(6)) for row, column in CELLS[:52]}
    assert len(colors) == 1 and colors != {tuple(image[tuple(CELLS[60])].round(6))}
    assert len(np.unique(image.reshape(-1, 3).round(6), axis=0)) == 3  # walls are the third
    (arrows,) = axes.collections
    # on the screen, as in the picture, rows grow downwards: `up` is one row less
    np.testing.assert_allclose(np.stack([arrows.V, arrows.U], 1), 0.9 * moves)
    star = axes.lines[0]
    assert (star.get_ydata()[0], star.get_xdata()[0]) == tuple(CELLS[62])


def test_the_plane_has_goals_and_colours_at_their_positions():
    side = np.arange(10.0, 400.0, 20.0)
    positions = np.stack(np.meshgrid(side, side), -1).reshape(-1, 2)
    use = np.stack([positions[:, 0] < 200, positions[:, 0] >= 200], 1).astype(float)
    panel = options.Acting(use, np.zeros_like(positions), [(100.0, 300.0), (300.0, 50.0)])
    (axes,) = options.draw_plane({"after": panel}, positions, ["a", "b"], "title").axes
    image = np.asarray(axes.images[0].get_array())
    assert (image[:, :10] == image[0, 0]).all() and (image[:, 10:] == image[0, -1]).all()
    assert not np.allclose(image[0, 0], image[0, -1])
    assert [patch.center for patch in axes.patches] == [(100.0, 300.0), (300.0, 50.0)]
    assert [text.get_text() for text in axes.texts] == ["0", "1"]
