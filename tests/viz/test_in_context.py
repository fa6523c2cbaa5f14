"""Returns beside those of references, and the policy of an agent beside the exact posterior."""

from __future__ import annotations

import types
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxmeta as jm
from jaxmeta import references
from jaxmeta.outer import Expert
from jaxmeta.references import experts
from jaxmeta.viz import in_context

CONFIG = jm.tasks.BanditConfig(num_arms=3, num_pulls=6)
FAMILY = jm.tasks.bandit(CONFIG)
KEY = jax.random.key(0)


def curve(*means):
    return [{"mean": mean, "ci95": [mean - 0.1, mean + 0.1]} for mean in means]


def test_agents_and_references_are_lines_of_the_same_axes():
    figure = in_context.returns({"dpt": curve(0.5, 0.7)}, {"UCB1": curve(0.6, 0.8)}, 1, "title", "over 10 tasks")
    (axes,) = figure.axes
    own, other = axes.lines
    np.testing.assert_allclose(own.get_ydata(), [0.5, 0.7])
    np.testing.assert_allclose(other.get_xydata(), [[1, 0.6], [2, 0.8]])
    assert (own.get_linestyle(), other.get_linestyle()) == ("-", "--")
    assert axes.get_xlabel() == "pull of the trial" and len(axes.collections) == 2
    figure = in_context.returns({"dpt": curve(*range(30))}, {}, 5, "title")
    assert figure.axes[0].get_xlabel() == "episode of the trial" and figure.axes[0].lines[0].get_marker() == "None"


def test_policy_and_posterior_share_axes_and_colours():
    arm, reward = np.array([2, 0, 2]), np.array([0.0, 1.0, 1.0])
    policy, posterior = (np.random.default_rng(seed).dirichlet(np.ones(3), 3) for seed in (0, 1))
    trial = in_context.Pulls(*map(jnp.asarray, (arm, reward, policy, posterior, [0.1, 0.9, 0.4])))
    figure = in_context.probabilities(trial, "title")
    above, below = figure.axes[:2]
    assert above.get_xlim() == below.get_xlim() and above.get_ylim() == below.get_ylim()
    assert above.get_ylim()[0] > above.get_ylim()[1]  # the best arm is on top
    for axes, values in ((above, policy), (below, posterior)):
        (image,) = axes.collections
        np.testing.assert_allclose(np.asarray(image.get_array()).reshape(3, 3), values[:, [1, 2, 0]].T)
        assert image.get_clim() == (0.0, 1.0)
        paid, nothing = axes.lines
        np.testing.assert_array_equal(paid.get_xydata(), [[2, 2], [3, 1]])  # arm 0 is the worst, arm 2 the second
        np.testing.assert_array_equal(nothing.get_xydata(), [[1, 1]])
    assert [label.get_text() for label in above.get_yticklabels()] == ["0.90", "0.40", "0.10"]


def test_along_the_pulls_of_probability_matching_policy_and_posterior_agree():
    learner = references.bandits.probability_matching(3)
    task = FAMILY.sample(KEY)
    trial = jax.jit(lambda key: in_context.along_pulls(learner, (), FAMILY, task, key, 6))(KEY)
    np.testing.assert_allclose(trial.policy, trial.posterior, atol=1e-5)
    np.testing.assert_allclose(trial.posterior[0], 1 / 3, atol=1e-6)
    # the arm has density 2 x or 2 (1 - x), and the two others are below x with probability x²
    first, paid = int(trial.arm[0]), float(trial.reward[0])
    expected = 2 * (1 / 4) if paid else 2 * (1 / 3 - 1 / 4)
    np.testing.assert_allclose(trial.posterior[1, first], expected, atol=1e-5)


def run_of(learner, config, family, episodes) -> Any:
    return types.SimpleNamespace(
        config=types.SimpleNamespace(algo="dpt", tasks="bandit", tasks_config=config, num_seeds=1),
        family=family,
        meta=types.SimpleNamespace(learner=learner, plan=jm.Plan(episodes=episodes)),
        learner=learner,
        params=(),
        first_params=(),
        step=7,
    )


def test_pictures_are_drawn_where_there_are_references_and_a_posterior(tmp_path, monkeypatch):
    monkeypatch.setattr(experts, "comparisons", lambda family: {"best": experts.planner(family)})
    monkeypatch.setattr(in_context, "NUM_TRIALS", 8)
    learner = references.bandits.random(3)
    files = in_context.draw(tmp_path, run_of(learner, CONFIG, FAMILY, 6))
    assert [file.name for file in files] == [in_context.CURVES, in_context.POSTERIOR]
    assert all(file.read_bytes().startswith(b"\x89PNG") for file in files)
    assert in_context.draw(tmp_path, run_of(learner, CONFIG, FAMILY, 1)) == []
    # the arms of a dependent bandit have another prior
    dependent = jm.tasks.DependentBanditConfig(num_pulls=3)
    assert not in_context.has_posterior(run_of(learner, dependent, None, 3))
    monkeypatch.setattr(experts, "comparisons", lambda family: {})
    assert in_context.draw(tmp_path, run_of(learner, CONFIG, FAMILY, 6)) == []


def test_references_get_the_tasks_of_the_agent():
    """The agent that knows the best arm is paid with the probability of that arm."""
    family = FAMILY._replace(sample_test=lambda key: jm.tasks.BanditTask(jnp.array([0.0, 1.0, 0.0])))
    for agent, paid in ((experts.planner(family), 1.0), (Expert(references.bandits.random(3), ()), 1 / 3)):
        points = in_context.points(in_context.report(agent, family, episodes=6, num_trials=200, seed=0))
        assert len(points) == 6
        np.testing.assert_allclose(np.mean([one["mean"] for one in points]), paid, atol=0.07)
