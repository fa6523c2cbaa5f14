"""Agents with today's sequence models hold the contracts; tests/core/test_contracts.py has walks that can end early."""

from __future__ import annotations

import dataclasses

import jax
import pytest

import jaxmeta as jm
from jaxmeta import tasks, testing
from tests import tiny

FAMILIES = {
    "bandit": lambda: tasks.bandit(tasks.BanditConfig(num_arms=2, num_pulls=3)),
    "grid": lambda: tasks.grid_navigation(tasks.GridConfig(horizon=4, num_episodes=2)),
}
CELLS = ("transformer", "s5", "mamba", "mlstm")
FIRST = ("transformer", "bandit")


@pytest.mark.parametrize(
    ("cell", "family"),
    [
        pytest.param(cell, family, marks=() if (cell, family) == FIRST else pytest.mark.slow)
        for cell in CELLS
        for family in FAMILIES
    ],
)
def test_learner_holds_the_contract(cell, family):
    family = FAMILIES[family]()
    meta = tiny.algo(f"rl2-{cell}", family)
    testing.check_learner(meta.learner, family, dataclasses.replace(meta.plan, episodes=2))


def test_the_size_of_the_carry_is_logged_and_is_that_of_one_stream():
    """One layer of width 8 for 3 steps; values have their own network. Without memory there is no metric."""
    family = FAMILIES["bandit"]()
    sizes = {}
    for name in ("rl2-transformer", "rl2-s5", "rl2", "maml"):
        meta = tiny.algo(name, family)
        _, metrics = jax.eval_shape(meta.update, jax.eval_shape(meta.init, jax.random.key(0)))
        sizes[name] = "memory_bytes" in metrics
    assert sizes == {"rl2-transformer": True, "rl2-s5": True, "rl2": True, "maml": False}
    learner = tiny.algo("rl2-transformer", family).learner
    params = jax.eval_shape(learner.init, jax.random.key(0))
    assert jm.core.rollout.carry_bytes(learner, params) == 4 * (2 * 3 * 8 // 2 + 1)
