"""The numbers of the table of decision-pretrained transformers."""

from __future__ import annotations

import types

import jax
import numpy as np
import pytest

import jaxmeta as jm
from jaxmeta.reproduce import dpt


def test_the_exact_posterior_has_no_divergence_from_itself_and_a_wrong_policy_has():
    family, key = jm.tasks.bandit(jm.tasks.BanditConfig(num_arms=dpt.ARMS, num_pulls=dpt.PULLS)), jax.random.key(0)
    bandits = jm.references.bandits
    exact = dpt._inference(bandits.probability_matching(dpt.ARMS), family, 100)((), key)
    chance = dpt._inference(bandits.random(dpt.ARMS), family, 100)((), key)
    assert 0 <= exact["KL"] < 1e-5 < 0.1 < chance["KL"]
    # 50 pulls of a random arm lose 50 (5/6 - 1/2) in expectation; equal keys give equal tasks
    assert chance["regret sampled"] == pytest.approx(50 / 3, abs=2.5)
    assert exact["regret by mode"] < exact["regret sampled"] < 0.5 * chance["regret sampled"]


def test_halves_and_shares():
    returns = np.array([[1.0, 2.0, 4.0, 6.0], [1.0, 2.0, 6.0, 8.0]])[:, None, None]
    report = types.SimpleNamespace(returns=returns)
    assert dpt.half(report)["mean"] == 6.0 and dpt.first(report)["mean"] == 1.0
    required = dpt.Share(other="known", share=0.9)
    row = {"ours": 9.5, "platform": "cpu", "optimum": None}
    assert required.judge(row, {}) == {"required": None, "met": None}
    assert required.judge(row, {"known": {"ours": 10.0}}) == {"required": {"mean": [9.0, None]}, "met": True}
    assert not required.judge(row, {"known": {"ours": 11.0}})["met"]
