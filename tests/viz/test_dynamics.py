"""Imagined trajectories of a known model, and the figure of predictions."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from jaxmeta import nets, rl
from jaxmeta.types import Continuous, Spec
from jaxmeta.viz import dynamics

SPEC = Spec((2,), Continuous(1), 5)


def test_imagined_trajectories_are_open_loop_and_a_particle_keeps_its_member():
    model = nets.Dynamics(
        3,
        2,
        init=lambda key: jnp.zeros(()),
        apply=lambda gain, x: nets.Prediction(gain * x[..., 2:] * jnp.array([1.0, 2.0]), jnp.zeros((*x.shape[:-1], 2))),
        penalty=lambda gain: jnp.zeros(()),
        probabilistic=False,
    )
    actions = jnp.array([[1.0], [0.5], [-1.0]])
    paths = dynamics.imagined_trajectories(
        SPEC, model, jnp.array([1.0, -1.0]), rl.dynamics_statistics(3, 2), jnp.ones(2), actions, jax.random.key(0), 4
    )
    assert paths.shape == (2, 4, 3, 2)
    moved = np.cumsum(actions)[:, None] * np.array([1.0, 2.0])
    for member, gain in enumerate((1.0, -1.0)):
        for particle in paths[member]:
            np.testing.assert_allclose(particle, 1.0 + gain * moved, rtol=1e-5)


def test_the_figure_has_a_panel_per_number_and_model():
    true = np.linspace(0.0, 1.0, 8)[:, None] * np.array([1.0, -2.0])
    paths = true + np.random.default_rng(0).normal(size=(3, 4, 8, 2))
    figure = dynamics.predictions(true, [("early", paths), ("late", 0.1 * paths)], ("x", "v"), "title", "note")
    assert len(figure.axes) == 4
    assert figure.axes[1].get_title() == "v" and figure.axes[2].get_ylabel() == "late"
    drawn = figure.axes[0].lines[0].get_ydata()
    np.testing.assert_allclose(drawn, np.median(paths.reshape(-1, 8, 2)[..., 0], axis=0))
    low, high = figure.axes[1].get_ylim()
    assert (low, high) == (-4.0, 2.0)
